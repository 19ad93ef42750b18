/** What a long steady load did to the relay process. */
import type { SoakResults, SoakSample } from '../results.ts';
import { axisName, COLOURS, FAINT, renderPlot } from './plot.ts';
import { figure, formatKnown, formatNumber, formatShare, formatTime, text } from './section.ts';
import type { Finding, Plot, Section, Table } from './section.ts';
import { describePinning, setupTable } from './setup-table.ts';

const MIB = 2 ** 20;
/** A slope over less than this says more about the garbage collector than about growth. */
const MEANINGFUL_MS = 300_000;

export function soakSection(results: SoakResults): Section {
  const { run, samples, growth, durationMs, route } = results;
  const seconds = formatNumber(durationMs / 1000, 1);
  return {
    title: `${run.players} players for ${seconds} s: ${route.name}`,
    findings: [deliveryFinding(results), ...growthFindings(results), ...generatorFinding(results)],
    tables: [
      growthTable(results),
      loadTable(results),
      setupTable({
        machine: results.machine,
        startedAt: results.startedAt,
        rows: [
          ['route', route.detail],
          ['processors', describePinning(results.pinning)],
          ['updates a second', formatNumber(run.offeredPerSecond)],
        ],
      }),
    ],
    plots: [
      samplePlot('Resident memory of the relay process, MiB', samples, ({ residentBytes }) =>
        Number((residentBytes / MIB).toFixed(2)),
      ),
      ...(growth.openDescriptors === undefined
        ? []
        : [
            samplePlot(
              'Open descriptors of the relay process',
              samples,
              ({ openDescriptors }) => openDescriptors!,
            ),
          ]),
    ],
    method:
      `The relay's own metrics are read once a second, from the start of the load to its end, ${samples.length} times. The first ` +
      `${formatNumber(growth.settledAtMs / 1000)} s, in which its heap grows to its working size, are left out of the tables' growth. ` +
      `The slope is that of the line with the least squared distance to the samples. Whether it grew is told by the least of the first ` +
      `and of the last third, since a heap rises between its collections.`,
  };
}

function growthTable(results: SoakResults): Table {
  const { growth } = results;
  const { first, last, most } = growth.residentBytes;
  const descriptors = settledDescriptors(results);
  return {
    caption: 'The relay process, once settled',
    columns: [text('what'), ...['first', 'last', 'most', 'an hour'].map(figure)],
    rows: [
      [
        'resident, MiB',
        ...[first, last, most].map((bytes) => formatNumber(bytes / MIB, 1)),
        formatSlope(growth.residentBytesPerHour),
      ],
      [
        'descriptors',
        formatKnown(descriptors[0]),
        formatKnown(descriptors.at(-1)),
        formatKnown(growth.openDescriptors?.most),
        '-',
      ],
    ],
  };
}

function loadTable({ run }: SoakResults): Table {
  return {
    caption: 'The load',
    columns: [
      text('route'),
      ...['updates sent', 'lost', 'wrong server', 'p50, µs', 'p99, µs', 'p99.9, µs', 'process CPU µs'].map(
        figure,
      ),
    ],
    rows: [
      [
        run.route,
        formatNumber(run.sent),
        formatNumber(run.lost),
        formatNumber(run.wrongServer),
        formatTime(run.roundTripUs.p50),
        formatTime(run.roundTripUs.p99),
        formatTime(run.roundTripUs.p999),
        formatKnown(run.processCpu && run.processCpu.totalUs / Math.max(1, run.deliveredBetweenReadings), 2),
      ],
    ],
  };
}

function deliveryFinding({ run }: SoakResults): Finding {
  return run.lost === 0 && run.wrongServer === 0
    ? { kind: 'good', text: `All ${formatNumber(run.sent)} updates were answered, none by a wrong server.` }
    : {
        kind: 'bad',
        text: `${formatNumber(run.lost)} of ${formatNumber(run.sent)} updates were LOST (${formatShare(run.loss)}); ${formatNumber(run.wrongServer)} world states came from a WRONG SERVER.`,
      };
}

function growthFindings({ growth, durationMs }: SoakResults): Finding[] {
  const { residentBytes, residentBytesPerHour, openDescriptors } = growth;
  const short = durationMs < MEANINGFUL_MS ? ' So short a run says little about growth.' : '';
  const resident: Finding = {
    kind: 'note',
    text:
      `Resident memory went from ${formatNumber(residentBytes.first / MIB, 1)} to ${formatNumber(residentBytes.last / MIB, 1)} MiB, ` +
      `a slope of ${formatSlope(residentBytesPerHour)} MiB an hour.${short}`,
  };
  const { first, last } = growth.troughBytes;
  const troughs = `the least was ${formatNumber(first / MIB, 1)} MiB in the first third and ${formatNumber(last / MIB, 1)} in the last`;
  const flat: Finding = growth.isFlat
    ? { kind: 'good', text: `It did not grow: ${troughs}.` }
    : {
        kind: 'bad',
        text: `It GREW: ${troughs}, ${formatNumber(growth.allowedBytes / MIB)} more are allowed, and no more descriptors.`,
      };
  if (openDescriptors === undefined) return [resident, flat];
  const { least, most } = openDescriptors;
  return [
    resident,
    flat,
    least === most
      ? { kind: 'good', text: `Descriptors stayed flat at ${least}.` }
      : { kind: 'note', text: `Descriptors were between ${least} and ${most}.` },
  ];
}

function generatorFinding({ run }: SoakResults): Finding[] {
  return run.generatorLimit === undefined
    ? []
    : [{ kind: 'note', text: `The load generator was a bottleneck (${run.generatorLimit}).` }];
}

function settledDescriptors({ samples, growth }: SoakResults): number[] {
  return samples
    .filter(({ atMs }) => atMs >= growth.settledAtMs)
    .flatMap(({ openDescriptors }) => openDescriptors ?? []);
}

function formatSlope(bytesPerHour: number): string {
  const mib = bytesPerHour / MIB;
  return `${mib > 0 ? '+' : ''}${formatNumber(mib, 1)}`;
}

function samplePlot(
  description: string,
  samples: readonly SoakSample[],
  value: (sample: SoakSample) => number,
): Plot {
  return renderPlot(description, {
    height: 260,
    option: {
      grid: { left: 76, right: 28, top: 16, bottom: 56 },
      xAxis: {
        type: 'value',
        min: 0,
        max: 'dataMax',
        ...axisName('seconds', 34),
        splitLine: { show: false },
      },
      yAxis: { type: 'value', min: 0, splitLine: { lineStyle: { color: FAINT } } },
      series: [
        {
          type: 'line',
          showSymbol: false,
          lineStyle: { width: 2.5, color: COLOURS[0]! },
          data: samples.map((sample) => [Number((sample.atMs / 1000).toFixed(1)), value(sample)]),
        },
      ],
    },
  });
}
