/** What a pool shows of itself, to the admin API and the metrics. */
import type { BackendState } from '../core/pool-snapshot.ts';

/** One backend, as the admin API lists it. */
export interface BackendView {
  readonly id: string;
  readonly address: string;
  readonly weight: number;
  readonly state: BackendState;
  readonly origin: 'static' | 'registered';
  /** As the server reported them. */
  readonly players?: number;
  readonly heartbeatAgeMs?: number;
  /** Why the last check failed; absent when it did not. */
  readonly failure?: string;
  /** Until a drain's deadline; absent without one. */
  readonly drainLeftMs?: number;
}

export interface PoolView {
  readonly name: string;
  /** Waits for the servers that register, and takes no players yet. */
  readonly settling: boolean;
  /** Backends that take new players; none while the pool settles. */
  readonly ready: number;
  readonly backends: readonly BackendView[];
}

export type CheckResult = 'ok' | 'failed' | 'skipped';
export type RegistrationResult = 'registered' | 'renewed' | 'left' | 'expired' | 'refused';

/** What happened in a pool since the start. */
export interface PoolCounts {
  readonly checks: Readonly<Record<CheckResult, number>>;
  readonly registrations: Readonly<Record<RegistrationResult, number>>;
}
