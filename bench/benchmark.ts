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
import { climb } from './ladder.ts';
import { runLoad, startGenerators, type Load, type LoadContext } from './load-run.ts';
import { cpuSpent, describeMachine, readCpuTimes } from './machine.ts';
import { MATCH_PLAYERS, measurePayloadTable } from './payload-table.ts';
import { tickrelay } from './process-group.ts';
import type { Progress } from './progress.ts';
import type { BenchResults, LadderResult, LoadRun, Plan } from './results.ts';
import { ENGINES, openDirect, type Route } from './routes.ts';
import { measureSessionTableLookup } from './session-table-lookup.ts';
import { summarise } from './summary.ts';
import type { CodecName } from '../wire/codec.ts';

/** How long the machine is watched before the load, in ms. */
const IDLE_WATCH_MS = 400;
/** Slow enough for one generator to play every player of the ladder, long enough for two updates of each. */
const PRIMING = { tickHz: 8, durationMs: 250, rampMs: 0, warmupMs: 0, codec: 'binary' } as const;
/** Time of the main load through each route before anything is measured, so that all run warm code, in ms. */
const WARM_UP_MS = 300;
const LIVE_CODECS: readonly CodecName[] = ['binary', 'json'];

export interface BenchmarkOptions extends LoadContext {
  readonly plan: Plan;
  readonly progress: Progress;
}

/** Steps that the progress counts: one for each run as planned, one for each other part. */
export function countSteps({ rounds, engines, ladder, payloadRounds }: Plan): number {
  const routes = 1 + engines.length;
  return 1 + routes * (rounds + ladder.length) + payloadRounds * LIVE_CODECS.length + 2;
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
  await prime(backends, Math.max(plan.players, ...plan.ladder), options);
  const routes = [openDirect({ backends }), ...(await openEngines(backends, options))];
  for (const route of routes) await warmUp(route, 'binary', options);

  const runs = await compare(routes, options);
  const ladders: LadderResult[] = [];
  // The relays climb first: should time run out, it is the reference that stays short.
  for (const route of [...routes.slice(1), routes[0]!])
    ladders.push(await climbLadder(route, hasTime, options));
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

function openEngines(backends: readonly string[], { plan, group }: BenchmarkOptions): Promise<Route[]> {
  return Promise.all(plan.engines.map((engine) => ENGINES[engine]!({ group, backends })));
}

async function watchIdle(signal: AbortSignal): Promise<number> {
  const before = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  return cpuSpent(before, readCpuTimes()).share;
}

/** Lets every player say to every server where they are. */
async function prime(
  backends: readonly string[],
  players: number,
  { plan, group, codec = PRIMING.codec }: BenchmarkOptions & { readonly codec?: CodecName },
): Promise<void> {
  const load = { ...PRIMING, codec, players, seed: plan.seed };
  const generators = backends.flatMap((backend) => startGenerators([backend], load, group));
  await Promise.all(generators.map((generator) => generator.event('summary')));
}

async function warmUp(route: Route, codec: CodecName, { plan, group }: BenchmarkOptions): Promise<void> {
  const load = loadOf(plan, { players: plan.players, durationMs: WARM_UP_MS, codec });
  const generators = startGenerators(route.targets, load, group);
  await Promise.all(generators.map((generator) => generator.event('summary')));
}

async function compare(routes: readonly Route[], options: BenchmarkOptions): Promise<LoadRun[]> {
  const { plan, progress } = options;
  const load = loadOf(plan, { players: plan.players, durationMs: plan.comparisonMs, codec: 'binary' });
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
      const load = loadOf(plan, { players, durationMs: plan.ladderMs, codec: 'binary' });
      return runLoad(route, load, { ...options, round: 1 });
    },
  });
  progress.skip(Math.max(0, plan.ladder.length - result.steps.length));
  return result;
}

/** The same players and updates through the relay in each codec, with game servers and a relay that are as fresh. */
async function playLive(options: BenchmarkOptions): Promise<LoadRun[]> {
  const { plan, progress, group } = options;
  const lanes: { codec: CodecName; route: Route }[] = [];
  for (const codec of LIVE_CODECS) {
    const backends = await startGameServers(codec, options);
    await prime(backends, plan.players, { ...options, codec });
    const route = await ENGINES[plan.engines[0]!]!({ group, backends });
    await warmUp(route, codec, options);
    lanes.push({ codec, route });
  }
  const runs: LoadRun[] = [];
  for (let round = 1; round <= plan.payloadRounds; round++) {
    for (const { codec, route } of lanes) {
      progress.step(`live payload, round ${round} of ${plan.payloadRounds}: ${codec}`);
      const load = loadOf(plan, { players: plan.players, durationMs: plan.payloadMs, codec });
      runs.push(await runLoad(route, load, { ...options, round }));
    }
  }
  return runs;
}

function loadOf(plan: Plan, own: Pick<Load, 'players' | 'durationMs' | 'codec'>): Load {
  const { tickHz, seed, rampMs, warmupMs } = plan;
  return { tickHz, seed, rampMs, warmupMs, ...own };
}
