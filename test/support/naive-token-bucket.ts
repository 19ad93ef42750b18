/**
 * A token bucket in whole thousandths of a token, for whole milliseconds and whole rates: nothing is ever rounded.
 * Steps through time one millisecond after the other.
 */
export class NaiveTokenBucket {
  readonly #rate: number;
  readonly #fullMilli: number;
  #milli: number;
  #nowMs: number | undefined;

  constructor(ratePerSecond: number) {
    this.#rate = ratePerSecond;
    this.#fullMilli = Math.max(1, ratePerSecond) * 1000;
    this.#milli = this.#fullMilli;
  }

  take(nowMs: number): boolean {
    if (this.#rate === 0) return true;
    this.#nowMs ??= nowMs;
    for (; this.#nowMs < nowMs; this.#nowMs++)
      this.#milli = Math.min(this.#fullMilli, this.#milli + this.#rate);
    if (this.#milli < 1000) return false;
    this.#milli -= 1000;
    return true;
  }
}
