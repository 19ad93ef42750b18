/** Both ends of --coalesce, where they were asked for: CPU against latency. */
import type { BenchResults, RunSummary } from '../results.ts';
import { figure, formatKnown, formatNumber, formatRatio, formatShare, formatTime, text } from './section.ts';
import type { Finding, Section } from './section.ts';

export function dialSection({ dial, plan }: BenchResults): Section[] {
  const [first] = dial.settings;
  if (first === undefined) return [];
  return [
    {
      title: 'The dial between latency and CPU',
      findings: dial.settings.slice(1).flatMap((setting) => finding(setting, first)),
      tables: [
        {
          caption: `${formatNumber(plan.players)} players; CPU in µs for each delivered datagram`,
          columns: [
            text('engine and setting'),
            ...['process CPU', 'machine CPU', 'p50, µs', 'p99, µs', 'p99.9, µs', 'loss', 'wrong server'].map(
              figure,
            ),
          ],
          rows: dial.settings.map((setting) => [
            setting.name,
            formatKnown(setting.processCpuUsPerDatagram?.total, 2),
            formatNumber(setting.machineCpuUsPerDatagram, 2),
            formatTime(setting.roundTripUs.p50),
            formatTime(setting.roundTripUs.p99),
            formatTime(setting.roundTripUs.p999),
            formatShare(setting.loss),
            formatNumber(setting.wrongServer),
          ]),
        },
      ],
      plots: [],
      method:
        'With --coalesce the relay lets datagrams gather for that many microseconds before it takes them: fewer system calls, ' +
        'later answers. The settings take turns in rounds, as the routes above do.',
    },
  ];
}

function finding(setting: RunSummary, first: RunSummary): Finding[] {
  const [own, other] = [setting.processCpuUsPerDatagram, first.processCpuUsPerDatagram];
  if (own === undefined || other === undefined) return [];
  return [
    {
      kind: 'note',
      text:
        `${setting.name} against ${first.name}: process CPU ${formatRatio(own.total / other.total)}, ` +
        `p50 round trip ${formatRatio(setting.roundTripUs.p50 / first.roundTripUs.p50)}.`,
    },
  ];
}
