/** How long a backend takes from a client's datagram to its next reply, as counts by length. */
export interface ReplyTimes {
  /** Upper bounds of the buckets in seconds, ascending; the last bucket, without a bound, takes the rest. */
  readonly boundsSeconds: readonly number[];
  /** Times in each bucket: one more than there are bounds. */
  readonly counts: readonly number[];
  readonly sumSeconds: number;
}
