import { describe, expect, it } from 'vitest';
import { climb } from '../../../bench/ladder.ts';
import { fixtureRun } from './results-fixture.ts';
import type { LoadRun } from '../../../bench/results.ts';

/** Climbs 50, 100, 150; `outcomes` are the runs in the order in which they are asked for. */
async function climbThrough(outcomes: readonly Partial<LoadRun>[], hasTime = (): boolean => true) {
  const left = [...outcomes];
  const result = await climb({
    route: 'relay',
    steps: [50, 100, 150],
    tickHz: 128,
    hasTime,
    measure: (players) => Promise.resolve(fixtureRun({ ...left.shift(), players })),
  });
  return {
    mostPlayers: result.mostPlayers,
    end: result.end,
    taken: result.steps.map(({ run, passed }) => `${run.players} ${passed ? 'passed' : 'failed'}`),
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
});
