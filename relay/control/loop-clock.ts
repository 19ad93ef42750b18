/**
 * Time as the control plane lives it: milliseconds during which the event loop was running. While the loop is stalled
 * (a blocked process, a busy neighbour, a suspended machine) this clock stands still, because heartbeats and answers that
 * arrived meanwhile have not been read yet, and their senders must not be judged for it. The wall clock plays no part.
 */

/** How often the clock looks whether the loop is still running. More often costs an idle relay more than all else it does. */
const TICK_MS = 50;

/** A tick later than this is a stall. */
const STALL_MS = 100;

export class LoopClock {
  readonly #monotonic: () => number;
  readonly #timer: NodeJS.Timeout;
  #tickedAt: number;
  #running = 0;
  #stalledAt = Number.NEGATIVE_INFINITY;

  /** @param monotonic milliseconds that never go backwards */
  constructor(monotonic: () => number = () => performance.now()) {
    this.#monotonic = monotonic;
    this.#tickedAt = monotonic();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#timer.unref();
  }

  /** Milliseconds of running time. Never goes backwards. */
  nowMs(): number {
    return this.#running + Math.min(this.#monotonic() - this.#tickedAt, TICK_MS);
  }

  /** Whether the loop has stalled since `nowMs()` said `sinceMs`, or has just woken from a stall. */
  stalledSince(sinceMs: number): boolean {
    return this.#stalledAt >= sinceMs || this.#monotonic() - this.#tickedAt > TICK_MS + STALL_MS;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const now = this.#monotonic();
    const elapsed = now - this.#tickedAt;
    const isStall = elapsed > TICK_MS + STALL_MS;
    this.#running += isStall ? TICK_MS : elapsed;
    this.#tickedAt = now;
    if (isStall) this.#stalledAt = this.#running;
  }
}
