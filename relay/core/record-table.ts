/**
 * A hash table of fixed capacity in typed arrays: the ground under sessions and pins. It allocates at construction and
 * never again, whatever traffic does.
 *
 * Record, 16 words = 64 bytes = one cache line:
 *
 *     word 0..3   client address (net/address.ts)
 *     word 4      key; never 0
 *     word 5..15  the owner's fields; doubles 4..7 are words 8..15
 *
 * The records are the hash table: a record stands in the place that its hash names, or the next free one (linear
 * probing, at most half full), and its place is its id. Beside them is a tag for each place, one byte of the hash of the record
 * there: a lookup follows the tags, which are few enough to stay near the processor, and touches the record that it seeks;
 * one that finds nothing touches none, nor does a walk over free places. Removal moves later records of the cluster back, so
 * that no tombstones pile up; `onMove` tells the owner whose id changed.
 *
 * With a million sessions the miss on the record is most of a lookup's cost, and `prefetch` hides it: it touches the records
 * of a whole batch, so that the misses overlap.
 */
import assert from 'node:assert/strict';
import { hashKey } from './hash.ts';
import { MAX_RECORDS } from './limits.ts';

export const RECORD_WORDS = 16;
export const RECORD_DOUBLES = RECORD_WORDS / 2;
export const KEY_WORD = 4;

/** Of a free place; the tag of a record is never this. */
const FREE = 0;

/** Datagrams that one `prefetch` takes. */
export const PREFETCH_LIMIT = 64;

export interface RecordTableOptions {
  /** Records that it can hold, at most MAX_RECORDS. */
  readonly capacity: number;
  /** Secret of the hash, so that nobody can choose addresses that collide. */
  readonly seed: number;
  /** A live record moved; its fields came along. */
  readonly onMove?: (from: number, to: number) => void;
  /** Shown the table's memory before anything is written to it: the moment to ask for larger pages. */
  readonly prepareMemory?: ((memory: ArrayBuffer) => void) | undefined;
}

export class RecordTable {
  readonly capacity: number;
  /** Places, so ids are 0 to below this. A power of two, at least twice the capacity. */
  readonly places: number;
  readonly words: Uint32Array<ArrayBuffer>;
  /** The same memory as doubles. */
  readonly doubles: Float64Array;
  /** By place: FREE, or the tag of the record there. */
  readonly #tags: Uint8Array;
  readonly #mask: number;
  readonly #seed: number;
  readonly #onMove: (from: number, to: number) => void;
  readonly #hashes = new Int32Array(PREFETCH_LIMIT);
  /** Where `prefetch` leaves what it read, so that its reads are not optimised away. */
  readonly #touched = new Int32Array(1);
  #size = 0;
  #cursor = 0;

  constructor({ capacity, seed, onMove = () => undefined, prepareMemory }: RecordTableOptions) {
    assert(Number.isInteger(capacity) && capacity >= 1 && capacity <= MAX_RECORDS);
    this.capacity = capacity;
    this.places = 2 ** Math.ceil(Math.log2(capacity * 2));
    this.words = new Uint32Array(this.places * RECORD_WORDS);
    this.doubles = new Float64Array(this.words.buffer);
    prepareMemory?.(this.words.buffer);
    this.#tags = new Uint8Array(this.places);
    this.#mask = this.places - 1;
    this.#seed = seed;
    this.#onMove = onMove;
  }

  get size(): number {
    return this.#size;
  }

  get isFull(): boolean {
    return this.#size === this.capacity;
  }

  isLive(id: number): boolean {
    return this.#tags[id] !== FREE;
  }

  /** @returns the id of the record with the address at `words[at]` and this key, or -1 */
  find(words: Uint32Array, at: number, key: number): number {
    const records = this.words;
    const tags = this.#tags;
    const mask = this.#mask;
    const hash = hashKey(words, at, key, this.#seed);
    const wanted = tagOf(hash);
    for (let id = hash & mask; ; id = (id + 1) & mask) {
      const tag = tags[id];
      if (tag === FREE) return -1;
      if (tag !== wanted) continue;
      const base = id * RECORD_WORDS;
      if (
        records[base + KEY_WORD] === key &&
        records[base + 3] === words[at + 3] &&
        records[base + 2] === words[at + 2] &&
        records[base + 1] === words[at + 1] &&
        records[base] === words[at]
      ) {
        return id;
      }
    }
  }

  /**
   * Brings the lines that `find` will touch into the cache: those of `count` <= PREFETCH_LIMIT addresses, the i-th at
   * `words[4i]` with the key `keyBase | low[i]`.
   */
  prefetch(words: Uint32Array, keyBase: number, low: Uint16Array, count: number): void {
    const hashes = this.#hashes;
    for (let i = 0; i < count; i++) hashes[i] = hashKey(words, 4 * i, (keyBase | low[i]!) >>> 0, this.#seed);
    // Loops of loads alone: the processor runs ahead and has many misses under way at once. First the tags, then the
    // records that they point to.
    const records = this.words;
    const tags = this.#tags;
    const mask = this.#mask;
    let touched = 0;
    for (let i = 0; i < count; i++) touched ^= tags[hashes[i]! & mask]!;
    for (let i = 0; i < count; i++) {
      const wanted = tagOf(hashes[i]!);
      let id = hashes[i]! & mask;
      for (let tag = tags[id]; tag !== wanted && tag !== FREE; tag = tags[id]) id = (id + 1) & mask;
      hashes[i] = id;
    }
    // Four by four: the fewer instructions there are between two of them, the more misses are under way.
    let next = 0;
    for (; next + 3 < count; next += 4) {
      touched ^=
        records[hashes[next]! * RECORD_WORDS + KEY_WORD]! ^
        records[hashes[next + 1]! * RECORD_WORDS + KEY_WORD]! ^
        records[hashes[next + 2]! * RECORD_WORDS + KEY_WORD]! ^
        records[hashes[next + 3]! * RECORD_WORDS + KEY_WORD]!;
    }
    for (; next < count; next++) touched ^= records[hashes[next]! * RECORD_WORDS + KEY_WORD]!;
    this.#touched[0] = touched;
  }

  /**
   * Adds a record, its own fields zeroed. It must not be there yet.
   *
   * @returns its id, or -1 when the table is full
   */
  insert(words: Uint32Array, at: number, key: number): number {
    assert(key !== 0);
    if (this.isFull) return -1;
    const hash = hashKey(words, at, key, this.#seed);
    let id = hash & this.#mask;
    while (this.isLive(id)) id = (id + 1) & this.#mask;
    this.#tags[id] = tagOf(hash);
    const base = id * RECORD_WORDS;
    this.words[base] = words[at]!;
    this.words[base + 1] = words[at + 1]!;
    this.words[base + 2] = words[at + 2]!;
    this.words[base + 3] = words[at + 3]!;
    this.words[base + KEY_WORD] = key;
    this.words.fill(0, base + KEY_WORD + 1, base + RECORD_WORDS);
    this.#size++;
    return id;
  }

  /** Removes a record. Others of its cluster may move back, each reported to `onMove` after its move. */
  remove(id: number): void {
    assert(this.isLive(id));
    const mask = this.#mask;
    let gap = id;
    for (let next = (gap + 1) & mask; this.isLive(next); next = (next + 1) & mask) {
      // A record may not stand before the place that its hash names.
      if (((next - this.#home(next)) & mask) < ((next - gap) & mask)) continue;
      this.words.copyWithin(gap * RECORD_WORDS, next * RECORD_WORDS, (next + 1) * RECORD_WORDS);
      this.#tags[gap] = this.#tags[next]!;
      this.#onMove(next, gap);
      gap = next;
    }
    this.#tags[gap] = FREE;
    this.#size--;
  }

  /**
   * Visits up to `budget` places from where the last walk ended, round and round.
   *
   * @param visit may remove the record that it is shown; what moves into its place is visited next
   * @param nowMs is handed on to `visit`: a double that waits in a field is boxed anew with each look at it
   */
  walk(budget: number, visit: (id: number, nowMs: number) => void, nowMs: number): void {
    for (let steps = budget; steps > 0; steps--) {
      const id = this.#cursor;
      const before = this.#size;
      if (this.isLive(id)) visit(id, nowMs);
      if (this.#size === before) this.#cursor = (id + 1) & this.#mask;
    }
  }

  #home(id: number): number {
    const base = id * RECORD_WORDS;
    return hashKey(this.words, base, this.words[base + KEY_WORD]!, this.#seed) & this.#mask;
  }
}

/** From the hash's upper bits, since its lower ones name the place. */
function tagOf(hash: number): number {
  return (hash >>> 24) | 1;
}
