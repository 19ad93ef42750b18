/**
 * The whole benchmark, in its order:
 *
 *   how busy the machine is without load -> game servers, primed -> relays and peers -> all routes in turns, load by load
 *   -> the ladder, all routes together -> the dial -> binary and JSON in turns -> micro-benchmarks, once every process
 *   has ended -> results
 *
 * Priming makes every game server know every player, so that each world state has a whole match in it, whichever server
 * the relay chose for a player; and it warms the servers' code up.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { CodecName } from '../wire/codec.ts';
import { climb } from './ladder.ts';
import { runLoad, type Load, type LoadContext } from './load-run.ts';
import { cpuSpent, describeMachine, readCpuTimes, SHARED_MACHINE } from './machine.ts';
import { startGameServers } from './game-servers.ts';
import { measurePayloadTable } from './payload-table.ts';
import type { Progress } from './progress.ts';
import type { AbsentPeer, BenchResults, LadderResult, LoadComparison, LoadRun, Plan } from './results.ts';
import { DIAL_ENGINE, openDirect, openPeer, openRelay, type Route } from './routes.ts';
import { measureSessionTableLookup } from './session-table-lookup.ts';
import { rankRuns } from './standings.ts';
import { summarise } from './summary.ts';
import { primeServers, warmRouteUp } from './warm-up.ts';

/** How long the machine is watched before the load, in ms. */
const IDLE_WATCH_MS = 400;
/** What the processes of a run take beside its load, in ms, on a machine that is slow. */
const RUN_OVERHEAD_MS = 1_000;
const LIVE_CODECS: readonly CodecName[] = ['binary', 'json'];

export interface BenchmarkOptions extends LoadContext {
  readonly plan: Plan;
  readonly progress: Progress;
}

/** Steps that the progress counts: one for each run as planned, one for each other part. */
export function countSteps(plan: Plan): number {
  const { rounds, loads, engines, peers, ladder, dialUs, payloadRounds } = plan;
  const routes = 1 + engines.length + peers.length;
  const inTurns = routes * (rounds * loads.length + ladder.length) + dialUs.length * rounds;
  const live = payloadRounds === 0 ? 0 : 1 + payloadRounds * LIVE_CODECS.length;
  return 1 + inTurns + live + 2;
}

/** @throws RelayError when a process failed; an AbortError when `signal` fired */
export async function runBenchmark(options: BenchmarkOptions): Promise<BenchResults> {
  const { plan, progress } = options;
  const startedAt = new Date().toISOString();
  const startMs = performance.now();

  progress.step('starting game servers, relays and peers');
  const busyBefore = await watchIdle(options.signal);
  const backends = await startGameServers('binary', options);
  await primeServers(backends, {
    ...mainLoad(plan, 'binary'),
    players: Math.max(plan.players, ...plan.loads, ...plan.ladder),
  });
  const { routes, absent } = await openRoutes(backends, options);
  await Promise.all(routes.map((route) => warmRouteUp(route, mainLoad(plan, 'binary'))));

  const runs = await compare(routes, options);
  const ladders = await climbLadders(routes, runs, {
    ...options,
    endMs: Math.min(performance.now() + plan.ladderBudgetMs, startMs + plan.ladderEndMs) - ladderStepMs(plan),
  });
  await Promise.all(routes.map((route) => route.close()));
  const dialRuns = await turnDial(backends, options);
  const liveRuns = await playLive(options);
  await options.group.close();

  progress.step('encoding and decoding');
  await breathe(options.signal);
  const rows = measurePayloadTable({ tickHz: plan.tickHz, turns: 5, turnMs: plan.quick ? 2 : 20 });
  progress.step('looking up sessions');
  await breathe(options.signal);
  const sessionTable = measureSessionTableLookup(
    plan.quick ? { turns: 3, turnMs: 30 } : { turns: 9, turnMs: 60 },
  );
  await breathe(options.signal);
  return {
    startedAt,
    tookMs: performance.now() - startMs,
    machine: describeMachine(busyBefore),
    plan,
    routes: routes.map(({ info }) => info),
    absent,
    comparison: { runs, loads: compareLoads(runs, routes, busyBefore) },
    ladders,
    payload: { rows, runs: liveRuns, live: summarise(liveRuns, 'codec') },
    dial: { runs: dialRuns, settings: summarise(dialRuns, 'route') },
    sessionTable,
  };
}

/** Between parts that never wait, lets a signal be heard. @throws AbortError when one was */
async function breathe(signal: AbortSignal): Promise<void> {
  await sleep(0, undefined, { signal });
}

/** The direct route, the plan's engines, and those of its peers that can be had. */
export async function openRoutes(
  backends: readonly string[],
  options: LoadContext & { readonly plan: Plan },
): Promise<{ readonly routes: readonly Route[]; readonly absent: readonly AbsentPeer[] }> {
  const { plan } = options;
  const relays = await Promise.all(plan.engines.map((engine) => openRelay(engine, { ...options, backends })));
  const peers = await Promise.all(plan.peers.map((peer) => openPeer(peer, { ...options, backends })));
  return {
    routes: [openDirect({ ...options, backends }), ...relays, ...peers.filter((peer) => 'info' in peer)],
    absent: peers.filter((peer) => 'reason' in peer),
  };
}

async function watchIdle(signal: AbortSignal): Promise<number> {
  const before = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  return cpuSpent(before, readCpuTimes()).share;
}

/** The routes take turns at one load, then at the next; a round is all of that. */
async function compare(routes: readonly Route[], options: BenchmarkOptions): Promise<LoadRun[]> {
  const { plan, progress } = options;
  const runs: LoadRun[] = [];
  const startMs = performance.now();
  for (let round = 1; round <= plan.rounds; round++) {
    const spentMs = performance.now() - startMs;
    if (round > 1 && spentMs + spentMs / (round - 1) > plan.comparisonBudgetMs) {
      progress.skip((plan.rounds - round + 1) * plan.loads.length * routes.length);
      break;
    }
    for (const players of plan.loads) {
      for (const route of routes) {
        progress.step(`round ${round} of ${plan.rounds}: ${players} players, ${route.info.name}`);
        const load = { ...mainLoad(plan, 'binary'), players, durationMs: plan.comparisonMs };
        runs.push(await runLoad(route, load, { ...options, round }));
      }
    }
  }
  return runs;
}

function compareLoads(
  runs: readonly LoadRun[],
  routes: readonly Route[],
  busyBefore: number,
): LoadComparison[] {
  const machineIsShared = busyBefore >= SHARED_MACHINE;
  const carriers = routes.filter(({ info }) => info.kind !== 'direct').map(({ info }) => info.name);
  return [...new Set(runs.map(({ players }) => players))].map((players) => {
    const atLoad = runs.filter((run) => run.players === players);
    return {
      players,
      routes: summarise(atLoad, 'route'),
      standings: rankRuns(atLoad, { routes: carriers, machineIsShared }),
    };
  });
}

async function climbLadders(
  routes: readonly Route[],
  compared: readonly LoadRun[],
  options: BenchmarkOptions & {
    /** No step begins later, by `performance.now()`. */
    readonly endMs: number;
  },
): Promise<LadderResult[]> {
  const { plan, progress, endMs } = options;
  let taken = 0;
  const ladders = await climb({
    routes: routes.map(({ info }) => info.name),
    steps: plan.ladder,
    tickHz: plan.tickHz,
    compared,
    hasTime: () => performance.now() < endMs,
    measure: (name, players) => {
      taken++;
      progress.step(`ladder: ${players} players, ${name}`);
      const route = routes.find(({ info }) => info.name === name)!;
      const load = { ...mainLoad(plan, 'binary'), players, durationMs: plan.ladderMs };
      return runLoad(route, load, { ...options, round: 1 });
    },
  });
  progress.skip(Math.max(0, routes.length * plan.ladder.length - taken));
  return ladders;
}

/** The engine that has the dial, once for each setting of --coalesce, in turns. */
async function turnDial(backends: readonly string[], options: BenchmarkOptions): Promise<LoadRun[]> {
  const { plan, progress } = options;
  const relays = await Promise.all(
    plan.dialUs.map((us) => openRelay(DIAL_ENGINE, { ...options, backends }, ['--coalesce', `${us}`])),
  );
  for (const relay of relays) await warmRouteUp(relay, mainLoad(plan, 'binary'));
  const runs: LoadRun[] = [];
  for (let round = 1; round <= plan.rounds; round++) {
    for (const relay of relays) {
      progress.step(`dial, round ${round} of ${plan.rounds}: ${relay.info.name}`);
      const load = { ...mainLoad(plan, 'binary'), durationMs: plan.comparisonMs };
      runs.push(await runLoad(relay, load, { ...options, round }));
    }
  }
  await Promise.all(relays.map((relay) => relay.close()));
  return runs;
}

/** The same players and updates through the relay in each codec, with game servers and a relay that are as fresh. */
async function playLive(options: BenchmarkOptions): Promise<LoadRun[]> {
  const { plan, progress } = options;
  if (plan.payloadRounds === 0) return [];
  progress.step('live payload: starting fresh game servers and relays');
  const lanes = await Promise.all(
    LIVE_CODECS.map(async (codec) => {
      const backends = await startGameServers(codec, options);
      const route = await openRelay(plan.engines[0]!, { ...options, backends });
      return { codec, backends, route };
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

/** What a step of the ladder takes. */
function ladderStepMs({ rampMs, warmupMs, ladderMs }: Plan): number {
  return rampMs + warmupMs + ladderMs + RUN_OVERHEAD_MS;
}

function mainLoad(plan: Plan, codec: CodecName): Omit<Load, 'durationMs'> {
  const { players, tickHz, seed, rampMs, warmupMs } = plan;
  return { players, tickHz, seed, rampMs, warmupMs, codec };
}
