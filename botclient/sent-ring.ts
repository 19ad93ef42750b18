/**
 * The last 1,024 updates of one player: what was sent, when it should have been, and what became of it.
 *
 * Each is 32 bytes of one buffer, made once: with many players the records are not in the processor's cache, and one that
 * lies in one piece is fetched once.
 *
 *   offset  size  field
 *        0    12  x, y, z     f32
 *       12     4  state       u32
 *       16     8  intendedMs  f64
 *       24     4  serverTick  u32
 *       28     4  unused
 *
 * A world state names no update, so an answer is found by its 12 position bytes: the update after the one found last, or
 * else from the newest backwards, since the answer is nearly always to one of the last few.
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

const RECORD_BYTES = 32;
const STATE = 3;
const SERVER_TICK = 6;

export class SentRing {
  readonly #floats: Float32Array;
  readonly #words: Uint32Array;
  readonly #doubles: Float64Array;
  #first = 0;
  #end = 0;
  /** The update that is likely to be asked for next. */
  #expected = 0;

  constructor() {
    const buffer = new ArrayBuffer(RING_UPDATES * RECORD_BYTES);
    this.#floats = new Float32Array(buffer);
    this.#words = new Uint32Array(buffer);
    this.#doubles = new Float64Array(buffer);
  }

  /** Adds an update that was sent. @returns its sequence number: 0, 1, 2, ... */
  push(update: PositionUpdate, intendedMs: number, state: number): number {
    const word = wordOf(this.#end);
    this.#floats[word] = update.x;
    this.#floats[word + 1] = update.y;
    this.#floats[word + 2] = update.z;
    this.#words[word + STATE] = state;
    this.#doubles[doubleOf(this.#end)] = intendedMs;
    this.#first = Math.max(0, this.#end + 1 - RING_UPDATES);
    return this.#end++;
  }

  /** @returns the sequence number of the update with this position, or -1 */
  find(position: PositionUpdate): number {
    const expected = this.#expected;
    if (expected >= this.#first && expected < this.#end && this.#isAt(expected, position)) {
      this.#expected++;
      return expected;
    }
    for (let sequence = this.#end - 1; sequence >= this.#first; sequence--) {
      if (!this.#isAt(sequence, position)) continue;
      this.#expected = sequence + 1;
      return sequence;
    }
    return -1;
  }

  state(sequence: number): number {
    return this.#words[wordOf(sequence) + STATE]!;
  }

  setState(sequence: number, state: number): void {
    this.#words[wordOf(sequence) + STATE] = state;
  }

  intendedMs(sequence: number): number {
    return this.#doubles[doubleOf(sequence)]!;
  }

  /** The server tick of the last answer to an update. */
  serverTick(sequence: number): number {
    return this.#words[wordOf(sequence) + SERVER_TICK]!;
  }

  setServerTick(sequence: number, tick: number): void {
    this.#words[wordOf(sequence) + SERVER_TICK] = tick;
  }

  /** The oldest update that is remembered. */
  get first(): number {
    return this.#first;
  }

  #isAt(sequence: number, { x, y, z }: PositionUpdate): boolean {
    const word = wordOf(sequence);
    return this.#floats[word] === x && this.#floats[word + 1] === y && this.#floats[word + 2] === z;
  }
}

function wordOf(sequence: number): number {
  return (sequence & MASK) * (RECORD_BYTES / 4);
}

function doubleOf(sequence: number): number {
  return (sequence & MASK) * (RECORD_BYTES / 8) + 2;
}
