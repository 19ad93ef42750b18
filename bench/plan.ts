/** From the command line's arguments to what will be run, and for how long. */
import type { Pinning, Plan } from './results.ts';

export const TICK_HZ = 128;
export const GAME_SERVERS = 2;
const LADDER = [50, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1_000] as const;
/** Whoever names the ladder's steps wants them all: an hour. */
const NO_BUDGET_MS = 3_600_000;

export interface PlanOptions {
  readonly players: number;
  readonly engines: readonly string[];
  readonly peers: readonly string[];
  readonly pinning: Pinning | undefined;
  readonly dialUs: readonly number[];
  readonly seed: number;
  readonly quick: boolean;
  /** By default the players and three times as many, or the players alone when quick. */
  readonly loads: readonly number[] | undefined;
  /** By default 3, or 1 when quick. */
  readonly rounds: number | undefined;
  readonly ladder: readonly number[] | undefined;
}

export function makePlan({ loads, rounds, ladder, quick, ...asked }: PlanOptions): Plan {
  const { players } = asked;
  const shared = { ...asked, tickHz: TICK_HZ, gameServers: GAME_SERVERS, quick };
  return quick
    ? {
        ...shared,
        loads: loads ?? [players],
        rounds: rounds ?? 1,
        ladder: ladder ?? [players, 3 * players],
        comparisonMs: 600,
        ladderMs: 500,
        payloadMs: 400,
        payloadRounds: 1,
        rampMs: 100,
        warmupMs: 150,
        budgetMs: ladder === undefined ? 11_500 : NO_BUDGET_MS,
      }
    : {
        ...shared,
        loads: loads ?? [players, 3 * players],
        rounds: rounds ?? 3,
        ladder: ladder ?? LADDER,
        comparisonMs: 1_200,
        ladderMs: 800,
        payloadMs: 1_200,
        payloadRounds: 1,
        rampMs: 150,
        warmupMs: 250,
        budgetMs: ladder === undefined ? 72_000 : NO_BUDGET_MS,
      };
}
