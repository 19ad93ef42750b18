/** What an engine that sees each datagram's time tells of one backend and its players: counts since it got its place. */

export interface BackendFigures {
  /** From clients to the backend, and back. */
  readonly downstream: Traffic;
  readonly upstream: Traffic;
  /** Intervals of more than two ticks between datagrams from a client. */
  readonly gaps: number;
  /** Intervals between datagrams from a client. */
  readonly intervals: Histogram;
  /** From a client's datagram to the backend's next reply. */
  readonly replyTimes: Histogram & { readonly sumSeconds: number };
}

export interface Traffic {
  readonly datagrams: number;
  readonly bytes: number;
}

export interface Histogram {
  /** Upper bounds of the buckets in seconds, ascending; the last bucket, without a bound, takes the rest. */
  readonly boundsSeconds: readonly number[];
  /** Times in each bucket: one more than there are bounds. */
  readonly counts: readonly number[];
}
