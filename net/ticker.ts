/**
 * A drift-free schedule: tick k is intended at start + k x period, however late the ticks before it were.
 *
 * Node's timers wake on whole milliseconds, which would blur every round trip that is measured from an intended time. So
 * a worker thread keeps the beat: it sleeps in `Atomics.wait` (fractional milliseconds, no spinning) and posts one
 * message a period. `timerMetronome` is the same over setTimeout, for where a thread can't be had.
 *
 * Lateness measured on 2 shared cores, Node 20.20, a 1 ms period, median / p99 in microseconds (docs/bots.md):
 *   main loop quiet:      worker 147 /   555   setTimeout   562 / 1,165
 *   main loop half busy:  worker 116 /   852   setTimeout 1,535 / 3,063
 *
 *   metronome thread:  sleep until k x period -> post, unless the last post was not yet seen -> sleep ...
 *   main loop:         wake -> which ticks are due by the clock -> call each, once, in order
 */
import assert from 'node:assert/strict';
import { createHistogram, type Histogram } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import type * as workerThreads from 'node:worker_threads';

export interface TickerOptions {
  /** Time between ticks in ms, > 0; fractions are kept. */
  readonly periodMs: number;
  /**
   * Called once for each tick, in ascending order, never before its intended time and never while another call runs.
   * `intendedMs` is on the clock of `now`, so `now() - intendedMs` is how late the call is.
   */
  readonly onTick: (tick: number, intendedMs: number) => void;
  /**
   * Ticks that could not begin within their period (the loop was busy) are still called, late and back to back, but at
   * most this many before the one that is due now. Default 0: only the due one is called.
   */
  readonly catchUpTicks?: number;
  /** Missed ticks beyond `catchUpTicks`: `count` of them from `tick` on will never be called. */
  readonly onSkipped?: (tick: number, count: number) => void;
  /** Monotonic clock in ms. Default `performance.now`. */
  readonly now?: () => number;
  /** Default `workerMetronome`. */
  readonly metronome?: Metronome;
}

export interface Ticker {
  /** Idempotent; no tick is called after it. Until then the ticker keeps the process alive. */
  stop(): void;
  /** Ticks that did not begin before the next one's intended time, whether called late or skipped. */
  readonly overruns: number;
  /** Of the overruns, those that were never called. */
  readonly skipped: number;
  /** How late each called tick began, in microseconds (at least 1). */
  readonly latenessUs: Histogram;
}

/**
 * What wakes the main loop: calls `wake(startMs)` at startMs + k x periodMs or a little later, for k = 0, 1, ... It may
 * leave wakes out while the loop is busy; the ticker goes by the clock. The first `startMs` is the schedule's.
 *
 * @returns a function that ends it
 */
export type Metronome = (periodMs: number, now: () => number, wake: (startMs: number) => void) => () => void;

/** Tick 0 is intended when the metronome is ready: some tens of ms after this call for the worker. */
export function startTicker(options: TickerOptions): Ticker {
  const { periodMs, onTick, onSkipped, catchUpTicks = 0 } = options;
  const { now = () => performance.now(), metronome = workerMetronome } = options;
  assert(periodMs > 0);
  assert(catchUpTicks >= 0);
  const latenessUs = createHistogram();
  let next = 0;
  let overruns = 0;
  let skipped = 0;
  let startMs: number | undefined;
  let stopped = false;
  const isStopped = (): boolean => stopped;

  const skipTo = (tick: number): void => {
    const count = tick - next;
    const first = next;
    next = tick;
    overruns += count;
    skipped += count;
    onSkipped?.(first, count);
  };

  const wake = (metronomeStartMs: number): void => {
    if (isStopped()) return;
    startMs ??= metronomeStartMs;
    // What fell due by now is called; what falls due meanwhile waits for the next wake, so that I/O gets its turn.
    const due = Math.floor((now() - startMs) / periodMs);
    if (due - next > catchUpTicks) skipTo(due - catchUpTicks);
    while (next <= due && !isStopped()) {
      const tick = next++;
      const intendedMs = startMs + tick * periodMs;
      const lateMs = now() - intendedMs;
      if (lateMs >= periodMs) overruns++;
      latenessUs.record(Math.max(1, Math.round(lateMs * 1000)));
      onTick(tick, intendedMs);
    }
  };

  const endMetronome = metronome(periodMs, now, wake);
  return {
    stop(): void {
      if (stopped) return;
      stopped = true;
      endMetronome();
    },
    get overruns() {
      return overruns;
    },
    get skipped() {
      return skipped;
    },
    latenessUs,
  };
}

/** The words that the main loop and the metronome thread share. */
const STOPPED = 0;
const POSTED = 1;

/**
 * Wakes by messages from a thread that sleeps, and by setTimeout if the thread can't be had. Its clock is the system's
 * monotonic one, as performance.now's.
 */
export const workerMetronome: Metronome = (periodMs, now, wake) => {
  const shared = new Int32Array(new SharedArrayBuffer(8));
  // Both threads read the same system clock; performance.now is a constant apart from it.
  const offsetMs = now() - Number(process.hrtime.bigint()) / 1e6;
  const worker = new Worker(`(${keepBeat.toString()})(require('node:worker_threads'))`, {
    eval: true,
    name: 'metronome',
    execArgv: [],
    workerData: { shared, periodMs },
  });
  let endFallback: (() => void) | undefined;
  worker.on('message', (startedAtMs: number) => {
    Atomics.store(shared, POSTED, 0);
    wake(startedAtMs + offsetMs);
  });
  worker.on('error', () => {
    if (Atomics.load(shared, STOPPED) === 0) endFallback = timerMetronome(periodMs, now, wake);
  });
  return () => {
    endFallback?.();
    Atomics.store(shared, STOPPED, 1);
    Atomics.notify(shared, STOPPED);
    worker.unref();
  };
};

/** The metronome thread. It is handed over as source text, so it refers to nothing outside itself. */
function keepBeat({ parentPort, workerData }: typeof workerThreads): void {
  const { shared, periodMs } = workerData as { shared: Int32Array; periodMs: number };
  const startedAtMs = Number(process.hrtime.bigint()) / 1e6;
  for (let beat = 0; ;) {
    if (Atomics.compareExchange(shared, 1, 0, 1) === 0) parentPort?.postMessage(startedAtMs);
    const elapsedMs = Number(process.hrtime.bigint()) / 1e6 - startedAtMs;
    beat = Math.max(beat + 1, Math.floor(elapsedMs / periodMs) + 1);
    // A microsecond past the beat: a wake that rounding put before it would find nothing due.
    for (;;) {
      const leftMs = startedAtMs + beat * periodMs + 0.001 - Number(process.hrtime.bigint()) / 1e6;
      if (leftMs <= 0) break;
      if (Atomics.wait(shared, 0, 0, leftMs) !== 'timed-out') return;
    }
  }
}

/** Wakes by setTimeout, to the millisecond. */
export const timerMetronome: Metronome = (periodMs, now, wake) => {
  const startMs = now();
  let timer: NodeJS.Timeout;
  const beat = (): void => {
    const elapsedMs = now() - startMs;
    const leftMs = (Math.floor(elapsedMs / periodMs) + 1) * periodMs - elapsedMs;
    timer = setTimeout(beat, Math.ceil(leftMs));
    wake(startMs);
  };
  timer = setTimeout(beat, 0);
  return () => clearTimeout(timer);
};
