/**
 * Bounds how fast new sessions open: a bucket of tokens that fills at `ratePerSecond` and holds one second's worth, at
 * least one token. A rate of 0 means no bound. Time is passed in, in ms of any clock; one that goes backwards has no
 * effect.
 */

/**
 * Tokens in the bucket at `nowMs`, from those at `lastMs`; fractional. For buckets kept inside table records:
 *
 *     tokens = refill(tokens, lastMs, nowMs, rate); lastMs = Math.max(lastMs, nowMs);
 *     if (tokens >= 1) tokens -= 1; else drop
 *
 * A full bucket is `refill(0, -Infinity, nowMs, rate)`. With rate 0 the answer is Infinity.
 */
export function refill(tokens: number, lastMs: number, nowMs: number, ratePerSecond: number): number {
  if (ratePerSecond === 0) return Infinity;
  if (nowMs <= lastMs) return tokens;
  return Math.min(Math.max(1, ratePerSecond), tokens + ((nowMs - lastMs) * ratePerSecond) / 1000);
}

export class TokenBucket {
  readonly #ratePerSecond: number;
  #tokens = 0;
  /** The bucket starts full. */
  #lastMs = -Infinity;

  constructor(ratePerSecond: number) {
    this.#ratePerSecond = ratePerSecond;
  }

  /** Takes one token. Returns whether there was one. */
  take(nowMs: number): boolean {
    this.#tokens = refill(this.#tokens, this.#lastMs, nowMs, this.#ratePerSecond);
    this.#lastMs = Math.max(this.#lastMs, nowMs);
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}
