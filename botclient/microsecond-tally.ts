/**
 * Durations, counted by the microsecond as they come. A histogram's bucket takes a logarithm and two powers to find, for
 * each update and each answer; so the histograms are filled from here, once for each different duration.
 */
import type { Histogram } from 'hdr-histogram-js';

/** Durations from here on, in microseconds, are rare and go to a list. */
const SPAN_US = 65_536;

export class MicrosecondTally {
  readonly #counts = new Uint32Array(SPAN_US);
  readonly #longUs: number[] = [];

  /** @param us whole microseconds, at least 0 */
  record(us: number): void {
    if (us < SPAN_US) this.#counts[us]!++;
    else this.#longUs.push(us);
  }

  /** Moves everything into the histogram. */
  drainInto(histogram: Histogram): void {
    for (let us = 0; us < SPAN_US; us++) {
      const count = this.#counts[us]!;
      if (count > 0) histogram.recordValueWithCount(us, count);
    }
    for (const us of this.#longUs) histogram.recordValue(us);
    this.#counts.fill(0);
    this.#longUs.length = 0;
  }
}
