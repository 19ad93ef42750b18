/**
 * The soak: one engine under a steady load for a long time, with the relay process looked at once a second. What grows
 * without end, memory or descriptors, shows in the slope.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { startGameServers } from './game-servers.ts';
import { runLoad, type LoadContext } from './load-run.ts';
import { describeMachine, cpuSpent, readCpuTimes } from './machine.ts';
import type { Progress } from './progress.ts';
import type { Plan, SoakGrowth, SoakResults, SoakSample } from './results.ts';
import { openRelay, type Route } from './routes.ts';
import { primeServers, warmRouteUp } from './warm-up.ts';

const SAMPLE_INTERVAL_MS = 1_000;
const IDLE_WATCH_MS = 400;
/** The heap of a fresh process grows to its working size: this share of the samples, and no more than a minute, is left out. */
const SETTLING_SHARE = 0.1;
const MOST_SETTLING_MS = 60_000;
/** One late moment at the end of a long run is no loss. */
const GRACE_MS = 2_000;
const MS_PER_HOUR = 3_600_000;
const MIB = 2 ** 20;
/** What the trough may rise by: half a byte for each datagram that 100 players make in ten minutes. */
const ALLOWED_BYTES = 8 * MIB;
/** In a run of less than five minutes, in which the heap is still finding its size. */
const ALLOWED_BYTES_SHORT = 32 * MIB;
const SHORT_MS = 300_000;

export interface SoakOptions extends LoadContext {
  readonly plan: Plan;
  readonly durationMs: number;
  readonly progress: Progress;
}

export const SOAK_STEPS = 2;

/** @throws RelayError when a process failed; an AbortError when `signal` fired */
export async function runSoak(options: SoakOptions): Promise<SoakResults> {
  const { plan, durationMs, progress, signal } = options;
  const { players, tickHz, seed, rampMs, warmupMs } = plan;
  const startedAt = new Date().toISOString();
  progress.step('starting game servers and relay');
  const idle = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  const machine = describeMachine(cpuSpent(idle, readCpuTimes()).share);
  const backends = await startGameServers('binary', options);
  const load = { players, tickHz, seed, rampMs, warmupMs, codec: 'binary', durationMs } as const;
  await primeServers(backends, load);
  const route = await openRelay(plan.engines[0]!, { ...options, backends });
  await warmRouteUp(route, load);

  progress.step(`${players} players for ${Math.round(durationMs / 1000)} s, ${route.info.name}`);
  const ended = new AbortController();
  const [run, samples] = await Promise.all([
    runLoad(route, { ...load, graceMs: GRACE_MS }, { ...options, round: 1 }).finally(() => ended.abort()),
    sampleRelay(route, AbortSignal.any([ended.signal, signal])),
  ]);
  await options.group.close();
  return {
    startedAt,
    machine,
    route: route.info,
    pinning: options.pinning,
    run,
    durationMs,
    samples,
    growth: growthOf(samples),
  };
}

/** Looks at once, then once a second, until the signal. */
async function sampleRelay({ readMetrics }: Route, signal: AbortSignal): Promise<SoakSample[]> {
  const samples: SoakSample[] = [];
  const startMs = performance.now();
  while (!signal.aborted) {
    const { residentBytes, openDescriptors } = await readMetrics!();
    samples.push({ atMs: performance.now() - startMs, residentBytes, openDescriptors });
    const dueMs = startMs + samples.length * SAMPLE_INTERVAL_MS;
    await sleep(Math.max(0, dueMs - performance.now()), undefined, { signal }).catch(() => undefined);
  }
  return samples;
}

/** @param samples at least one */
export function growthOf(samples: readonly SoakSample[]): SoakGrowth {
  const settledAtMs = Math.min(MOST_SETTLING_MS, SETTLING_SHARE * samples.at(-1)!.atMs);
  const settled = samples.filter(({ atMs }) => atMs >= settledAtMs);
  const resident = settled.map(({ residentBytes }) => residentBytes);
  const descriptors = settled.flatMap(({ openDescriptors }) => openDescriptors ?? []);
  const third = Math.ceil(settled.length / 3);
  const [early, late] = [settled.slice(0, third), settled.slice(-third)];
  const trough = (part: readonly SoakSample[]): number =>
    Math.min(...part.map(({ residentBytes }) => residentBytes));
  const mostDescriptors = (part: readonly SoakSample[]): number =>
    Math.max(...part.map(({ openDescriptors }) => openDescriptors ?? 0));
  const allowedBytes = samples.at(-1)!.atMs < SHORT_MS ? ALLOWED_BYTES_SHORT : ALLOWED_BYTES;
  return {
    troughBytes: { first: trough(early), last: trough(late) },
    isFlat: trough(late) - trough(early) <= allowedBytes && mostDescriptors(late) <= mostDescriptors(early),
    allowedBytes,
    settledAtMs,
    residentBytes: { first: resident[0]!, last: resident.at(-1)!, most: Math.max(...resident) },
    residentBytesPerHour:
      MS_PER_HOUR * slope(settled.map(({ atMs, residentBytes }) => [atMs, residentBytes])),
    openDescriptors:
      descriptors.length === 0
        ? undefined
        : { least: Math.min(...descriptors), most: Math.max(...descriptors) },
  };
}

/** Of the line with the least squared distance to the points; 0 for a single one. */
function slope(points: readonly (readonly [x: number, y: number])[]): number {
  const mean = (pick: 0 | 1): number => points.reduce((sum, point) => sum + point[pick], 0) / points.length;
  const [meanX, meanY] = [mean(0), mean(1)];
  const spread = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  const shared = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0);
  return spread === 0 ? 0 : shared / spread;
}
