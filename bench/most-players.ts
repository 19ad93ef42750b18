/**
 * How many players each route carries: a search for each (player-search.ts), by two rules, from the same runs. The routes take
 * turns, run by run, so that a slow moment of the machine falls on all of them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { openRoutes } from './benchmark.ts';
import { startGameServers } from './game-servers.ts';
import { LADDER_MAX_LOSS, passes } from './ladder.ts';
import { runLoad, type LoadContext } from './load-run.ts';
import { cpuSpent, describeMachine, readCpuTimes } from './machine.ts';
import { bracket, nextLoad, type Trial } from './player-search.ts';
import type { Progress } from './progress.ts';
import type { CarriedPlayers, LoadRun, MostPlayersResults, Plan, PlayerRule } from './results.ts';
import type { Route } from './routes.ts';
import { primeServers, warmRouteUp } from './warm-up.ts';

const IDLE_WATCH_MS = 400;
const FIRST_PLAYERS = 100;
/** Bounds how long a route whose runs are erratic can go on. */
const RUNS_PER_ROUTE = 24;
const DURATION_MS = 2_000;
/** A run counts as offered when the generators sent this share of what they were asked for. */
const LEAST_ACHIEVED = 0.99;

export interface MostPlayersOptions extends LoadContext {
  readonly plan: Plan;
  /** The most players that are tried. */
  readonly top: number;
  readonly progress: Progress;
}

/** One for the start, and the most runs that there can be. */
export function countMostPlayersSteps({ engines, peers }: Plan): number {
  return 1 + (1 + engines.length + peers.length) * RUNS_PER_ROUTE;
}

/** @throws RelayError when a process failed; an AbortError when `signal` fired */
export async function findMostPlayers(options: MostPlayersOptions): Promise<MostPlayersResults> {
  const { plan, top, progress, signal } = options;
  const startedAt = new Date().toISOString();
  progress.step('starting game servers, relays and peers');
  const idle = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  const machine = describeMachine(cpuSpent(idle, readCpuTimes()).share);
  const { tickHz, seed, rampMs, warmupMs } = plan;
  const load = { tickHz, seed, rampMs, warmupMs, codec: 'binary', durationMs: DURATION_MS } as const;
  const backends = await startGameServers('binary', options);
  await primeServers(backends, { ...load, players: top });
  const { routes, absent } = await openRoutes(backends, options);
  for (const route of routes) await warmRouteUp(route, { ...load, players: FIRST_PLAYERS });

  const searches = routes.map((route) => new RouteSearch(route, { top, tickHz }));
  for (let turn = 1; searches.some((search) => search.next() !== undefined); turn++) {
    for (const search of searches) {
      const players = search.next();
      if (players === undefined) continue;
      progress.step(`${search.route.info.name}: ${players} players`);
      search.runs.push(await runLoad(search.route, { ...load, players }, { ...options, round: turn }));
    }
  }
  progress.skip(searches.reduce((sum, { runs }) => sum + RUNS_PER_ROUTE - runs.length, 0));
  await options.group.close();
  return {
    startedAt,
    machine,
    pinning: options.pinning,
    tickHz,
    top,
    durationMs: DURATION_MS,
    absent,
    carried: searches.map((search) => search.result()),
  };
}

/** Whether a run passes by a rule: what was offered arrived; and, by `p99`, it did so within a tick. */
export function passesBy(rule: PlayerRule, run: LoadRun, tickHz: number): boolean {
  if (run.achievedPerSecond < LEAST_ACHIEVED * run.offeredPerSecond) return false;
  return rule === 'p99' ? passes(run, tickHz) : run.loss < LADDER_MAX_LOSS;
}

class RouteSearch {
  readonly route: Route;
  readonly runs: LoadRun[] = [];
  readonly #bounds: { readonly top: number; readonly tickHz: number };

  constructor(route: Route, bounds: { readonly top: number; readonly tickHz: number }) {
    this.route = route;
    this.#bounds = bounds;
  }

  next(): number | undefined {
    if (this.runs.length >= RUNS_PER_ROUTE) return undefined;
    return this.#nextBy('loss') ?? this.#nextBy('p99');
  }

  result(): CarriedPlayers {
    const { runs } = this;
    return {
      route: this.route.info,
      byLoss: this.#carried('loss'),
      byP99: this.#carried('p99'),
      runs,
    };
  }

  #trials(rule: PlayerRule): Trial[] {
    const { tickHz } = this.#bounds;
    return this.runs.map((run) => ({ players: run.players, passed: passesBy(rule, run, tickHz) }));
  }

  #nextBy(rule: PlayerRule): number | undefined {
    const { top } = this.#bounds;
    return nextLoad(this.#trials(rule), { first: Math.min(FIRST_PLAYERS, top), top });
  }

  #carried(rule: PlayerRule): CarriedPlayers['byLoss'] {
    const { passed, failed } = bracket(this.#trials(rule));
    if (this.#nextBy(rule) !== undefined) return { players: passed, end: 'budget' };
    if (failed === Infinity) return { players: passed, end: 'top' };
    const last = this.runs.filter(({ players }) => players === failed);
    const isLimited = last.every(({ generatorLimit }) => generatorLimit !== undefined);
    return { players: passed, end: isLimited ? 'generator' : 'failed' };
  }
}
