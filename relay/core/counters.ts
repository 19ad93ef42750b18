/**
 * Counters of one listener, as doubles in one typed array, so that a worker can keep them in shared memory.
 *
 * Layout, for each direction: received, received bytes, forwarded, forwarded bytes, then one for each drop reason.
 * What must always hold once nothing is in flight: received = forwarded + the sum of drops. Datagrams that the kernel dropped
 * before the relay received them stand apart.
 */
import { DROP_REASONS } from './drop-reason.ts';

/** downstream: datagrams from clients towards backends. upstream: replies towards clients. */
export const DIRECTIONS = ['downstream', 'upstream'] as const;

export const DOWNSTREAM = 0;
export const UPSTREAM = 1;

// The layout is shared with the kernel engine's programs, whose counters are the same, as integers.
export const RECEIVED = 0;
export const RECEIVED_BYTES = 1;
export const FORWARDED = 2;
export const FORWARDED_BYTES = 3;
export const DROPS = 4;
export const PER_DIRECTION = DROPS + DROP_REASONS.length;
export const SESSIONS_OPENED = 2 * PER_DIRECTION;
export const SESSIONS_EXPIRED = SESSIONS_OPENED + 1;
export const SESSIONS_EVICTED = SESSIONS_OPENED + 2;
export const SESSIONS_REPINNED = SESSIONS_OPENED + 3;
const KERNEL_DROPS = SESSIONS_OPENED + 4;
export const LIVE_SESSIONS = SESSIONS_OPENED + 5;
const UPSTREAM_SOCKETS = SESSIONS_OPENED + 6;
export const UPSTREAM_UNREACHABLE = SESSIONS_OPENED + 7;

/** Doubles in one block. */
export const COUNTER_COUNT = SESSIONS_OPENED + 8;

export class ListenerCounters {
  readonly values: Float64Array;

  constructor(values: Float64Array = new Float64Array(COUNTER_COUNT)) {
    this.values = values;
  }

  received(direction: number, bytes: number): void {
    const base = direction * PER_DIRECTION;
    this.values[base + RECEIVED]!++;
    this.values[base + RECEIVED_BYTES]! += bytes;
  }

  forwarded(direction: number, datagrams: number, bytes: number): void {
    const base = direction * PER_DIRECTION;
    this.values[base + FORWARDED]! += datagrams;
    this.values[base + FORWARDED_BYTES]! += bytes;
  }

  dropped(direction: number, reason: number, datagrams = 1): void {
    this.values[direction * PER_DIRECTION + DROPS + reason]! += datagrams;
  }

  sessionOpened(): void {
    this.values[SESSIONS_OPENED]!++;
  }

  sessionExpired(): void {
    this.values[SESSIONS_EXPIRED]!++;
  }

  sessionEvicted(): void {
    this.values[SESSIONS_EVICTED]!++;
  }

  sessionRepinned(): void {
    this.values[SESSIONS_REPINNED]!++;
  }

  /** ICMP errors that answered datagrams to backends, as far as the engine can see them. */
  upstreamUnreachable(errors: number): void {
    this.values[UPSTREAM_UNREACHABLE]! += errors;
  }

  get sessionsOpened(): number {
    return this.values[SESSIONS_OPENED]!;
  }

  /** Live sessions of the listener. */
  get liveSessions(): number {
    return this.values[LIVE_SESSIONS]!;
  }

  set liveSessions(count: number) {
    this.values[LIVE_SESSIONS] = count;
  }

  get upstreamSockets(): number {
    return this.values[UPSTREAM_SOCKETS]!;
  }

  set upstreamSockets(count: number) {
    this.values[UPSTREAM_SOCKETS] = count;
  }

  /** Datagrams to the listener's address that a full receive buffer cost, as far as the engine can see them. */
  set kernelDrops(count: number) {
    this.values[KERNEL_DROPS] = count;
  }

  /** A readable copy, for metrics, the admin API and tests. */
  dump(): ListenerCounts {
    const { values } = this;
    const direction = (index: number): DirectionCounts => {
      const base = index * PER_DIRECTION;
      const dropped = Object.fromEntries(DROP_REASONS.map((name, i) => [name, values[base + DROPS + i]!]));
      return {
        received: values[base + RECEIVED]!,
        receivedBytes: values[base + RECEIVED_BYTES]!,
        forwarded: values[base + FORWARDED]!,
        forwardedBytes: values[base + FORWARDED_BYTES]!,
        dropped,
      };
    };
    return {
      downstream: direction(DOWNSTREAM),
      upstream: direction(UPSTREAM),
      sessionsOpened: values[SESSIONS_OPENED]!,
      sessionsExpired: values[SESSIONS_EXPIRED]!,
      sessionsEvicted: values[SESSIONS_EVICTED]!,
      sessionsRepinned: values[SESSIONS_REPINNED]!,
      kernelDrops: values[KERNEL_DROPS]!,
      upstreamUnreachable: values[UPSTREAM_UNREACHABLE]!,
    };
  }
}

export interface DirectionCounts {
  readonly received: number;
  readonly receivedBytes: number;
  readonly forwarded: number;
  readonly forwardedBytes: number;
  /** By drop reason name; every reason is present. */
  readonly dropped: Readonly<Record<string, number>>;
}

export interface ListenerCounts {
  readonly downstream: DirectionCounts;
  readonly upstream: DirectionCounts;
  readonly sessionsOpened: number;
  readonly sessionsExpired: number;
  readonly sessionsEvicted: number;
  readonly sessionsRepinned: number;
  /** Dropped by the kernel before the relay received them; not part of the sums. */
  readonly kernelDrops: number;
  /** ICMP errors that came back for datagrams to backends, which count as forwarded; not part of the sums. */
  readonly upstreamUnreachable: number;
}
