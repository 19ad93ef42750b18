/**
 * Counters of one TCP listener, in memory that threads may share: one writes them, others read. What always holds:
 * accepted = the sum of closed + the connections that are live.
 */
import { MAX_BACKENDS } from '../core/limits.ts';
import { CLOSE_REASONS, type CloseReason } from '../core/close-reason.ts';

const ACCEPTED = 0;
const RETRIED = 1;
const ACCEPT_ERRORS = 2;
const DOWNSTREAM_BYTES = 3;
const UPSTREAM_BYTES = 4;
const QUEUED = 5;
const CLOSED = 6;
const LIVE_BY_SLOT = CLOSED + CLOSE_REASONS.length;

/** Numbers that the counters of one listener take. */
export const TCP_COUNTER_CELLS = LIVE_BY_SLOT + MAX_BACKENDS;

const INDEX = new Map<CloseReason, number>(CLOSE_REASONS.map((reason, i) => [reason, CLOSED + i]));

export class TcpCounters {
  readonly #cells: Float64Array;

  /** @param cells TCP_COUNTER_CELLS of them */
  constructor(cells: Float64Array = new Float64Array(TCP_COUNTER_CELLS)) {
    this.#cells = cells;
  }

  get accepted(): number {
    return this.#cells[ACCEPTED]!;
  }

  get retried(): number {
    return this.#cells[RETRIED]!;
  }

  get downstreamBytes(): number {
    return this.#cells[DOWNSTREAM_BYTES]!;
  }

  set downstreamBytes(bytes: number) {
    this.#cells[DOWNSTREAM_BYTES] = bytes;
  }

  get upstreamBytes(): number {
    return this.#cells[UPSTREAM_BYTES]!;
  }

  set upstreamBytes(bytes: number) {
    this.#cells[UPSTREAM_BYTES] = bytes;
  }

  /** Live connections that wait for a limit. */
  get queued(): number {
    return this.#cells[QUEUED]!;
  }

  set queued(count: number) {
    this.#cells[QUEUED] = count;
  }

  accept(): void {
    this.#cells[ACCEPTED]!++;
  }

  retry(): void {
    this.#cells[RETRIED]!++;
  }

  acceptFailed(): void {
    this.#cells[ACCEPT_ERRORS]!++;
  }

  closed(reason: CloseReason): void {
    this.#cells[INDEX.get(reason)!]!++;
  }

  /** A connection is given to the backend in this slot of the pool (1), or leaves it (-1). */
  assigned(slot: number, change: 1 | -1): void {
    this.#cells[LIVE_BY_SLOT + slot]! += change;
  }

  /** Live connections of the backend in this slot, from this listener. */
  liveOn(slot: number): number {
    return this.#cells[LIVE_BY_SLOT + slot]!;
  }

  /** Whoever wrote is gone, and the live connections with it: all of them count as closed. */
  loseLive(reason: CloseReason): void {
    this.#cells[INDEX.get(reason)!]! += liveIn(this.dump());
    this.#cells[QUEUED] = 0;
    this.#cells.fill(0, LIVE_BY_SLOT);
  }

  /** A readable copy, for metrics, the admin API and tests. */
  dump(): TcpCounts {
    const cells = this.#cells;
    // What is closed first: another thread may count on, and never more is closed than was accepted.
    const closed = Object.fromEntries(CLOSE_REASONS.map((reason, i) => [reason, cells[CLOSED + i]!]));
    return {
      accepted: cells[ACCEPTED]!,
      closed: closed as Record<CloseReason, number>,
      retried: cells[RETRIED]!,
      acceptErrors: cells[ACCEPT_ERRORS]!,
      downstreamBytes: cells[DOWNSTREAM_BYTES]!,
      upstreamBytes: cells[UPSTREAM_BYTES]!,
    };
  }
}

/** Live connections: those that were accepted and have not ended. */
export function liveIn({ accepted, closed }: TcpCounts): number {
  return Object.values(closed).reduce((live, count) => live - count, accepted);
}

export interface TcpCounts {
  /** Connections that the system handed over, refused ones included. */
  readonly accepted: number;
  /** By close reason; every reason is present. */
  readonly closed: Readonly<Record<CloseReason, number>>;
  /** Connections that a second backend was tried for. */
  readonly retried: number;
  /** Times that the system failed to hand over a connection, for want of descriptors as a rule. */
  readonly acceptErrors: number;
  /** Bytes read from clients, those of closed connections included. */
  readonly downstreamBytes: number;
  /** Bytes read from backends, those of closed connections included. */
  readonly upstreamBytes: number;
}
