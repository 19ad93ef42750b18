/**
 * Why a datagram was not forwarded. Every drop has one reason and is counted under it; the names are the `reason` label
 * of `tickrelay_datagrams_dropped_total` and are documented in docs/metrics.md.
 */

/** Names by number. The order is the numbering; append only. */
export const DROP_REASONS = [
  /** The source address or port can't be answered: port 0, multicast, unspecified. */
  'bad-source',
  /** No backend of the pool is ready. */
  'no-backend',
  /** The session table is full, and no half-open session could make room. */
  'session-table-full',
  /** The pin table is full of clients that have sessions. */
  'pin-table-full',
  /** The client IP has its cap of sessions. */
  'source-session-limit',
  /** The client IP opens sessions faster than its rate. */
  'source-rate-limit',
  /** The listener opens sessions faster than its rate. */
  'listener-rate-limit',
  /** The listener is draining and takes no new sessions. */
  'draining',
  /** No upstream socket could be had: the cap, descriptors or ports are used up. */
  'no-upstream-socket',
  /** A reply from an address that is no backend of this listener. */
  'unknown-upstream',
  /** A reply from a backend that no longer serves a session on this upstream socket. */
  'late-reply',
  /** A reply larger than the amplification limit allows towards a half-open session. */
  'amplification-limit',
  /** The socket's send queue is full. */
  'send-queue-full',
  /** The system refused to send: no route, no buffers, too large for the path. */
  'send-failed',
  /** Its lengths contradict each other (kernel engine; elsewhere the system drops it before). */
  'malformed',
  /** A fragment of a larger datagram (kernel engine). */
  'fragment',
  /** The client has an IPv4 address and the backend an IPv6 one, or the other way round (kernel engine). */
  'address-family',
  /** Larger than the path to its target takes in one piece (kernel engine). */
  'too-large',
] as const;

export type DropReasonName = (typeof DROP_REASONS)[number];

/** A drop reason as the number that the packet path handles: an index into DROP_REASONS. */
export type DropReason = number;

/** The number of a reason, for use at construction: `const NO_BACKEND = dropReason('no-backend')`. */
export function dropReason(name: DropReasonName): DropReason {
  return DROP_REASONS.indexOf(name);
}
