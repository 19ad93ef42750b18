/** What each route adds to a round trip. */
import type { LatencyResults } from '../latency/latency-results.ts';
import { DIRECT } from '../results.ts';
import { figure, formatNumber, formatRatio, text, type Section } from './section.ts';
import { describePinning, setupTable } from './setup-table.ts';

export function latencySection({ routes, absent, machine, ...run }: LatencyResults): Section {
  const direct = routes.find(({ name }) => name === DIRECT)!;
  const lost = routes.reduce((sum, route) => sum + route.lost, 0);
  return {
    title: `Round trips, one datagram in flight: ${run.site}`,
    findings: [
      ...routes
        .filter((route) => route !== direct)
        .map(({ name, overDirectUs, p50 }) => ({
          kind: 'note' as const,
          text:
            `${name}: the median is ${formatNumber(overDirectUs, 2)} us over direct, ` +
            `${formatRatio(p50 / direct.p50)} of it.`,
        })),
      ...(lost === 0
        ? []
        : [
            {
              kind: 'bad' as const,
              text: `${formatNumber(lost)} datagrams were not answered within 200 ms.`,
            },
          ]),
    ],
    tables: [
      {
        caption: 'Round trip in us, medians over the rounds',
        columns: [text('route'), ...['p50', 'over direct', 'p90', 'p99', 'round trips', 'lost'].map(figure)],
        rows: routes.map(({ name, p50, overDirectUs, p90, p99, answered, lost: own }) => [
          name,
          ...[p50, overDirectUs, p90, p99].map((us) => formatNumber(us, 2)),
          formatNumber(answered),
          formatNumber(own),
        ]),
      },
      setupTable({
        machine,
        startedAt: run.startedAt,
        rows: [
          ['network', run.site],
          ['rounds', `${run.rounds}, ${formatNumber(run.runMs)} ms for each route`],
          ...run.infos.map(({ name, detail }) => [`route ${name}`, detail] as const),
          ...absent.map(({ name, reason }) => [`absent: ${name}`, reason] as const),
          ['processors', describePinning(run.pinning)],
        ],
      }),
    ],
    plots: [],
    method:
      'A client and a server that wait in blocking system calls send one datagram of 14 bytes to and fro; each is sent when the one ' +
      'before it was answered. The routes take turns; "over direct" is the median over the rounds of the difference between ' +
      'medians of one round.',
  };
}
