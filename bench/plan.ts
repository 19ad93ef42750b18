/** From the command line's arguments to what will be run, and for how long. */
import type { Pinning, Plan } from './results.ts';

export const TICK_HZ = 128;
export const GAME_SERVERS = 2;
const LADDER = [50, 100, 150, 200, 250, 300, 400, 600, 800, 1_000] as const;
/** For many relays, which in the ladder's time take two or three steps each. */
const STEEP_LADDER = [50, 100, 200, 400, 800] as const;
/** Relays that can be compared at two loads, in several rounds, in the time that the benchmark has. */
const MOST_AT_TWO_LOADS = 3;
/** Whoever names rounds or steps wants them all: a day. */
const NO_BUDGET_MS = 86_400_000;

export interface PlanOptions {
  readonly players: number;
  readonly engines: readonly string[];
  readonly peers: readonly string[];
  readonly pinning: Pinning | undefined;
  readonly dialUs: readonly number[];
  readonly seed: number;
  readonly quick: boolean;
  readonly netns: boolean;
  /** By default the players, and three times as many where there is time: not when quick, and not with more than three relays. */
  readonly loads: readonly number[] | undefined;
  /** By default 3, or 1 when quick. */
  readonly rounds: number | undefined;
  readonly ladder: readonly number[] | undefined;
}

export function makePlan({ loads, rounds, ladder, quick, ...asked }: PlanOptions): Plan {
  const { players, engines, peers } = asked;
  const isCrowded = engines.length + peers.length > MOST_AT_TWO_LOADS;
  const isBounded = rounds === undefined && loads === undefined;
  const shared = {
    ...asked,
    tickHz: TICK_HZ,
    gameServers: GAME_SERVERS,
    quick,
    comparisonBudgetMs: isBounded ? 48_000 : NO_BUDGET_MS,
    ladderBudgetMs: ladder !== undefined ? NO_BUDGET_MS : quick ? 5_000 : 22_000,
    ladderEndMs: isBounded && ladder === undefined ? (quick ? 14_000 : 62_000) : NO_BUDGET_MS,
  };
  return quick
    ? {
        ...shared,
        loads: loads ?? [players],
        rounds: rounds ?? 1,
        ladder: ladder ?? [players, 3 * players],
        comparisonMs: 600,
        ladderMs: 500,
        payloadMs: 0,
        payloadRounds: 0,
        rampMs: 100,
        warmupMs: 350,
      }
    : {
        ...shared,
        loads: loads ?? (isCrowded ? [players] : [players, 3 * players]),
        rounds: rounds ?? 3,
        ladder: ladder ?? (isCrowded ? STEEP_LADDER : LADDER),
        comparisonMs: 1_000,
        ladderMs: 800,
        payloadMs: 1_200,
        payloadRounds: 1,
        rampMs: 150,
        warmupMs: 550,
      };
}
