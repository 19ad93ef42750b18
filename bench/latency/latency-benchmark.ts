/**
 * `tickrelay bench --latency`: what a relay adds to a round trip, to the tenth of a microsecond. One datagram is in flight, client
 * and server wait in the system call, and the routes take turns; so what differs is the way, not the load or an event
 * loop's turn.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { loadLibc } from '../../net/linux/libc.ts';
import { RelayError } from '../../net/relay-error.ts';
import type { LoadContext } from '../load-run.ts';
import { cpuSpent, describeMachine, readCpuTimes } from '../machine.ts';
import { pinRunning, pinned } from '../pinning.ts';
import type { Progress } from '../progress.ts';
import { DIRECT, type Plan } from '../results.ts';
import { openDirect, openPeer, openRelay, type Route } from '../routes.ts';
import { median } from '../stopwatch.ts';
import type { LatencyResults, PingPlan, PingRoute, PingRun, PingSummary } from './latency-results.ts';

const IDLE_WATCH_MS = 400;
const RUN_MS = 1_000;
const QUICK_RUN_MS = 200;
const DEFAULT_ROUNDS = 9;
/** How long a client may take beyond its own times, in ms. */
const SLACK_MS = 20_000;

/** A built program beside this file in dist, or in dist when this file itself runs from its source (as in tests). */
const built = (name: string): string =>
  fileURLToPath(
    new URL(
      import.meta.url.endsWith('.ts') ? `../../dist/bench/latency/${name}.js` : `./${name}.js`,
      import.meta.url,
    ),
  );

export interface LatencyOptions extends LoadContext {
  readonly plan: Plan;
  /** Default 9, quick 1. */
  readonly rounds?: number | undefined;
  readonly progress: Progress;
}

export function latencyRounds({ rounds, plan }: Pick<LatencyOptions, 'rounds' | 'plan'>): number {
  return rounds ?? (plan.quick ? 1 : DEFAULT_ROUNDS);
}

export function countLatencySteps(options: Pick<LatencyOptions, 'rounds' | 'plan'>): number {
  const { engines, peers } = options.plan;
  return 1 + latencyRounds(options) * (1 + engines.length + peers.length);
}

/** @throws RelayError TICKRELAY_ERR_LOAD when a process failed; an AbortError when `signal` fired */
export async function runLatencyBenchmark(options: LatencyOptions): Promise<LatencyResults> {
  const { plan, progress, signal, group, site, pinning } = options;
  const loaded = loadLibc();
  if ('unavailable' in loaded) throw new RelayError('TICKRELAY_ERR_LOAD', `--latency: ${loaded.unavailable}`);
  const startedAt = new Date().toISOString();
  progress.step('starting relays and peers');
  const idle = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  const machine = describeMachine(cpuSpent(idle, readCpuTimes()).share);
  const server = group.start(
    site.asServer({ name: 'ping server', args: [built('ping-server'), `${site.serverIp}:0`] }),
  );
  const backends = [String((await server.event('ready'))['udp'])];
  pinRunning(server.pid, pinning?.loadCpus);
  const relays = await Promise.all(plan.engines.map((engine) => openRelay(engine, { ...options, backends })));
  const peers = await Promise.all(plan.peers.map((peer) => openPeer(peer, { ...options, backends })));
  const routes = [openDirect({ ...options, backends }), ...relays, ...peers.filter((peer) => 'info' in peer)];
  const absent = peers.filter((peer) => 'reason' in peer);

  const rounds = latencyRounds(options);
  const runMs = plan.quick ? QUICK_RUN_MS : RUN_MS;
  const runs: PingRun[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const { info, targets } of routes) {
      progress.step(`round ${round} of ${rounds}: ${info.name}`);
      const ping = { target: targets[0]!, local: `${site.firstPlayer(0)}:0`, durationMs: runMs };
      runs.push({ route: info.name, round, ...(await runPing(ping, options)) });
    }
  }
  await Promise.all(routes.map((route) => route.close()));
  return {
    startedAt,
    machine,
    site: site.name,
    pinning,
    rounds,
    runMs,
    infos: routes.map(({ info }) => info),
    absent,
    runs,
    routes: summarise(routes, runs),
  };
}

async function runPing(plan: PingPlan, { group, site, pinning }: LoadContext): Promise<PingSummary> {
  const spec = { name: 'ping client', args: [built('ping-client'), JSON.stringify(plan)] };
  const client = group.start(site.asClient(pinned(spec, pinning?.loadCpus)));
  const summary = await client.event('summary', plan.durationMs + SLACK_MS);
  return summary as unknown as PingSummary;
}

function summarise(routes: readonly Route[], runs: readonly PingRun[]): PingRoute[] {
  const direct = new Map(runs.filter(({ route }) => route === DIRECT).map(({ round, p50 }) => [round, p50]));
  return routes.map(({ info: { name } }) => {
    const own = runs.filter(({ route }) => route === name);
    const middle = (of: (run: PingRun) => number): number => median(own.map(of));
    return {
      name,
      answered: own.reduce((sum, { answered }) => sum + answered, 0),
      lost: own.reduce((sum, { lost }) => sum + lost, 0),
      p50: middle(({ p50 }) => p50),
      p90: middle(({ p90 }) => p90),
      p99: middle(({ p99 }) => p99),
      overDirectUs: middle(({ p50, round }) => p50 - direct.get(round)!),
    };
  });
}
