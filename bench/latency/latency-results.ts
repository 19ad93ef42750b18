/** What `bench --latency` measured, as latency.json holds it. */
import type { AbsentPeer, Machine, Pinning, RouteInfo } from '../results.ts';

/** What one ping client does. */
export interface PingPlan {
  readonly target: string;
  /** Where it sends from. */
  readonly local: string;
  readonly durationMs: number;
}

/** What one ping client found: round trips in µs. */
export interface PingSummary {
  readonly answered: number;
  readonly lost: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

export interface PingRun extends PingSummary {
  readonly route: string;
  readonly round: number;
}

/** A route over all rounds. */
export interface PingRoute {
  readonly name: string;
  readonly answered: number;
  readonly lost: number;
  /** Medians over the rounds, in µs. */
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  /** Median over the rounds of this route's p50 less that of the direct route in the same round, in µs; 0 for itself. */
  readonly overDirectUs: number;
}

export interface LatencyResults {
  readonly startedAt: string;
  readonly machine: Machine;
  readonly site: string;
  readonly pinning: Pinning | undefined;
  readonly rounds: number;
  readonly runMs: number;
  readonly infos: readonly RouteInfo[];
  readonly absent: readonly AbsentPeer[];
  readonly runs: readonly PingRun[];
  readonly routes: readonly PingRoute[];
}
