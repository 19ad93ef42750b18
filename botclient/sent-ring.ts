/**
 * The last 1,024 updates of one player: what was sent, when it should have been, and what became of it. Typed arrays,
 * made once.
 *
 * A world state names no update, so an answer is found by its 12 position bytes, from the newest update backwards: the
 * answer is nearly always to one of the last few.
 */
import type { PositionUpdate } from '../wire/position-update.ts';

/** 8 s at 128 Hz. An answer that takes longer is unknown, and its update lost. A power of two. */
export const RING_UPDATES = 1024;
const MASK = RING_UPDATES - 1;

/** Sent before the first measured tick; in no count. */
export const WARMUP = 0;
export const AWAITED = 1;
export const SUPERSEDED = 2;
export const ANSWERED = 3;

export class SentRing {
  readonly #xs = new Float32Array(RING_UPDATES);
  readonly #ys = new Float32Array(RING_UPDATES);
  readonly #zs = new Float32Array(RING_UPDATES);
  readonly #intendedMs = new Float64Array(RING_UPDATES);
  readonly #serverTicks = new Uint32Array(RING_UPDATES);
  readonly #states = new Uint8Array(RING_UPDATES);
  #first = 0;
  #end = 0;

  /** Adds an update that was sent. @returns its sequence number: 0, 1, 2, ... */
  push(update: PositionUpdate, intendedMs: number, state: number): number {
    const slot = this.#end & MASK;
    this.#xs[slot] = update.x;
    this.#ys[slot] = update.y;
    this.#zs[slot] = update.z;
    this.#intendedMs[slot] = intendedMs;
    this.#states[slot] = state;
    this.#first = Math.max(0, this.#end + 1 - RING_UPDATES);
    return this.#end++;
  }

  /** @returns the sequence number of the newest update with this position, or -1 */
  find({ x, y, z }: PositionUpdate): number {
    for (let sequence = this.#end - 1; sequence >= this.#first; sequence--) {
      const slot = sequence & MASK;
      if (this.#xs[slot] === x && this.#ys[slot] === y && this.#zs[slot] === z) return sequence;
    }
    return -1;
  }

  state(sequence: number): number {
    return this.#states[sequence & MASK]!;
  }

  setState(sequence: number, state: number): void {
    this.#states[sequence & MASK] = state;
  }

  intendedMs(sequence: number): number {
    return this.#intendedMs[sequence & MASK]!;
  }

  /** The server tick of the last answer to an update. */
  serverTick(sequence: number): number {
    return this.#serverTicks[sequence & MASK]!;
  }

  setServerTick(sequence: number, tick: number): void {
    this.#serverTicks[sequence & MASK] = tick;
  }

  /** The oldest update that is remembered. */
  get first(): number {
    return this.#first;
  }
}
