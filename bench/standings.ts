/**
 * Who won what. A figure of two routes is compared round by round, since both met the same moment of the machine in a round,
 * and the median of the ratios counts. Leads too small to mean anything are called even. Where the load generator was the
 * limit, nobody wins by round trips.
 */
import type { LadderResult, LoadRun, Standing } from './results.ts';
import { median } from './stopwatch.ts';

/** Figures closer than this are even. */
export const EVEN_RATIO = 1.03;

interface Figure {
  readonly name: string;
  readonly of: (run: LoadRun) => number | undefined;
  /** Counts are summed over all rounds and compared as they are; the others are compared by paired ratios. */
  readonly isCount?: true;
  /** Whether a slow generator is part of the figure. */
  readonly isTimed?: true;
  /** Whether other programs on the machine are part of the figure. */
  readonly isShared?: true;
  /** Whether the figure is of the relay's process, in which the engine `kernel` does none of the work. */
  readonly isOfProcess?: true;
}

const FIGURES: readonly Figure[] = [
  {
    name: 'process CPU',
    of: ({ processCpu, deliveredBetweenReadings }) =>
      processCpu && processCpu.totalUs / deliveredBetweenReadings,
    isOfProcess: true,
  },
  { name: 'machine CPU', of: (run) => run.machineCpuUsPerDatagram, isShared: true },
  { name: 'updates lost', of: ({ lost }) => lost, isCount: true },
  { name: 'wrong server', of: ({ wrongServer }) => wrongServer, isCount: true },
  { name: 'p50', of: ({ roundTripUs }) => roundTripUs.p50, isTimed: true },
  { name: 'p90', of: ({ roundTripUs }) => roundTripUs.p90, isTimed: true },
  { name: 'p99', of: ({ roundTripUs }) => roundTripUs.p99, isTimed: true },
  { name: 'p99.9', of: ({ roundTripUs }) => roundTripUs.p999, isTimed: true },
];

export interface RankOptions {
  /** Relays and peers in order; the first is set against each other one. */
  readonly routes: readonly string[];
  /** Whether other programs used so much of the machine that its CPU time says nothing. */
  readonly machineIsShared: boolean;
}

/** @param runs of one load */
export function rankRuns(runs: readonly LoadRun[], { routes, machineIsShared }: RankOptions): Standing[] {
  if (routes.length < 2) return [];
  const limited = new Set(
    runs.filter(({ generatorLimit }) => generatorLimit !== undefined).map(({ round }) => round),
  );
  const fair = runs.filter(({ round }) => !limited.has(round));
  return FIGURES.flatMap((figure) => {
    if (figure.isCount) return rankCounts(figure, runs, routes);
    const measured = figure.isOfProcess ? routes.filter((route) => !isInKernel(route)) : routes;
    if (measured.length < 2) return [];
    const ranked = rankPaired(figure, figure.isTimed && fair.length > 0 ? fair : runs, measured);
    // Ratios are the first route's.
    const standing = measured[0] === routes[0] ? ranked : { ...ranked, ratios: {} };
    if (figure.isTimed && fair.length === 0) return undecided(standing, 'the load generator was the limit');
    if (figure.isShared && machineIsShared) return undecided(standing, 'other programs used the machine');
    return standing;
  });
}

/** Who carried most players. A climb that did not end by the route's own failure leaves open how far it would go. */
export function rankLadders(ladders: readonly LadderResult[], routes: readonly string[]): Standing[] {
  const own = routes
    .flatMap((route) => ladders.find((ladder) => ladder.route === route) ?? [])
    .filter(({ steps }) => steps.length > 0);
  const [lead, ...rivals] = own;
  if (lead === undefined || rivals.length === 0) return [];
  const most = Math.max(...own.map(({ mostPlayers }) => mostPlayers));
  const best = own.filter(({ mostPlayers }) => mostPlayers === most);
  const isOpen = ({ end }: LadderResult): boolean => end !== 'failed';
  const standing: Standing = {
    figure: 'most players',
    values: Object.fromEntries(own.map(({ route, mostPlayers }) => [route, mostPlayers])),
    winners: best.map(({ route }) => route),
    undecided: undefined,
    ratios: Object.fromEntries(
      rivals.map((rival) => {
        const isKnown = !isOpen(lead) && !isOpen(rival) && rival.mostPlayers > 0;
        return [rival.route, isKnown ? lead.mostPlayers / rival.mostPlayers : undefined];
      }),
    ),
  };
  // Who alone is ahead has won, however much further it would go; whoever else had no limit might yet overtake.
  const couldOvertake = own.filter((ladder) => isOpen(ladder) && !(best.length === 1 && ladder === best[0]));
  return couldOvertake.length === 0
    ? [standing]
    : [undecided(standing, `no limit was found for ${couldOvertake.map(({ route }) => route).join(', ')}`)];
}

function rankCounts(figure: Figure, runs: readonly LoadRun[], routes: readonly string[]): Standing {
  const totals = routes.map((route) => {
    const own = runs.filter((run) => run.route === route);
    return own.reduce((sum, run) => sum + (figure.of(run) ?? 0), 0);
  });
  const least = Math.min(...totals);
  const [lead] = totals;
  return {
    figure: figure.name,
    values: Object.fromEntries(routes.map((route, i) => [route, totals[i]])),
    winners: routes.filter((_, i) => totals[i] === least),
    undecided: undefined,
    ratios: Object.fromEntries(
      routes
        .slice(1)
        .map((route, i) => [route, lead! > 0 && totals[i + 1]! > 0 ? lead! / totals[i + 1]! : undefined]),
    ),
  };
}

function rankPaired(figure: Figure, runs: readonly LoadRun[], routes: readonly string[]): Standing {
  const known = routes.flatMap((route) => {
    const values = valuesOf(figure, runs, route);
    return values.length === 0 ? [] : [{ route, value: median(values) }];
  });
  const values = Object.fromEntries(known.map(({ route, value }) => [route, value]));
  if (known.length < 2) {
    return { figure: figure.name, values, winners: [], undecided: 'the system does not say', ratios: {} };
  }
  const best = known.reduce((least, each) => (each.value < least.value ? each : least));
  const isEven = (route: string): boolean =>
    (pairedRatio(figure, runs, [route, best.route]) ?? 1) < EVEN_RATIO;
  const [lead, ...rivals] = routes;
  return {
    figure: figure.name,
    values,
    winners: known.filter((each) => each === best || isEven(each.route)).map(({ route }) => route),
    undecided: undefined,
    ratios: Object.fromEntries(rivals.map((rival) => [rival, pairedRatio(figure, runs, [lead!, rival])])),
  };
}

function valuesOf(figure: Figure, runs: readonly LoadRun[], route: string): number[] {
  return runs.filter((run) => run.route === route).flatMap((run) => figure.of(run) ?? []);
}

/** Median over the rounds of one route's figure divided by the other's. */
function pairedRatio(
  figure: Figure,
  runs: readonly LoadRun[],
  [over, under]: readonly [string, string],
): number | undefined {
  const ratios = runs
    .filter(({ route }) => route === over)
    .flatMap((run) => {
      const pair = runs.find(({ route, round }) => route === under && round === run.round);
      const [a, b] = [figure.of(run), pair && figure.of(pair)];
      return a === undefined || b === undefined || b <= 0 ? [] : [a / b];
    });
  return ratios.length === 0 ? undefined : median(ratios);
}

function undecided(standing: Standing, reason: string): Standing {
  return { ...standing, winners: [], undecided: reason };
}

/** @param route its name: an engine with its further flags, or a peer */
function isInKernel(route: string): boolean {
  return route.split(' ')[0] === 'kernel';
}
