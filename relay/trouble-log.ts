/**
 * What goes wrong in the engines, in the log: failing sockets, backends out of reach. A socket in trouble fails with every datagram, so
 * each trouble is told once in a while, and no more of them than somebody reads.
 */
import type { Logger } from 'pino';

/** Between two log lines about one trouble; the counters have them all. */
const INTERVAL_MS = 10_000;

/** Different troubles that are told in that time. */
const MOST_LINES = 20;

export class TroubleLog {
  readonly #logger: Pick<Logger, 'warn'>;
  readonly #now: () => number;
  /** Those of this interval. */
  readonly #told = new Set<string>();
  #beganMs = Number.NEGATIVE_INFINITY;

  /** @param now in ms, monotonic */
  constructor(logger: Pick<Logger, 'warn'>, now: () => number) {
    this.#logger = logger;
    this.#now = now;
  }

  add(error: unknown): void {
    const text = String(error);
    if (this.#now() - this.#beganMs >= INTERVAL_MS) {
      this.#beganMs = this.#now();
      this.#told.clear();
    }
    if (this.#told.has(text) || this.#told.size > MOST_LINES) return;
    this.#told.add(text);
    if (this.#told.size > MOST_LINES) {
      this.#logger.warn(
        `more than ${MOST_LINES} different troubles in ${INTERVAL_MS / 1_000} s; the others are not told`,
      );
      return;
    }
    this.#logger.warn(
      { err: error },
      'trouble in a socket or on the way to a backend; the metrics count what it costs',
    );
  }
}
