/**
 * One load through one route, measured.
 *
 *   start the generators -> all ready -> ramp and warm-up pass -> read the counters, then the clocks -> ... -> the clocks,
 *   then the counters again, just before the sending ends -> collect the summaries -> merge
 *
 * A relay's counters are read outside the time between the clocks: that costs the relay CPU time.
 *
 * There is one generator process for each game server, in every route, so that direct and relayed load are made by the
 * same processes and only what stands between differs.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { encodeIntoCompressedBase64 } from 'hdr-histogram-js';
import type { BotSummary } from '../botclient/report.ts';
import type { CodecName } from '../wire/codec.ts';
import { cpuSpent, readBufferOverflows, readCpuTimes } from './machine.ts';
import { pinRunning } from './pinning.ts';
import { processCpuBetween, readProcessCpu } from './process-cpu.ts';
import { tickrelay, type ManagedProcess, type ProcessGroup } from './process-group.ts';
import { countsBetween } from './relay-metrics.ts';
import type { LoadRun, Pinning, ProcessCpu } from './results.ts';
import type { Route } from './routes.ts';
import type { Site } from './site.ts';
import { mergeHistograms, roundTripOf } from './summary.ts';

/** Time between the end of the second reading and the end of the sending, in ms. */
const READING_MARGIN_MS = 50;
/** By default. */
const GRACE_MS = 200;
/** How long the generators may take beyond their own times, in ms. */
const SUMMARY_SLACK_MS = 20_000;

export interface Load {
  readonly players: number;
  readonly tickHz: number;
  readonly codec: CodecName;
  readonly seed: number;
  readonly durationMs: number;
  readonly rampMs: number;
  readonly warmupMs: number;
  /** How long answers are waited for after the last update; a later one is lost. Default 200. */
  readonly graceMs?: number;
}

export interface LoadContext {
  readonly group: ProcessGroup;
  readonly signal: AbortSignal;
  readonly pinning: Pinning | undefined;
  readonly site: Site;
}

export async function runLoad(
  route: Route,
  load: Load,
  { round, ...context }: LoadContext & { readonly round: number },
): Promise<LoadRun> {
  const { signal, pinning } = context;
  const startedAt = new Date().toISOString();
  const overflowsBefore = readBufferOverflows();
  const generators = startGenerators(route.targets, load, context);
  await Promise.all(generators.map((generator) => generator.event('ready')));
  for (const { pid } of generators) pinRunning(pid, pinning?.loadCpus);
  await sleep(load.rampMs + load.warmupMs, undefined, { signal });
  const countsBefore = (await route.readMetrics?.())?.counts;
  const before = await readClocks(route);
  await sleep(load.durationMs - READING_MARGIN_MS - (performance.now() - before.atMs), undefined, { signal });
  const after = await readClocks(route);
  const countsAfter = (await route.readMetrics?.())?.counts;
  const deadlineMs = load.durationMs + SUMMARY_SLACK_MS;
  const events = await Promise.all(generators.map((generator) => generator.event('summary', deadlineMs)));
  await Promise.all(generators.map((generator) => generator.ended(deadlineMs)));

  const summaries = events as unknown as readonly BotSummary[];
  const cpu = cpuSpent(before.cpu, after.cpu);
  const merged = merge(summaries);
  const delivered = (2 * merged.answered * (after.atMs - before.atMs)) / load.durationMs;
  return {
    route: route.info.name,
    codec: load.codec,
    players: load.players,
    round,
    startedAt,
    ...merged,
    machineCpuUsPerDatagram: (1000 * cpu.busyMs) / Math.max(1, delivered),
    machineBusy: cpu.share,
    deliveredBetweenReadings: delivered,
    processCpu: before.process && after.process && processCpuBetween(before.process, after.process),
    relay: countsBefore && countsAfter && countsBetween(countsBefore, countsAfter),
    bufferOverflows: difference(overflowsBefore, readBufferOverflows()),
  };
}

/** Shares the players out over one generator for each target; each player keeps an id and an address of its own. */
function startGenerators(
  targets: readonly string[],
  load: Load,
  { group, site }: Pick<LoadContext, 'group' | 'site'>,
): ManagedProcess[] {
  return targets.flatMap((target, i) => {
    const first = Math.floor((load.players * i) / targets.length);
    const players = Math.floor((load.players * (i + 1)) / targets.length) - first;
    if (players === 0) return [];
    const args = {
      target,
      players,
      'first-player': first,
      'first-address': site.firstPlayer(i),
      tick: load.tickHz,
      codec: load.codec,
      seed: load.seed,
      duration: `${load.durationMs}ms`,
      ramp: `${load.rampMs}ms`,
      warmup: `${load.warmupMs}ms`,
      grace: `${load.graceMs ?? GRACE_MS}ms`,
    };
    const flags = Object.entries(args).flatMap(([flag, value]) => [`--${flag}`, `${value}`]);
    return [group.start(site.asClient(tickrelay(`players ${i + 1}`, ['bots', ...flags, '--json'])))];
  });
}

interface Clocks {
  readonly atMs: number;
  readonly cpu: ReturnType<typeof readCpuTimes>;
  readonly process: ProcessCpu | undefined;
}

async function readClocks({ pid, readMetrics }: Route): Promise<Clocks> {
  const process = pid === undefined ? undefined : (readProcessCpu(pid) ?? (await readMetrics?.())?.cpu);
  return { atMs: performance.now(), cpu: readCpuTimes(), process };
}

function difference(from: number | undefined, to: number | undefined): number | undefined {
  return from === undefined || to === undefined ? undefined : to - from;
}

type Merged = Omit<
  LoadRun,
  | 'route'
  | 'codec'
  | 'players'
  | 'round'
  | 'startedAt'
  | 'machineCpuUsPerDatagram'
  | 'machineBusy'
  | 'deliveredBetweenReadings'
  | 'processCpu'
  | 'relay'
  | 'bufferOverflows'
>;

/** Several generators' summaries as if one had made them. */
export function merge(summaries: readonly BotSummary[]): Merged {
  const sum = (pick: (summary: BotSummary) => number): number =>
    summaries.reduce((total, summary) => total + pick(summary), 0);
  const roundTrips = mergeHistograms(summaries.map((summary) => summary.roundTripHistogram));
  const sendLags = mergeHistograms(summaries.map((summary) => summary.sendLagHistogram));
  const { p50, p99, max } = roundTripOf(sendLags);
  const sent = sum((summary) => summary.sent);
  const lost = sum((summary) => summary.lost);
  return {
    offeredPerSecond: sum((summary) => summary.askedPerSecond),
    achievedPerSecond: sum((summary) => summary.achievedPerSecond),
    sent,
    answered: sum((summary) => summary.matched),
    lost,
    loss: lost / Math.max(1, sent),
    duplicates: sum((summary) => summary.duplicates),
    reordered: sum((summary) => summary.reordered),
    wrongServer: sum((summary) => summary.wrongServer),
    roundTripUs: roundTripOf(roundTrips),
    roundTripHistogram: encodeIntoCompressedBase64(roundTrips),
    sendLagUs: { p50, p99, max },
    generatorLimit: summaries.find(({ generator }) => !generator.ok)?.generator.verdict,
  };
}
