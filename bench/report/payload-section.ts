/** What each encoding of the same two messages costs, on paper and live. */
import { HEADER_BYTES, MATCH_PLAYERS } from '../payload-table.ts';
import type { BenchResults, PayloadRow, RunSummary } from '../results.ts';
import { axisName, FAINT, INK, LEGEND, renderPlot } from './plot.ts';
import { figure, formatKnown, formatNumber, formatRatio, formatShare, formatTime, text } from './section.ts';
import type { Finding, Plot, Section, Table } from './section.ts';

export function payloadSection({ payload, plan }: BenchResults): Section {
  const { rows, live, runs } = payload;
  return {
    title: 'The payload: four encodings of the same messages',
    findings: [...sizeFindings(rows), ...liveFindings(live)],
    tables: [
      payloadTable(rows, plan.tickHz),
      ...(live.length === 0 ? [] : [liveTable(live, runs[0]!.players)]),
    ],
    plots: [bandwidthPlot(rows, plan.tickHz), sizePlot(rows)],
    method:
      `Bytes are means over 64 different messages with the digits that float32 positions have; a world state holds ${MATCH_PLAYERS} players. ` +
      `Times are medians over several turns in which the encodings alternate, after a warm-up, in one process, with every result used. ` +
      `Mbit/s is computed: each of ${MATCH_PLAYERS} players sends one update and gets one world state ${plan.tickHz} times a second, with ${HEADER_BYTES} bytes ` +
      `of IPv4 and UDP headers on each datagram.` +
      (live.length === 0
        ? ''
        : ` Live runs send the same updates at the same rate through the relay (engine ${plan.engines[0]!}); they take turns, ${live[0]!.runs} of each, ` +
          `${formatNumber(plan.payloadMs / 1000, 1)} s long.`),
  };
}

function sizeFindings(rows: readonly PayloadRow[]): Finding[] {
  const binary = rows.find(({ codec }) => codec === 'binary');
  if (binary === undefined) return [];
  const others = rows
    .filter((row) => row !== binary)
    .map((row) => `${row.codec} ${formatRatio(row.matchMbitPerSecond / binary.matchMbitPerSecond)}`);
  const own = `${formatNumber(binary.matchMbitPerSecond, 2)} Mbit/s for a match of ${MATCH_PLAYERS} in binary`;
  return [{ kind: 'note', text: `${own}; against that ${others.join(', ')}.` }];
}

function liveFindings(live: readonly RunSummary[]): Finding[] {
  const binary = live.find(({ name }) => name === 'binary');
  if (binary === undefined) return [];
  const losses = live
    .filter(({ lost }) => lost > 0)
    .map(({ name, loss }): Finding => ({
      kind: 'bad',
      text: `Live, ${name}: ${formatShare(loss)} of the updates were LOST.`,
    }));
  const ratios = live
    .filter((run) => run !== binary)
    .map((run): Finding => ({
      kind: 'note',
      text:
        `Live, ${run.name} against binary: p50 round trip ${formatRatio(run.roundTripUs.p50 / binary.roundTripUs.p50)}, ` +
        `p99 ${formatRatio(run.roundTripUs.p99 / binary.roundTripUs.p99)}, ` +
        `CPU of the whole machine ${formatRatio(run.machineCpuUsPerDatagram / binary.machineCpuUsPerDatagram)}.`,
    }));
  return [...losses, ...ratios];
}

function payloadTable(rows: readonly PayloadRow[], tickHz: number): Table {
  return {
    caption: `Bytes, and ns to encode and decode; Mbit/s for a match of ${MATCH_PLAYERS} at ${tickHz} Hz`,
    columns: [
      text('encoding'),
      ...[
        'update B',
        'world B',
        'encode update',
        'decode update',
        'encode world',
        'decode world',
        'Mbit/s',
      ].map(figure),
    ],
    rows: rows.map((row) => [
      row.codec,
      formatNumber(row.updateBytes, 1),
      formatNumber(row.worldStateBytes, 1),
      formatTime(row.encodeUpdateNs),
      formatTime(row.decodeUpdateNs),
      formatTime(row.encodeWorldStateNs),
      formatTime(row.decodeWorldStateNs),
      formatNumber(row.matchMbitPerSecond, 2),
    ]),
  };
}

function liveTable(live: readonly RunSummary[], players: number): Table {
  return {
    caption: `Live through the relay, ${players} players`,
    columns: [
      text('encoding'),
      ...['p50, µs', 'p99, µs', 'p99.9, µs', 'loss', 'process CPU µs', 'machine CPU µs', 'generator'].map(
        figure,
      ),
    ],
    rows: live.map((run) => [
      run.name,
      formatTime(run.roundTripUs.p50),
      formatTime(run.roundTripUs.p99),
      formatTime(run.roundTripUs.p999),
      formatShare(run.loss),
      formatKnown(run.processCpuUsPerDatagram?.total, 2),
      formatNumber(run.machineCpuUsPerDatagram, 2),
      run.generatorLimited === 0 ? 'kept up' : 'was a limit',
    ]),
  };
}

function bandwidthPlot(rows: readonly PayloadRow[], tickHz: number): Plot {
  return bars(`Mbit/s for a match of ${MATCH_PLAYERS} players at ${tickHz} Hz, headers counted`, rows, [
    { name: 'Mbit/s', values: rows.map((row) => Number(row.matchMbitPerSecond.toFixed(2))) },
  ]);
}

function sizePlot(rows: readonly PayloadRow[]): Plot {
  return bars('Bytes of payload for one update and one world state', rows, [
    { name: 'update', values: rows.map((row) => Math.round(row.updateBytes)) },
    { name: 'world state', values: rows.map((row) => Math.round(row.worldStateBytes)) },
  ]);
}

function bars(
  description: string,
  rows: readonly PayloadRow[],
  series: readonly { readonly name: string; readonly values: readonly number[] }[],
): Plot {
  const hasLegend = series.length > 1;
  return renderPlot(description, {
    height: 64 + rows.length * (22 + 26 * series.length),
    option: {
      grid: { left: 84, right: 64, top: hasLegend ? 44 : 12, bottom: 44 },
      ...(hasLegend ? { legend: LEGEND } : {}),
      xAxis: {
        type: 'value',
        ...axisName(hasLegend ? 'bytes' : 'Mbit/s', 28),
        splitLine: { lineStyle: { color: FAINT } },
      },
      yAxis: {
        type: 'category',
        inverse: true,
        data: rows.map(({ codec }) => codec),
        axisTick: { show: false },
      },
      series: series.map(({ name, values }) => ({
        type: 'bar',
        name,
        data: [...values],
        barMaxWidth: 24,
        label: { show: true, position: 'right', color: INK },
      })),
    },
  });
}
