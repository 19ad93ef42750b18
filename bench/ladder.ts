/**
 * The ladder: how many players a route carries. It climbs step by step and ends at the first step that fails twice in
 * a row, at one where the generator was the limit, at the top, or when time is up.
 */
import type { LadderEnd, LadderResult, LoadRun } from './results.ts';

/** A step passes with less loss than this, as a share of the updates sent... */
export const LADDER_MAX_LOSS = 0.001;

/** ...and with a p99 round trip under one tick. */
export function passes(run: LoadRun, tickHz: number): boolean {
  return run.loss < LADDER_MAX_LOSS && run.roundTripUs.p99 < 1e6 / tickHz;
}

export interface ClimbOptions {
  readonly route: string;
  /** Players of each step, ascending. */
  readonly steps: readonly number[];
  readonly tickHz: number;
  readonly measure: (players: number) => Promise<LoadRun>;
  /** Whether there is time for one more step. */
  readonly hasTime: () => boolean;
}

export async function climb(options: ClimbOptions): Promise<LadderResult> {
  const { route, steps, tickHz, measure, hasTime } = options;
  const taken: { passed: boolean; run: LoadRun }[] = [];
  const take = async (players: number): Promise<boolean> => {
    const run = await measure(players);
    taken.push({ passed: passes(run, tickHz), run });
    return taken.at(-1)!.passed;
  };
  const result = (mostPlayers: number, end: LadderEnd): LadderResult => ({
    route,
    mostPlayers,
    end,
    steps: taken,
  });

  let mostPlayers = 0;
  for (const players of steps) {
    if (!hasTime()) return result(mostPlayers, 'budget');
    // A step may fail by one hiccup of the machine; it counts as failed when it fails again.
    if (!(await take(players)) && !(await take(players))) {
      const limited = taken.slice(-2).every(({ run }) => run.generatorLimit !== undefined);
      return result(mostPlayers, limited ? 'generator' : 'failed');
    }
    mostPlayers = players;
  }
  return result(mostPlayers, 'top');
}
