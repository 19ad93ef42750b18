/**
 * The ladder: how many players each route carries. All routes climb together, step by step, so that a slow moment of the
 * machine falls on all, and short time is shared. A route ends at the first step that fails twice in a row, at the top, or
 * when time is up.
 */
import type { LadderEnd, LadderResult, LoadRun } from './results.ts';

/** A step may fail by one hiccup of the machine; it counts as failed when it fails again. */
const TRIES = 2;

/** A step passes with less loss than this, as a share of the updates sent... */
export const LADDER_MAX_LOSS = 0.001;

/** ...and with a p99 round trip under one tick. */
export function passes(run: LoadRun, tickHz: number): boolean {
  return run.loss < LADDER_MAX_LOSS && run.roundTripUs.p99 < 1e6 / tickHz;
}

export interface ClimbOptions {
  readonly routes: readonly string[];
  /** Players of each step, ascending. */
  readonly steps: readonly number[];
  readonly tickHz: number;
  /** Runs of the comparison: a load at which every round of a route passed is taken as climbed. */
  readonly compared: readonly LoadRun[];
  readonly measure: (route: string, players: number) => Promise<LoadRun>;
  /** Whether there is time for one more step. */
  readonly hasTime: () => boolean;
}

export async function climb(options: ClimbOptions): Promise<LadderResult[]> {
  const { routes, steps, hasTime } = options;
  const climbers = routes.map((route) => new Climber(route, options));
  for (const players of steps) {
    let climbing = climbers.filter((climber) => climber.needs(players));
    for (let left = TRIES; left > 0; left--) {
      const failed: Climber[] = [];
      for (const climber of climbing) {
        if (!hasTime()) climber.end = 'budget';
        else if (!(await climber.take(players))) failed.push(climber);
      }
      climbing = failed;
    }
    for (const climber of climbing) climber.giveUp();
  }
  return climbers.map((climber) => climber.result());
}

class Climber {
  end: LadderEnd | undefined;
  readonly #route: string;
  readonly #options: ClimbOptions;
  readonly #steps: { passed: boolean; run: LoadRun }[];
  #mostPlayers: number;

  constructor(route: string, options: ClimbOptions) {
    this.#route = route;
    this.#options = options;
    this.#steps = climbedBefore(route, options).map((run) => ({ passed: true, run }));
    this.#mostPlayers = this.#steps.at(-1)?.run.players ?? 0;
  }

  /** Whether it still climbs, and this step is above it. */
  needs(players: number): boolean {
    return this.end === undefined && players > this.#mostPlayers;
  }

  /** @returns whether the step passed */
  async take(players: number): Promise<boolean> {
    const run = await this.#options.measure(this.#route, players);
    const passed = passes(run, this.#options.tickHz);
    this.#steps.push({ passed, run });
    if (passed) this.#mostPlayers = players;
    return passed;
  }

  /** Its last step failed each time. */
  giveUp(): void {
    const limited = this.#steps.slice(-TRIES).every(({ run }) => run.generatorLimit !== undefined);
    this.end = limited ? 'generator' : 'failed';
  }

  result(): LadderResult {
    return {
      route: this.#route,
      mostPlayers: this.#mostPlayers,
      end: this.end ?? 'top',
      steps: this.#steps,
    };
  }
}

/** The last round at each load that the route passed in every round, up to the first that it did not. */
function climbedBefore(route: string, { compared, tickHz }: ClimbOptions): LoadRun[] {
  const own = compared.filter((run) => run.route === route);
  const loads = [...new Set(own.map(({ players }) => players))].sort((a, b) => a - b);
  const rounds = (load: number): LoadRun[] => own.filter(({ players }) => players === load);
  const fails = loads.findIndex((load) => !rounds(load).every((run) => passes(run, tickHz)));
  return loads.slice(0, fails === -1 ? undefined : fails).map((load) => rounds(load).at(-1)!);
}
