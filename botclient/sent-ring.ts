/**
 * The last 1,024 updates of one player: what was sent, when it should have been, and what became of it.
 *
 * Each is 32 bytes of one buffer, made once for all players: the records of many are not in the processor's cache, and one that
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
const INTENDED_MS = 4;
const SERVER_TICK = 6;

/**
 * The records of several rings in one buffer: the first of each, the second of each, and so on. Players send in their order, so what
 * one tick writes lies in a row.
 */
export class SentRecords {
  readonly rings: number;
  readonly floats: Float32Array;
  readonly words: Uint32Array;
  readonly doubles: Float64Array;

  constructor(rings: number) {
    this.rings = rings;
    const buffer = new ArrayBuffer(rings * RING_UPDATES * RECORD_BYTES);
    this.floats = new Float32Array(buffer);
    this.words = new Uint32Array(buffer);
    this.doubles = new Float64Array(buffer);
  }
}

export class SentRing {
  readonly #records: SentRecords;
  readonly #ring: number;
  #first = 0;
  #end = 0;
  /** The update that is likely to be asked for next. */
  #expected = 0;

  /** @param ring its number among those that share the records */
  constructor(records = new SentRecords(1), ring = 0) {
    this.#records = records;
    this.#ring = ring;
  }

  /** Adds an update that was sent. @returns its sequence number: 0, 1, 2, ... */
  push(update: PositionUpdate, intendedMs: number, state: number): number {
    const { floats, words, doubles } = this.#records;
    const word = this.#wordOf(this.#end);
    floats[word] = update.x;
    floats[word + 1] = update.y;
    floats[word + 2] = update.z;
    words[word + STATE] = state;
    doubles[(word + INTENDED_MS) >> 1] = intendedMs;
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
    return this.#records.words[this.#wordOf(sequence) + STATE]!;
  }

  setState(sequence: number, state: number): void {
    this.#records.words[this.#wordOf(sequence) + STATE] = state;
  }

  intendedMs(sequence: number): number {
    return this.#records.doubles[(this.#wordOf(sequence) + INTENDED_MS) >> 1]!;
  }

  /** The server tick of the last answer to an update. */
  serverTick(sequence: number): number {
    return this.#records.words[this.#wordOf(sequence) + SERVER_TICK]!;
  }

  setServerTick(sequence: number, tick: number): void {
    this.#records.words[this.#wordOf(sequence) + SERVER_TICK] = tick;
  }

  /** The oldest update that is remembered. */
  get first(): number {
    return this.#first;
  }

  #isAt(sequence: number, { x, y, z }: PositionUpdate): boolean {
    const { floats } = this.#records;
    const word = this.#wordOf(sequence);
    return floats[word] === x && floats[word + 1] === y && floats[word + 2] === z;
  }

  #wordOf(sequence: number): number {
    return ((sequence & MASK) * this.#records.rings + this.#ring) * (RECORD_BYTES / 4);
  }
}
