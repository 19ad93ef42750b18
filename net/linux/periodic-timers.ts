/**
 * Timers of a loop whose rounds wait in the kernel: how long a wait may be, and what is due after it. Time is in ms of performance.now,
 * and as good as the loop's own: while nothing is due soon, a round does with one look at the clock.
 */
import { performance } from 'node:perf_hooks';

/** While no timer is due within this time, in ms, a round does with one look at the clock. */
const CLOCK_SLACK_MS = 2;

interface Timer {
  readonly run: () => void;
  readonly periodMs: number;
  dueMs: number;
}

export class PeriodicTimers {
  readonly #timers = new Set<Timer>();
  /** When the first timer is due, or before. */
  #nextDueMs = Infinity;

  /** Calls `run` at start + k x periodMs, k = 0, 1, ...; runs that fell due together are one. @returns what ends it */
  add(periodMs: number, run: () => void): () => void {
    const timer = { run, periodMs, dueMs: performance.now() };
    this.#timers.add(timer);
    this.#nextDueMs = Math.min(this.#nextDueMs, timer.dueMs);
    return () => this.#timers.delete(timer);
  }

  clear(): void {
    this.#timers.clear();
  }

  /** The longest wait from now on, at most `maxWaitMs`. @param nowMs when the clock was looked at last */
  waitMs(maxWaitMs: number, nowMs: number): number {
    const waitMs = Math.min(maxWaitMs, this.#nextDueMs - nowMs);
    if (waitMs >= maxWaitMs) return waitMs;
    // The round took time too. Where that matters, the clock is asked again; else the wait ends early, and is renewed.
    if (waitMs > 2 * CLOCK_SLACK_MS) return Math.floor(waitMs - CLOCK_SLACK_MS);
    return Math.max(0, waitMs - (performance.now() - nowMs));
  }

  /** Runs what is due. @param nowMs when the clock was looked at last. @returns whether there may have been any */
  run(nowMs: number): boolean {
    if (this.#nextDueMs > nowMs + CLOCK_SLACK_MS) return false;
    const now = performance.now();
    for (const timer of this.#timers) {
      if (timer.dueMs > now) continue;
      timer.dueMs += timer.periodMs * (Math.floor((now - timer.dueMs) / timer.periodMs) + 1);
      timer.run();
    }
    this.#nextDueMs = Infinity;
    for (const { dueMs } of this.#timers) this.#nextDueMs = Math.min(this.#nextDueMs, dueMs);
    return true;
  }
}
