/**
 * Counters of one TCP listener. What always holds: accepted = the sum of closed + the connections that are live.
 */
import { CLOSE_REASONS, type CloseReason } from './close-reason.ts';

export class TcpCounters {
  accepted = 0;
  retried = 0;
  acceptErrors = 0;
  downstreamBytes = 0;
  upstreamBytes = 0;
  readonly #closed = new Map<CloseReason, number>(CLOSE_REASONS.map((reason) => [reason, 0]));

  closed(reason: CloseReason): void {
    this.#closed.set(reason, this.#closed.get(reason)! + 1);
  }

  /** A readable copy, for metrics, the admin API and tests. */
  dump(): TcpCounts {
    return {
      accepted: this.accepted,
      closed: Object.fromEntries(this.#closed) as Record<CloseReason, number>,
      retried: this.retried,
      acceptErrors: this.acceptErrors,
      downstreamBytes: this.downstreamBytes,
      upstreamBytes: this.upstreamBytes,
    };
  }
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
