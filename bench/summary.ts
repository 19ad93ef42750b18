/** From single runs to figures: medians over rounds, merged histograms, ratios. */
import assert from 'node:assert/strict';
import * as hdr from 'hdr-histogram-js';
import type { LoadRun, RoundTripUs, RunSummary } from './results.ts';
import { median } from './stopwatch.ts';

/** One summary for each route or each codec, in the order in which they first ran. */
export function summarise(runs: readonly LoadRun[], by: 'route' | 'codec'): RunSummary[] {
  const names = [...new Set(runs.map((run) => run[by]))];
  return names.map((name) =>
    summariseRuns(
      name,
      runs.filter((run) => run[by] === name),
    ),
  );
}

function summariseRuns(name: string, runs: readonly LoadRun[]): RunSummary {
  const mid = (pick: (run: LoadRun) => number): number => median(runs.map(pick));
  const sum = (pick: (run: LoadRun) => number): number => runs.reduce((total, run) => total + pick(run), 0);
  const sent = sum((run) => run.sent);
  const lost = sum((run) => run.lost);
  return {
    name,
    runs: runs.length,
    roundTripUs: {
      p50: mid((run) => run.roundTripUs.p50),
      p90: mid((run) => run.roundTripUs.p90),
      p99: mid((run) => run.roundTripUs.p99),
      p999: mid((run) => run.roundTripUs.p999),
      max: mid((run) => run.roundTripUs.max),
    },
    sent,
    lost,
    loss: lost / Math.max(1, sent),
    wrongServer: sum((run) => run.wrongServer),
    droppedByRelay: sumKnown(runs.map(({ relay }) => relay?.dropped)),
    bufferOverflows: sumKnown(runs.map(({ bufferOverflows }) => bufferOverflows)),
    offeredPerSecond: mid((run) => run.offeredPerSecond),
    achievedPerSecond: mid((run) => run.achievedPerSecond),
    deliveredPerSecond: mid((run) => 2 * run.achievedPerSecond * (1 - run.loss)),
    machineCpuUsPerDatagram: mid((run) => run.machineCpuUsPerDatagram),
    processCpuUsPerDatagram: processCost(runs),
    sendLagP99Us: mid((run) => run.sendLagUs.p99),
    generatorLimited: runs.filter(({ generatorLimit }) => generatorLimit !== undefined).length,
  };
}

/** Undefined when no value is known. */
function sumKnown(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length === 0 ? undefined : known.reduce((total, value) => total + value, 0);
}

/** One run is too short for the kernel's sampling to divide its CPU time well; all of them together are better. */
function processCost(runs: readonly LoadRun[]): RunSummary['processCpuUsPerDatagram'] {
  const known = runs.flatMap(({ processCpu, deliveredBetweenReadings }) =>
    processCpu === undefined ? [] : [{ ...processCpu, datagrams: Math.max(1, deliveredBetweenReadings) }],
  );
  if (known.length === 0) return undefined;
  const total = median(known.map(({ totalUs, datagrams }) => totalUs / datagrams));
  const userUs = known.reduce((sum, run) => sum + run.userUs, 0);
  const bothUs = known.reduce((sum, run) => sum + run.userUs + run.systemUs, 0);
  const user = bothUs === 0 ? 0 : (total * userUs) / bothUs;
  return { total, user, system: total - user };
}

/** Several histograms, as encodeIntoCompressedBase64 writes them, as one. */
export function mergeHistograms(encoded: readonly string[]): hdr.Histogram {
  assert(encoded.length > 0);
  const merged = hdr.build({ autoResize: true, numberOfSignificantValueDigits: 3 });
  for (const one of encoded) merged.add(hdr.decodeFromCompressedBase64(one));
  return merged;
}

export function roundTripOf(histogram: hdr.Histogram): RoundTripUs {
  const at = (percentile: number): number => histogram.getValueAtPercentile(percentile);
  return { p50: at(50), p90: at(90), p99: at(99), p999: at(99.9), max: histogram.maxValue };
}
