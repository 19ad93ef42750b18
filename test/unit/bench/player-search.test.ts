import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { passesBy } from '../../../bench/most-players.ts';
import { bracket, nextLoad, type Trial } from '../../../bench/player-search.ts';
import { renderMostPlayersReport } from '../../../bench/report/report.ts';
import type { MostPlayersResults } from '../../../bench/results.ts';
import { fixtureRun, fixtureSoak } from './results-fixture.ts';

const BOUNDS = { first: 100, top: 1_600 };

/** Searches with a machine that answers `passes`. */
function search(passes: (players: number, attempt: number) => boolean, bounds = BOUNDS): Trial[] {
  const trials: Trial[] = [];
  for (let players = nextLoad(trials, bounds); players !== undefined; players = nextLoad(trials, bounds)) {
    const attempt = trials.filter((trial) => trial.players === players).length;
    trials.push({ players, passed: passes(players, attempt) });
    if (trials.length > 100) throw new Error('the search does not end');
  }
  return trials;
}

describe('the search for the most players', () => {
  it('doubles, tries a failing load twice, then halves the gap', () => {
    const trials = search((players) => players <= 430);
    expect(trials.map(({ players, passed }) => `${players} ${passed ? '+' : '-'}`)).toEqual([
      '100 +',
      '200 +',
      '400 +',
      '800 -',
      '800 -',
      '600 -',
      '600 -',
      '500 -',
      '500 -',
      '450 -',
      '450 -',
      '430 +',
    ]);
    expect(bracket(trials)).toEqual({ passed: 430, failed: 450 });
  });

  it('forgives one bad moment at each load', () => {
    expect(bracket(search((players, attempt) => players <= 430 && attempt > 0)).passed).toBe(430);
  });

  it('ends at the top, or at none', () => {
    expect(bracket(search(() => true))).toEqual({ passed: 1_600, failed: Infinity });
    expect(bracket(search(() => false)).passed).toBe(0);
  });

  it('ends within 5 % or 10 players of any limit, in few runs', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 1_600 }), (limit) => {
        const trials = search((players) => players <= limit);
        const { passed, failed } = bracket(trials);
        expect(passed).toBeLessThanOrEqual(limit);
        expect(failed).toBeGreaterThan(limit);
        if (failed !== Infinity) expect(failed - passed).toBeLessThanOrEqual(Math.max(20, 0.05 * passed));
        expect(trials.length).toBeLessThanOrEqual(18);
      }),
    );
  });

  it('ends whatever the machine answers', () => {
    fc.assert(
      fc.property(
        fc.infiniteStream(fc.boolean()),
        (answers) => void search(() => answers.next().value as boolean),
      ),
    );
  });
});

describe('a load', () => {
  const late = { roundTripUs: { p50: 100, p90: 200, p99: 7_813, p999: 9_000, max: 10_000 } };
  it.each([
    ['what arrives in time', {}, [true, true]],
    ['what arrives late', late, [true, false]],
    ['loss', { loss: 0.001 }, [false, false]],
    ['generators that sent too little', { offeredPerSecond: 1_000, achievedPerSecond: 989 }, [false, false]],
  ])('passes by loss, by p99: %s', (_, run, passed) => {
    expect((['loss', 'p99'] as const).map((rule) => passesBy(rule, fixtureRun(run), 128))).toEqual(passed);
  });
});

it('the report says how many times as many players the first engine carried', () => {
  const { machine, startedAt, pinning } = fixtureSoak();
  const carried = (name: string, loss: number, p99: number) => ({
    route: { name, kind: name === 'direct' ? ('direct' as const) : ('engine' as const), detail: name },
    byLoss: { players: loss, end: 'failed' as const },
    byP99: { players: p99, end: name === 'mmsg' ? ('generator' as const) : ('failed' as const) },
    runs: [fixtureRun({ route: name, players: loss })],
  });
  const results: MostPlayersResults = {
    ...{ machine, startedAt, pinning, tickHz: 128, top: 1_600, durationMs: 2_000, absent: [] },
    carried: [carried('direct', 1_000, 800), carried('mmsg', 600, 500), carried('dgram', 250, 200)],
  };
  const { text, html } = renderMostPlayersReport(results);
  expect(text).toContain('by loss: mmsg carried 600, dgram 250, 2.4 times as many.');
  expect(text).toContain(
    'by loss and p99: mmsg carried at least 500, dgram 200, at least 2.5 times as many.',
  );
  expect(html).toContain('The most players of each route');
});
