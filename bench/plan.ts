/** From the command line's arguments to what will be run, and for how long. */
import type { Plan } from './results.ts';

export const TICK_HZ = 128;
const GAME_SERVERS = 2;
const LADDER = [50, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1_000] as const;

export interface PlanOptions {
  readonly players: number;
  readonly engines: readonly string[];
  readonly seed: number;
  readonly quick: boolean;
  /** By default 3, or 1 when quick. */
  readonly rounds: number | undefined;
  readonly ladder: readonly number[] | undefined;
}

export function makePlan({ players, engines, seed, quick, rounds, ladder }: PlanOptions): Plan {
  const shared = { players, tickHz: TICK_HZ, seed, gameServers: GAME_SERVERS, engines, quick };
  return quick
    ? {
        ...shared,
        rounds: rounds ?? 1,
        ladder: ladder ?? [players, 2 * players],
        comparisonMs: 800,
        ladderMs: 500,
        payloadMs: 500,
        payloadRounds: 1,
        rampMs: 100,
        warmupMs: 200,
        budgetMs: 10_500,
      }
    : {
        ...shared,
        rounds: rounds ?? 3,
        ladder: ladder ?? LADDER,
        comparisonMs: 2_500,
        ladderMs: 1_000,
        payloadMs: 1_500,
        payloadRounds: 2,
        rampMs: 200,
        warmupMs: 300,
        budgetMs: 58_000,
      };
}
