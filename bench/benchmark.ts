/**
 * The whole benchmark, in its order:
 *
 *   game servers -> how busy the machine is without load -> primed servers -> direct and relayed in turns -> the ladder
 *   of each route -> binary and JSON in turns -> micro-benchmarks, once every process has ended -> results
 *
 * Priming makes every game server know every player, so that each world state has a whole match in it, whichever server
 * the relay chose for a player; and it warms the servers' code up.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { CodecName } from '../wire/codec.ts';
import { climb } from './ladder.ts';
import { runLoad, type Load, type LoadContext } from './load-run.ts';
import { cpuSpent, describeMachine, readCpuTimes } from './machine.ts';
import { MATCH_PLAYERS, measurePayloadTable } from './payload-table.ts';
import { tickrelay } from './process-group.ts';
import type { Progress } from './progress.ts';
import type { BenchResults, LadderResult, LoadRun, Plan } from './results.ts';
import { ENGINES, openDirect, type Route } from './routes.ts';
import { measureSessionTableLookup } from './session-table-lookup.ts';
import { summarise } from './summary.ts';
import { primeServers, warmRouteUp } from './warm-up.ts';

/** How long the machine is watched before the load, in ms. */
const IDLE_WATCH_MS = 400;
const LIVE_CODECS: readonly CodecName[] = ['binary', 'json'];

export interface BenchmarkOptions extends LoadContext {
  readonly plan: Plan;
  readonly progress: Progress;
}

/** Steps that the progress counts: one for each run as planned, one for each other part. */
export function countSteps({ rounds, engines, ladder, payloadRounds }: Plan): number {
  const routes = 1 + engines.length;
  return 1 + routes * (rounds + ladder.length) + 1 + payloadRounds * LIVE_CODECS.length + 2;
}

/** @throws RelayError when a process failed; an AbortError when `signal` fired */
export async function runBenchmark(options: BenchmarkOptions): Promise<BenchResults> {
  const { plan, progress } = options;
  const startedAt = new Date().toISOString();
  const startMs = performance.now();
  const hasTime = (): boolean => performance.now() - startMs < plan.budgetMs;

  progress.step('starting game servers and relays');
  const backends = await startGameServers('binary', options);
  const busyBefore = await watchIdle(options.signal);
  const load = mainLoad(plan, 'binary');
  await primeServers(backends, { ...load, players: Math.max(plan.players, ...plan.ladder) });
  const relays = await Promise.all(plan.engines.map((engine) => openEngine(engine, backends, options)));
  const direct = openDirect({ backends });
  const routes = [direct, ...relays];
  for (const route of routes) await warmRouteUp(route, load);

  const runs = await compare(routes, options);
  const ladders: LadderResult[] = [];
  // The relays climb first: should time run out, it is the reference that stays short.
  for (const route of [...relays, direct]) ladders.push(await climbLadder(route, hasTime, options));
  await Promise.all(routes.map((route) => route.close()));
  const liveRuns = await playLive(options);
  await options.group.close();

  progress.step('encoding and decoding');
  await breathe(options.signal);
  const rows = measurePayloadTable({ tickHz: plan.tickHz, turns: 5, turnMs: plan.quick ? 2 : 20 });
  progress.step('looking up sessions');
  await breathe(options.signal);
  const sessionTable = measureSessionTableLookup(plan.quick ? 3 : 9);
  await breathe(options.signal);
  return {
    startedAt,
    tookMs: performance.now() - startMs,
    machine: describeMachine(busyBefore),
    plan,
    comparison: { runs, routes: summarise(runs, 'route') },
    ladders,
    payload: { rows, runs: liveRuns, live: summarise(liveRuns, 'codec') },
    sessionTable,
  };
}

/** Between parts that never wait, lets a signal be heard. @throws AbortError when one was */
async function breathe(signal: AbortSignal): Promise<void> {
  await sleep(0, undefined, { signal });
}

/** @returns their addresses */
function startGameServers(codec: CodecName, { plan, group }: BenchmarkOptions): Promise<string[]> {
  const servers = Array.from({ length: plan.gameServers }, (_, i) => {
    const where = ['--listen', '127.0.0.1:0', '--id', `${i + 1}`];
    const what = ['--codec', codec, '--match', `${MATCH_PLAYERS}`, '--forget', '1h'];
    return group.start(tickrelay(`game server ${i + 1}`, ['gameserver', ...where, ...what, '--json']));
  });
  return Promise.all(servers.map(async (server) => String((await server.event('ready'))['udp'])));
}

function openEngine(
  engine: string,
  backends: readonly string[],
  { group }: BenchmarkOptions,
): Promise<Route> {
  return ENGINES[engine]!({ group, backends });
}

async function watchIdle(signal: AbortSignal): Promise<number> {
  const before = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  return cpuSpent(before, readCpuTimes()).share;
}

async function compare(routes: readonly Route[], options: BenchmarkOptions): Promise<LoadRun[]> {
  const { plan, progress } = options;
  const load = { ...mainLoad(plan, 'binary'), durationMs: plan.comparisonMs };
  const runs: LoadRun[] = [];
  for (let round = 1; round <= plan.rounds; round++) {
    for (const route of routes) {
      progress.step(`round ${round} of ${plan.rounds}: ${plan.players} players, ${route.name}`);
      runs.push(await runLoad(route, load, { ...options, round }));
    }
  }
  return runs;
}

async function climbLadder(
  route: Route,
  hasTime: () => boolean,
  options: BenchmarkOptions,
): Promise<LadderResult> {
  const { plan, progress } = options;
  const result = await climb({
    route: route.name,
    steps: plan.ladder,
    tickHz: plan.tickHz,
    hasTime,
    measure: (players) => {
      progress.step(`ladder: ${players} players, ${route.name}`);
      const load = { ...mainLoad(plan, 'binary'), players, durationMs: plan.ladderMs };
      return runLoad(route, load, { ...options, round: 1 });
    },
  });
  progress.skip(Math.max(0, plan.ladder.length - result.steps.length));
  return result;
}

/** The same players and updates through the relay in each codec, with game servers and a relay that are as fresh. */
async function playLive(options: BenchmarkOptions): Promise<LoadRun[]> {
  const { plan, progress } = options;
  progress.step('live payload: starting fresh game servers and relays');
  const lanes = await Promise.all(
    LIVE_CODECS.map(async (codec) => {
      const backends = await startGameServers(codec, options);
      return { codec, backends, route: await openEngine(plan.engines[0]!, backends, options) };
    }),
  );
  for (const { codec, backends, route } of lanes) {
    await primeServers(backends, mainLoad(plan, codec));
    await warmRouteUp(route, mainLoad(plan, codec));
  }
  const runs: LoadRun[] = [];
  for (let round = 1; round <= plan.payloadRounds; round++) {
    for (const { codec, route } of lanes) {
      progress.step(`live payload, round ${round} of ${plan.payloadRounds}: ${codec}`);
      const load = { ...mainLoad(plan, codec), durationMs: plan.payloadMs };
      runs.push(await runLoad(route, load, { ...options, round }));
    }
  }
  return runs;
}

function mainLoad(plan: Plan, codec: CodecName): Omit<Load, 'durationMs'> {
  const { players, tickHz, seed, rampMs, warmupMs } = plan;
  return { players, tickHz, seed, rampMs, warmupMs, codec };
}
