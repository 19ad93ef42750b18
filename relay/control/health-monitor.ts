/**
 * Asks every backend of a pool once an interval. The backends are spread over the interval in slices; a backend is never
 * asked while an earlier answer is outstanding, and at most MAX_CONCURRENT_CHECKS are asked at once.
 *
 * A failure counts only when the event loop ran all the while: after a stall the answer may well be waiting unread
 * (loop-clock.ts). Such a check says nothing, and the next round asks again.
 */
import type { Endpoint } from '../../net/address.ts';
import type { HealthCheck } from './health-checks/health-check.ts';
import type { LoopClock } from './loop-clock.ts';

/** Parts of an interval. */
export const SLICES = 10;

/** Checks of one pool under way at once. Each holds a descriptor. */
const MAX_CONCURRENT_CHECKS = 128;

export interface CheckTarget {
  readonly endpoint: Endpoint;
  /** Stable for the target's life; decides the slice. */
  readonly slot: number;
}

/** `undefined`: well; text: why not; SKIPPED: the check says nothing. */
export type CheckOutcome = string | undefined | typeof SKIPPED;
export const SKIPPED = Symbol('skipped');

export interface HealthMonitorOptions<Target extends CheckTarget> {
  readonly check: HealthCheck;
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly clock: LoopClock;
  readonly targets: () => Iterable<Target>;
  readonly onOutcome: (target: Target, outcome: CheckOutcome) => void;
}

export class HealthMonitor<Target extends CheckTarget> {
  readonly #options: HealthMonitorOptions<Target>;
  readonly #timer: NodeJS.Timeout;
  /** The time limits of the checks under way. */
  readonly #limits = new Set<AbortController>();
  /** Targets that are being asked or wait for their turn. */
  readonly #pending = new Set<Target>();
  readonly #waiting: Target[] = [];
  readonly #running = new Set<Promise<void>>();
  #isClosed = false;
  #slice = 0;
  #steppedAtMs: number;

  constructor(options: HealthMonitorOptions<Target>) {
    this.#options = options;
    this.#steppedAtMs = options.clock.nowMs();
    this.#timer = setInterval(() => this.#step(), options.intervalMs / SLICES);
    this.#timer.unref();
  }

  /** Aborts the checks under way and waits until their sockets are closed; none reports any more. Idempotent. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#isClosed = true;
    this.#waiting.length = 0;
    for (const limit of this.#limits) limit.abort();
    await Promise.all(this.#running);
  }

  #step(): void {
    const { clock, targets } = this.#options;
    const hasStalled = clock.stalledSince(this.#steppedAtMs);
    this.#steppedAtMs = clock.nowMs();
    this.#slice = (this.#slice + 1) % SLICES;
    if (hasStalled) return;
    for (const target of targets()) {
      if (target.slot % SLICES !== this.#slice || this.#pending.has(target)) continue;
      this.#pending.add(target);
      this.#waiting.push(target);
    }
    this.#startWaiting();
  }

  #startWaiting(): void {
    while (this.#running.size < MAX_CONCURRENT_CHECKS) {
      const target = this.#waiting.shift();
      if (target === undefined) return;
      const run = this.#ask(target).finally(() => {
        this.#running.delete(run);
        this.#pending.delete(target);
        this.#startWaiting();
      });
      this.#running.add(run);
    }
  }

  async #ask(target: Target): Promise<void> {
    const { check, timeoutMs, clock, onOutcome } = this.#options;
    const startedAtMs = clock.nowMs();
    const limit = new AbortController();
    this.#limits.add(limit);
    const timer = setTimeout(() => limit.abort(), timeoutMs);
    let failure: string | undefined;
    try {
      failure = await check(target.endpoint, limit.signal);
    } catch (error) {
      failure = limit.signal.aborted ? `no answer within ${timeoutMs}ms` : describe(error);
    } finally {
      clearTimeout(timer);
      this.#limits.delete(limit);
    }
    if (this.#isClosed) return;
    const isVoid = failure !== undefined && clock.stalledSince(startedAtMs);
    onOutcome(target, isVoid ? SKIPPED : failure);
  }
}

function describe(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code ?? message;
}
