/**
 * A hash table of fixed capacity in typed arrays: the ground under sessions and pins. It allocates at construction and
 * never again, whatever traffic does.
 *
 * Record, 16 words = 64 bytes = one cache line, found again by its id (its position, stable while it lives):
 *
 *     word 0..3   client address (net/address.ts)
 *     word 4      key; never 0 in a live record, 0 in a free one
 *     word 5..15  the owner's fields; doubles 4..7 are words 8..15
 *
 * Index, one word a slot, at most half full: tag (8 bits of the hash) | id + 1 (24 bits), 0 when empty. Collisions go to
 * the next slot; removal closes the gap, so that nothing is left to clean up. A lookup touches one index line and, but
 * for one false tag in 256, one record line: that is why a million sessions cost little more than a thousand.
 */
import assert from 'node:assert/strict';
import { hashKey } from './hash.ts';
import { MAX_RECORDS } from './limits.ts';

export const RECORD_WORDS = 16;
export const RECORD_DOUBLES = RECORD_WORDS / 2;
export const KEY_WORD = 4;

const ID_MASK = 0x00ffffff;
const TAG_MASK = 0xff000000;

export class RecordTable {
  readonly capacity: number;
  readonly words: Uint32Array;
  /** The same memory as doubles. */
  readonly doubles: Float64Array;
  readonly #seed: number;
  readonly #index: Uint32Array;
  readonly #mask: number;
  /** Ids given back, as a stack; below `#fresh` every id was used once. */
  readonly #free: Uint32Array;
  #freeCount = 0;
  #fresh = 0;
  #size = 0;
  #cursor = 0;

  /** @param seed secret of the index, so that nobody can choose addresses that collide */
  constructor(capacity: number, seed: number) {
    assert(Number.isInteger(capacity) && capacity >= 1 && capacity <= MAX_RECORDS);
    this.capacity = capacity;
    this.#seed = seed;
    this.words = new Uint32Array(capacity * RECORD_WORDS);
    this.doubles = new Float64Array(this.words.buffer);
    this.#free = new Uint32Array(capacity);
    const slots = 2 ** Math.ceil(Math.log2(capacity * 2));
    this.#index = new Uint32Array(slots);
    this.#mask = slots - 1;
  }

  get size(): number {
    return this.#size;
  }

  get isFull(): boolean {
    return this.#size === this.capacity;
  }

  /** Ids from 0 to below this have been used: the range that a walk over all records must cover. */
  get highWater(): number {
    return this.#fresh;
  }

  isLive(id: number): boolean {
    return this.words[id * RECORD_WORDS + KEY_WORD] !== 0;
  }

  /** @returns the id of the record with the address at `words[at]` and this key, or -1 */
  find(words: Uint32Array, at: number, key: number): number {
    const hash = hashKey(words, at, key, this.#seed);
    const tag = hash & TAG_MASK;
    const index = this.#index;
    const mask = this.#mask;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const entry = index[slot]!;
      if (entry === 0) return -1;
      if (((entry ^ tag) & TAG_MASK) === 0) {
        const id = (entry & ID_MASK) - 1;
        if (this.#holds(id, words, at, key)) return id;
      }
    }
  }

  /**
   * Adds a record, its own fields zeroed. It must not be there yet.
   *
   * @returns its id, or -1 when the table is full
   */
  insert(words: Uint32Array, at: number, key: number): number {
    assert(key !== 0);
    if (this.isFull) return -1;
    const id = this.#freeCount > 0 ? this.#free[--this.#freeCount]! : this.#fresh++;
    const base = id * RECORD_WORDS;
    this.words[base] = words[at]!;
    this.words[base + 1] = words[at + 1]!;
    this.words[base + 2] = words[at + 2]!;
    this.words[base + 3] = words[at + 3]!;
    this.words[base + KEY_WORD] = key;
    this.words.fill(0, base + KEY_WORD + 1, base + RECORD_WORDS);
    const hash = this.#hashOf(id);
    let slot = hash & this.#mask;
    while (this.#index[slot] !== 0) slot = (slot + 1) & this.#mask;
    this.#index[slot] = (hash & TAG_MASK) | (id + 1);
    this.#size++;
    return id;
  }

  remove(id: number): void {
    assert(this.isLive(id));
    this.#closeGap(this.#slotOf(id));
    this.words[id * RECORD_WORDS + KEY_WORD] = 0;
    this.#free[this.#freeCount++] = id;
    this.#size--;
  }

  /**
   * Visits up to `budget` live records from where the last walk ended, round and round.
   *
   * @param visit may remove the record that it is shown
   */
  walk(budget: number, visit: (id: number) => void): void {
    const end = this.#fresh;
    for (let steps = Math.min(budget, end); steps > 0; steps--) {
      if (this.#cursor >= end) this.#cursor = 0;
      const id = this.#cursor++;
      if (this.isLive(id)) visit(id);
    }
  }

  #holds(id: number, words: Uint32Array, at: number, key: number): boolean {
    const records = this.words;
    const base = id * RECORD_WORDS;
    return (
      records[base + 3] === words[at + 3] &&
      records[base + KEY_WORD] === key &&
      records[base + 2] === words[at + 2] &&
      records[base + 1] === words[at + 1] &&
      records[base] === words[at]
    );
  }

  #hashOf(id: number): number {
    const base = id * RECORD_WORDS;
    return hashKey(this.words, base, this.words[base + KEY_WORD]!, this.#seed);
  }

  #slotOf(id: number): number {
    let slot = this.#hashOf(id) & this.#mask;
    while ((this.#index[slot]! & ID_MASK) !== id + 1) slot = (slot + 1) & this.#mask;
    return slot;
  }

  /** Moves back each entry after the gap that may stand there, until an empty slot: no tombstones are left. */
  #closeGap(emptied: number): void {
    let gap = emptied;
    for (let slot = (gap + 1) & this.#mask; this.#index[slot] !== 0; slot = (slot + 1) & this.#mask) {
      const entry = this.#index[slot]!;
      const home = this.#hashOf((entry & ID_MASK) - 1) & this.#mask;
      if (((slot - home) & this.#mask) < ((slot - gap) & this.#mask)) continue;
      this.#index[gap] = entry;
      gap = slot;
    }
    this.#index[gap] = 0;
  }
}
