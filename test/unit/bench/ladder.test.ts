import { describe, expect, it } from 'vitest';
import { climb } from '../../../bench/ladder.ts';
import { fixtureRun } from './results-fixture.ts';
import type { LadderResult, LoadRun } from '../../../bench/results.ts';

/** Climbs 50, 100, 150; `outcomes` are the runs in the order in which they are asked for. */
async function climbThrough(outcomes: readonly Partial<LoadRun>[], hasTime = (): boolean => true) {
  const left = [...outcomes];
  const [result] = await climb({
    routes: ['mmsg'],
    steps: [50, 100, 150],
    tickHz: 128,
    compared: [],
    hasTime,
    measure: (route, players) => Promise.resolve(fixtureRun({ ...left.shift(), route, players })),
  });
  return show(result!);
}

function show({ mostPlayers, end, steps }: LadderResult) {
  return {
    mostPlayers,
    end,
    taken: steps.map(({ run, passed }) => `${run.players} ${passed ? 'passed' : 'failed'}`),
  };
}

const good = {};
const lossy = { loss: 0.001 };
const late = { roundTripUs: { p50: 100, p90: 200, p99: 7_813, p999: 9_000, max: 10_000 } };

describe('the ladder', () => {
  it('ends at the top when every step passes', async () => {
    expect(await climbThrough([good, good, good])).toEqual({
      mostPlayers: 150,
      end: 'top',
      taken: ['50 passed', '100 passed', '150 passed'],
    });
  });

  it('ends at the first step that fails twice, by loss or by p99', async () => {
    expect(await climbThrough([good, lossy, late])).toEqual({
      mostPlayers: 50,
      end: 'failed',
      taken: ['50 passed', '100 failed', '100 failed'],
    });
  });

  it('goes on when a failing step passes at its repetition', async () => {
    expect(await climbThrough([good, late, good, good])).toEqual({
      mostPlayers: 150,
      end: 'top',
      taken: ['50 passed', '100 failed', '100 passed', '150 passed'],
    });
  });

  it('says that the generator was the limit when it was both times', async () => {
    const limited = { ...late, generatorLimit: 'it sent at 80 % of the rate' };
    expect(await climbThrough([good, limited, limited])).toMatchObject({ mostPlayers: 50, end: 'generator' });
    expect(await climbThrough([good, late, limited])).toMatchObject({ mostPlayers: 50, end: 'failed' });
  });

  it('takes no further step without time', async () => {
    const answers = [true, true, false];
    expect(await climbThrough([good, good], () => answers.shift() ?? false)).toEqual({
      mostPlayers: 100,
      end: 'budget',
      taken: ['50 passed', '100 passed'],
    });
  });

  it('lets the routes climb together', async () => {
    const asked: string[] = [];
    const results = await climb({
      routes: ['mmsg', 'dgram', 'nginx'],
      steps: [50, 100],
      tickHz: 128,
      compared: [],
      hasTime: () => true,
      measure: (route, players) => {
        asked.push(`${route} ${players}`);
        return Promise.resolve(fixtureRun({ route, players, ...(route === 'dgram' ? lossy : good) }));
      },
    });
    expect(asked).toEqual(['mmsg 50', 'dgram 50', 'nginx 50', 'dgram 50', 'mmsg 100', 'nginx 100']);
    expect(results.map(({ route, mostPlayers, end }) => [route, mostPlayers, end])).toEqual([
      ['mmsg', 100, 'top'],
      ['dgram', 0, 'failed'],
      ['nginx', 100, 'top'],
    ]);
  });

  it('gives every route its first try before any has a second', async () => {
    let left = 3;
    const results = await climb({
      routes: ['mmsg', 'dgram'],
      steps: [50, 100],
      tickHz: 128,
      compared: [],
      hasTime: () => left-- > 0,
      measure: (route, players) =>
        Promise.resolve(fixtureRun({ route, players, ...(route === 'mmsg' ? late : good) })),
    });
    expect(results.map(show)).toEqual([
      { mostPlayers: 0, end: 'failed', taken: ['50 failed', '50 failed'] },
      { mostPlayers: 50, end: 'budget', taken: ['50 passed'] },
    ]);
  });

  it('takes a load of the comparison as climbed when every round passed there', async () => {
    const asked: string[] = [];
    const round = (route: string, players: number, changes: Partial<LoadRun>) =>
      fixtureRun({ route, players, ...changes });
    const results = await climb({
      routes: ['mmsg', 'dgram'],
      steps: [50, 100, 150, 300, 400],
      tickHz: 128,
      compared: [
        round('mmsg', 100, good),
        round('dgram', 100, good),
        round('mmsg', 300, good),
        round('dgram', 300, good),
        round('mmsg', 300, good),
        round('dgram', 300, lossy),
      ],
      hasTime: () => true,
      measure: (route, players) => {
        asked.push(`${route} ${players}`);
        return Promise.resolve(fixtureRun({ route, players }));
      },
    });
    expect(asked).toEqual(['dgram 150', 'dgram 300', 'mmsg 400', 'dgram 400']);
    expect(results.map((result) => show(result).taken)).toEqual([
      ['100 passed', '300 passed', '400 passed'],
      ['100 passed', '150 passed', '300 passed', '400 passed'],
    ]);
  });
});
