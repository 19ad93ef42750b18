import { describe, expect, it } from 'vitest';
import type { LadderResult, LoadRun } from '../../../bench/results.ts';
import { rankLadders, rankRuns } from '../../../bench/standings.ts';
import { fixtureRun } from './results-fixture.ts';

const ROUTES = ['mmsg', 'dgram', 'nginx'];

/** One run for each route in each round; `us` are CPU times by route, one for each round. */
function rounds(us: Readonly<Record<string, readonly number[]>>, changes: Partial<LoadRun> = {}): LoadRun[] {
  return Object.entries(us).flatMap(([route, times]) =>
    times.map((totalUs, i) =>
      fixtureRun({
        route,
        round: i + 1,
        deliveredBetweenReadings: 100,
        processCpu: { totalUs, userUs: 0, systemUs: totalUs },
        ...changes,
      }),
    ),
  );
}

const rank = (runs: readonly LoadRun[], figure: string, machineIsShared = false) =>
  rankRuns(runs, { routes: ROUTES, machineIsShared }).find((standing) => standing.figure === figure)!;

describe('the standings', () => {
  it('take the median of the ratios of paired rounds, not the ratio of medians', () => {
    // Each round is a different machine: the medians are equal, but in two rounds of three mmsg needs half.
    const runs = rounds({ mmsg: [100, 400, 200], nginx: [200, 100, 400], dgram: [900, 900, 900] });
    const standing = rank(runs, 'process CPU');
    expect(standing.values).toEqual({ mmsg: 2, dgram: 9, nginx: 2 });
    expect(standing.ratios['nginx']).toBe(0.5);
    expect(standing.ratios['dgram']).toBeCloseTo(2 / 9);
  });

  it('name the winner, also when it is a rival', () => {
    const standing = rank(rounds({ mmsg: [300, 300], dgram: [900, 900], nginx: [200, 200] }), 'process CPU');
    expect(standing).toMatchObject({ winners: ['nginx'], undecided: undefined });
    expect(standing.ratios['nginx']).toBe(1.5);
  });

  it('do not compare the process of an engine that works in the kernel', () => {
    const runs = rounds({ kernel: [1, 1], mmsg: [300, 300], nginx: [900, 900] });
    const standings = rankRuns(runs, { routes: ['kernel', 'mmsg', 'nginx'], machineIsShared: false });
    const standing = standings.find(({ figure }) => figure === 'process CPU')!;
    expect(standing).toMatchObject({ values: { mmsg: 3, nginx: 9 }, winners: ['mmsg'], ratios: {} });
    const alone = rankRuns(runs, { routes: ['kernel', 'mmsg'], machineIsShared: false });
    expect(alone.map(({ figure }) => figure)).not.toContain('process CPU');
    expect(alone.map(({ figure }) => figure)).toContain('machine CPU');
  });

  it('call figures even that differ by less than 3 %', () => {
    const runs = rounds({ mmsg: [1_020, 1_020], dgram: [5_000, 5_000], nginx: [1_000, 1_000] });
    expect(rank(runs, 'process CPU').winners).toEqual(['mmsg', 'nginx']);
  });

  it('compare lost updates as counts over all rounds', () => {
    const runs = [
      ...rounds({ mmsg: [1, 1] }, { lost: 0 }),
      ...rounds({ nginx: [1, 1] }, { lost: 4 }),
      ...rounds({ dgram: [1, 1] }, { lost: 0 }),
    ];
    expect(rank(runs, 'updates lost')).toMatchObject({
      values: { mmsg: 0, dgram: 0, nginx: 8 },
      winners: ['mmsg', 'dgram'],
      ratios: { dgram: undefined, nginx: undefined },
    });
  });

  it('leave rounds out of the round trips in which the generator was the limit', () => {
    const runs = rounds({ mmsg: [1, 1], dgram: [1, 1], nginx: [1, 1] }).map((run) => {
      const slow = { p50: 900, p90: 900, p99: 900, p999: 900, max: 900 };
      return run.route === 'mmsg' && run.round === 1
        ? { ...run, roundTripUs: slow, generatorLimit: 'too slow' }
        : run;
    });
    expect(rank(runs, 'p50')).toMatchObject({ winners: ROUTES, ratios: { nginx: 1 } });
  });

  it('leave round trips open when the generator was always the limit, and CPU decided', () => {
    const runs = rounds({ mmsg: [1], dgram: [3], nginx: [2] }, { generatorLimit: 'too slow' });
    expect(rank(runs, 'p99')).toMatchObject({ winners: [], undecided: 'the load generator was the limit' });
    expect(rank(runs, 'process CPU').winners).toEqual(['mmsg']);
  });

  it("leave the machine's CPU open when others used the machine", () => {
    const runs = rounds({ mmsg: [1], dgram: [3], nginx: [2] });
    expect(rank(runs, 'machine CPU', true).undecided).toBe('other programs used the machine');
    expect(rank(runs, 'machine CPU', false).undecided).toBeUndefined();
  });

  it('are silent about figures that only one route has', () => {
    const runs = [...rounds({ mmsg: [1] }), ...rounds({ dgram: [1], nginx: [1] }, { processCpu: undefined })];
    expect(rank(runs, 'process CPU')).toMatchObject({ winners: [], undecided: 'the system does not say' });
  });

  it('need two relays', () => {
    expect(rankRuns(rounds({ mmsg: [1] }), { routes: ['mmsg'], machineIsShared: false })).toEqual([]);
  });
});

describe('the standings of the ladder', () => {
  const climbed = (route: string, mostPlayers: number, end: LadderResult['end']): LadderResult => ({
    route,
    mostPlayers,
    end,
    steps: [{ passed: true, run: fixtureRun({ route, players: mostPlayers }) }],
  });

  it('compare what each carried before it failed', () => {
    const ladders = [
      climbed('mmsg', 600, 'failed'),
      climbed('dgram', 200, 'failed'),
      climbed('nginx', 800, 'failed'),
    ];
    expect(rankLadders(ladders, ROUTES)).toMatchObject([
      { winners: ['nginx'], undecided: undefined, ratios: { dgram: 3, nginx: 0.75 } },
    ]);
  });

  it('let a route win whose own limit was not found, without a ratio', () => {
    const ladders = [climbed('mmsg', 600, 'generator'), climbed('dgram', 200, 'failed')];
    expect(rankLadders(ladders, ROUTES)).toMatchObject([{ winners: ['mmsg'], ratios: { dgram: undefined } }]);
  });

  it('are open when a route that is not ahead alone had no limit', () => {
    const ladders = [climbed('mmsg', 600, 'generator'), climbed('nginx', 600, 'generator')];
    expect(rankLadders(ladders, ROUTES)).toMatchObject([
      { winners: [], undecided: 'no limit was found for mmsg, nginx' },
    ]);
  });

  it('leave out who was not measured', () => {
    const ladders = [climbed('mmsg', 600, 'failed'), { ...climbed('nginx', 0, 'budget'), steps: [] }];
    expect(rankLadders(ladders, ROUTES)).toEqual([]);
  });
});
