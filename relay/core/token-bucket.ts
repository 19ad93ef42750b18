/**
 * Bounds how fast new sessions open: a bucket of tokens that fills at `ratePerSecond` and holds one second's worth, at
 * least one token. A rate of 0 means no bound. Time is passed in, in ms of any clock; one that goes backwards has no
 * effect.
 */

// A bucket is two doubles in an array, so that it fits into a record of a table, and so that no double has to leave a
// function, where V8 may box it.
const TOKENS = 0;
const COUNTED_AT_MS = 1;

/** Doubles of a bucket. */
export const BUCKET_DOUBLES = 2;

/** Makes the bucket at `doubles[at]` a full one. */
export function fill(doubles: Float64Array, at: number): void {
  doubles[at + TOKENS] = 0;
  doubles[at + COUNTED_AT_MS] = -Infinity;
}

/** Counts what the rate, which is not 0, gave the bucket at `doubles[at]` until now; fractional. */
export function refill(doubles: Float64Array, at: number, nowMs: number, ratePerSecond: number): void {
  const elapsedMs = nowMs - doubles[at + COUNTED_AT_MS]!;
  if (elapsedMs <= 0) return;
  const tokens = doubles[at + TOKENS]! + (elapsedMs * ratePerSecond) / 1000;
  doubles[at + TOKENS] = Math.min(burstOf(ratePerSecond), tokens);
  doubles[at + COUNTED_AT_MS] = nowMs;
}

/** Takes one token of the bucket at `doubles[at]`. Returns whether there was one. */
export function takeToken(doubles: Float64Array, at: number, nowMs: number, ratePerSecond: number): boolean {
  if (ratePerSecond === 0) return true;
  refill(doubles, at, nowMs, ratePerSecond);
  if (doubles[at + TOKENS]! < 1) return false;
  doubles[at + TOKENS]! -= 1;
  return true;
}

/** Tokens that a bucket holds. */
function burstOf(ratePerSecond: number): number {
  return Math.max(1, ratePerSecond);
}

export class TokenBucket {
  #ratePerSecond: number;
  readonly #doubles = new Float64Array(BUCKET_DOUBLES);

  /** The bucket starts full. */
  constructor(ratePerSecond: number) {
    this.#ratePerSecond = ratePerSecond;
    fill(this.#doubles, 0);
  }

  /** Takes one token. Returns whether there was one. */
  take(nowMs: number): boolean {
    return takeToken(this.#doubles, 0, nowMs, this.#ratePerSecond);
  }

  /** Another rate from now on. The bucket stays full to the same part; one without a bound was full. */
  changeRate(ratePerSecond: number, nowMs: number): void {
    const before = this.#ratePerSecond;
    if (ratePerSecond === before) return;
    this.#ratePerSecond = ratePerSecond;
    if (before === 0 || ratePerSecond === 0) {
      fill(this.#doubles, 0);
      return;
    }
    refill(this.#doubles, 0, nowMs, before);
    this.#doubles[TOKENS]! *= burstOf(ratePerSecond) / burstOf(before);
  }
}
