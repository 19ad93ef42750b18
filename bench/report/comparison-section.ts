/** The main question: what does the relay cost a player, and does it lose anybody's updates? */
import { SHARED_MACHINE } from '../machine.ts';
import {
  DIRECT,
  type BenchResults,
  type LoadComparison,
  type LoadRun,
  type Pinning,
  type RunSummary,
} from '../results.ts';
import { describeRelayCpu } from '../pinning.ts';
import { mergeHistograms } from '../summary.ts';
import { percentilePlot } from './percentile-plot.ts';
import { figure, formatKnown, formatNumber, formatRatio, formatShare, formatTime, text } from './section.ts';
import type { Finding, Plot, Section, Table } from './section.ts';

/** One section for each load. */
export function comparisonSections(results: BenchResults): Section[] {
  return results.comparison.loads.map((load) => loadSection(load, results));
}

function loadSection({ players, routes }: LoadComparison, results: BenchResults): Section {
  const { comparison, plan, machine } = results;
  const runs = comparison.runs.filter((run) => run.players === players);
  const isFirst = comparison.loads[0]!.players === players;
  const baseline = routes.find(({ name }) => name === DIRECT);
  return {
    title: `${formatNumber(players)} players at ${plan.tickHz} Hz: direct and relayed`,
    findings: [
      ...routes.map(deliveryFinding),
      ...routes.flatMap((route) => costFinding(route, baseline)),
      generatorFinding(
        routes,
        runs.find(({ generatorLimit }) => generatorLimit !== undefined)?.generatorLimit,
      ),
      ...(isFirst ? backgroundFinding(machine.busyBefore) : []),
    ],
    tables: [
      roundTripTable(routes, baseline),
      lossTable(routes),
      rateTable(routes),
      cpuTable(routes, baseline),
    ],
    plots: [curves({ routes, runs }, plan.tickHz)],
    method: isFirst ? method(results) : 'Measured as above.',
  };
}

function method({ plan, comparison }: BenchResults): string {
  return (
    `Game servers, relay and players are separate processes on one machine and speak UDP over loopback. The routes take ` +
    `turns, ${countRounds(comparison.runs)} of ${formatNumber(plan.comparisonMs / 1000, 1)} s each, after a warm-up that is not counted; a figure is the ` +
    `median over the rounds, the curves and the loss are over all rounds together. ${pinningSentence(plan.pinning)} A round trip begins when an update ` +
    `was due, not when it was sent, so a late generator makes the figures worse, never better. A delivered datagram is an ` +
    `update that was answered, or its answer. Process CPU is the time that all threads and ` +
    `processes of the relay or peer ran, divided by the delivered datagrams; its division into user and system time is the kernel's, ` +
    `sampled, over all rounds together. Machine CPU is the busy time of all processors, players ` +
    `and game servers included, divided by the delivered datagrams. Buffer overflows are datagrams that found a full receive ` +
    `buffer anywhere on the machine, as the system counts them.`
  );
}

/** Those that were run: `3 rounds`. */
export function countRounds(runs: readonly LoadRun[]): string {
  const rounds = Math.max(...runs.map(({ round }) => round));
  return rounds === 1 ? 'one round' : `${rounds} rounds`;
}

export function pinningSentence(pinning: Pinning | undefined): string {
  return pinning === undefined
    ? 'Every process ran on any processor.'
    : `The relay or peer ran on processor ${describeRelayCpu(pinning)} only, players and game servers on ${pinning.loadCpus.join(', ')} only.`;
}

function deliveryFinding({ name, sent, lost, loss, wrongServer }: RunSummary): Finding {
  if (lost === 0 && wrongServer === 0) {
    return {
      kind: 'good',
      text: `${name}: all ${formatNumber(sent)} updates were answered, none by a wrong server.`,
    };
  }
  const faults = [
    ...(lost > 0
      ? [`${formatNumber(lost)} of ${formatNumber(sent)} updates were LOST (${formatShare(loss)})`]
      : []),
    ...(wrongServer > 0 ? [`${formatNumber(wrongServer)} world states came from a WRONG SERVER`] : []),
  ];
  return { kind: 'bad', text: `${name}: ${faults.join('; ')}.` };
}

function costFinding(route: RunSummary, baseline: RunSummary | undefined): Finding[] {
  if (baseline === undefined || route === baseline) return [];
  const { roundTripUs: with_ } = route;
  const { roundTripUs: without } = baseline;
  const change = (pick: 'p50' | 'p99'): string =>
    `${pick} ${formatTime(with_[pick])} µs against ${formatTime(without[pick])} µs (${formatRatio(with_[pick] / without[pick])})`;
  return [note(`${route.name} against ${DIRECT}, round trip: ${change('p50')}, ${change('p99')}.`)];
}

function generatorFinding(routes: readonly RunSummary[], reason: string | undefined): Finding {
  const limited = routes.reduce((sum, route) => sum + route.generatorLimited, 0);
  const runs = routes.reduce((sum, route) => sum + route.runs, 0);
  const lag = Math.max(...routes.map(({ sendLagP99Us }) => sendLagP99Us));
  if (limited > 0) {
    return {
      kind: 'bad',
      text: `The load generator was a bottleneck in ${limited} of ${runs} runs (${reason ?? 'no reason given'}): the figures show its limits too.`,
    };
  }
  return note(
    `The load generator kept up in all ${runs} runs; it sent at most ${formatTime(lag)} µs late at p99.`,
  );
}

/** What others use of the machine is in every figure. */
function backgroundFinding(busyBefore: number): Finding[] {
  if (busyBefore < 0.05) return [];
  const found = `Before any load began, others used ${formatShare(busyBefore)} of the CPU time`;
  return [
    busyBefore < SHARED_MACHINE
      ? note(`${found}: on a quiet machine the figures are better.`)
      : {
          kind: 'bad',
          text: `${found}: these figures say little about the relay. Repeat the run on a quiet machine.`,
        },
  ];
}

function roundTripTable(routes: readonly RunSummary[], baseline: RunSummary | undefined): Table {
  const percentiles = ['p50', 'p90', 'p99', 'p999', 'max'] as const;
  const rows = routes.map(({ name, roundTripUs }) => [
    name,
    ...percentiles.map((pick) => formatTime(roundTripUs[pick])),
  ]);
  const ratios = routes
    .filter((route) => baseline !== undefined && route !== baseline)
    .map(({ name, roundTripUs }) => [
      `${name} / ${DIRECT}`,
      ...percentiles.map((pick) => formatRatio(roundTripUs[pick] / Math.max(1, baseline!.roundTripUs[pick]))),
    ]);
  return {
    caption: 'Round trip, in µs',
    columns: [text('route'), ...['p50', 'p90', 'p99', 'p99.9', 'max'].map(figure)],
    rows: [...rows, ...ratios],
  };
}

function rateTable(routes: readonly RunSummary[]): Table {
  return {
    caption: 'Rates, for each second',
    columns: [
      text('route'),
      ...['updates offered', 'updates sent', 'datagrams delivered', 'generator lag p99, µs'].map(figure),
    ],
    rows: routes.map((route) => [
      route.name,
      formatNumber(route.offeredPerSecond),
      formatNumber(route.achievedPerSecond),
      formatNumber(route.deliveredPerSecond),
      formatTime(route.sendLagP99Us),
    ]),
  };
}

function lossTable(routes: readonly RunSummary[]): Table {
  return {
    caption: 'Delivery, over all rounds',
    columns: [
      text('route'),
      ...['updates sent', 'lost', 'loss', 'wrong server', 'dropped by relay', 'buffer overflows'].map(figure),
    ],
    rows: routes.map((route) => [
      route.name,
      formatNumber(route.sent),
      formatNumber(route.lost),
      formatShare(route.loss),
      formatNumber(route.wrongServer),
      formatKnown(route.droppedByRelay),
      formatKnown(route.bufferOverflows),
    ]),
  };
}

function cpuTable(routes: readonly RunSummary[], baseline: RunSummary | undefined): Table {
  return {
    caption: 'CPU, in µs for each delivered datagram',
    columns: [
      text('route'),
      ...['process', 'user', 'system', 'whole machine', `machine / ${DIRECT}`].map(figure),
    ],
    rows: routes.map((route) => [
      route.name,
      formatKnown(route.processCpuUsPerDatagram?.total, 2),
      formatKnown(route.processCpuUsPerDatagram?.user, 2),
      formatKnown(route.processCpuUsPerDatagram?.system, 2),
      formatNumber(route.machineCpuUsPerDatagram, 2),
      baseline === undefined
        ? '-'
        : formatRatio(route.machineCpuUsPerDatagram / baseline.machineCpuUsPerDatagram),
    ]),
  };
}

function curves(
  { routes, runs }: { readonly routes: readonly RunSummary[]; readonly runs: readonly LoadRun[] },
  tickHz: number,
): Plot {
  return percentilePlot('Round trip by percentile, direct and relayed, log scales on both axes', {
    tickHz,
    curves: routes.map(({ name }) => ({
      name,
      histogram: mergeHistograms(
        runs.filter(({ route }) => route === name).map((run) => run.roundTripHistogram),
      ),
    })),
  });
}

function note(said: string): Finding {
  return { kind: 'note', text: said };
}
