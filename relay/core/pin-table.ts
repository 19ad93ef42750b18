/**
 * Pins: client IP -> backend, for each listener. A pin outlives its client's sessions, so that a player who comes back,
 * from whatever port, finds the same server although the pool has changed. The same record carries what is known of the
 * client IP for admission: its live sessions and its tokens for new ones.
 *
 * What listeners share of a client IP is one more pin, of their group (pin-group.ts), in the same table. Its reference is the
 * group's, and what counts as its sessions are the holds of listeners outside the engine.
 *
 * Fields of a record (record-table.ts), after the client address:
 *
 *     word 4      key: scope + 1: the listener's index, or above those the group's scope
 *     word 5      backend reference
 *     word 6      live sessions
 *     word 7      1 once a session of this client came past half-open, else 0
 *     double 4    last use, in ms on the engine's clock: opening or end of a session
 *     double 5, 6 bucket of tokens for new sessions (token-bucket.ts)
 */
import assert from 'node:assert/strict';
import type { BackendRef } from './backend-ref.ts';
import { EVICTION_BUDGET } from './limits.ts';
import {
  KEY_WORD,
  RECORD_DOUBLES,
  RECORD_WORDS,
  RecordTable,
  type RecordTableOptions,
} from './record-table.ts';
import { fill, takeToken } from './token-bucket.ts';

const BACKEND_REF = 5;
const LIVE_SESSIONS = 6;
const CONFIRMED = 7;
const LAST_USED_MS = 4;
const BUCKET = 5;

export class PinTable {
  readonly records: RecordTable;
  readonly #words: Uint32Array;
  readonly #doubles: Float64Array;
  readonly #considerVictim: (id: number) => void;
  #victim = -1;

  constructor(options: RecordTableOptions) {
    this.records = new RecordTable(options);
    this.#words = this.records.words;
    this.#doubles = this.records.doubles;
    this.#considerVictim = (id) => {
      if (this.liveSessions(id) > 0) return;
      if (this.#victim === -1 || this.#isWorthLess(id, this.#victim)) this.#victim = id;
    };
  }

  /** @returns the pin's id, or -1 */
  find(scope: number, words: Uint32Array, at: number): number {
    return this.records.find(words, at, scope + 1);
  }

  /** Adds a pin; a full table first lets go of one without sessions. @returns its id, or -1 when none could go */
  add(scope: number, words: Uint32Array, at: number, nowMs: number): number {
    if (this.records.isFull) this.#evict(nowMs);
    const id = this.records.insert(words, at, scope + 1);
    if (id === -1) return -1;
    this.#doubles[id * RECORD_DOUBLES + LAST_USED_MS] = nowMs;
    fill(this.#doubles, id * RECORD_DOUBLES + BUCKET);
    return id;
  }

  backendRef(id: number): BackendRef {
    return this.#words[id * RECORD_WORDS + BACKEND_REF]!;
  }

  setBackendRef(id: number, ref: BackendRef): void {
    this.#words[id * RECORD_WORDS + BACKEND_REF] = ref;
  }

  scope(id: number): number {
    return this.#words[id * RECORD_WORDS + KEY_WORD]! - 1;
  }

  liveSessions(id: number): number {
    return this.#words[id * RECORD_WORDS + LIVE_SESSIONS]!;
  }

  sessionOpened(id: number, nowMs: number): void {
    this.#words[id * RECORD_WORDS + LIVE_SESSIONS]!++;
    this.#doubles[id * RECORD_DOUBLES + LAST_USED_MS] = nowMs;
  }

  sessionEnded(id: number, nowMs: number): void {
    assert(this.liveSessions(id) > 0);
    this.#words[id * RECORD_WORDS + LIVE_SESSIONS]!--;
    this.#doubles[id * RECORD_DOUBLES + LAST_USED_MS] = nowMs;
  }

  /** The pin was last used no earlier than the other one, which is in use as long as it has sessions. */
  touchWith(id: number, other: number, nowMs: number): void {
    const [at, otherAt] = [id * RECORD_DOUBLES + LAST_USED_MS, other * RECORD_DOUBLES + LAST_USED_MS];
    if (this.liveSessions(other) > 0) this.#doubles[at] = nowMs;
    else if (this.#doubles[otherAt]! > this.#doubles[at]!) this.#doubles[at] = this.#doubles[otherAt]!;
  }

  touch(id: number, nowMs: number): void {
    this.#doubles[id * RECORD_DOUBLES + LAST_USED_MS] = nowMs;
  }

  /** The client has answered or sent twice: no spoofed source. */
  confirm(id: number): void {
    this.#words[id * RECORD_WORDS + CONFIRMED] = 1;
  }

  /** @returns whether the client IP may open one more session at `ratePerSecond`; 0 means no bound */
  takeToken(id: number, nowMs: number, ratePerSecond: number): boolean {
    return takeToken(this.#doubles, id * RECORD_DOUBLES + BUCKET, nowMs, ratePerSecond);
  }

  /** Whether the pin has no session and was last used `timeoutMs` ago. */
  isExpired(id: number, nowMs: number, timeoutMs: number): boolean {
    return (
      this.liveSessions(id) === 0 && nowMs - this.#doubles[id * RECORD_DOUBLES + LAST_USED_MS]! >= timeoutMs
    );
  }

  /** Forgets every pin of the scope. */
  forgetAll(scope: number, nowMs: number): void {
    const { records } = this;
    const forget = (id: number): void => {
      if (this.scope(id) === scope) records.remove(id);
    };
    // As many steps as there are places and records: a removal may move a record into the place just visited.
    records.walk(records.places + records.size, forget, nowMs);
  }

  /** Of a few pins without sessions, lets the least valuable go: unconfirmed before confirmed, then the oldest. */
  #evict(nowMs: number): void {
    this.#victim = -1;
    this.records.walk(EVICTION_BUDGET, this.#considerVictim, nowMs);
    if (this.#victim !== -1) this.records.remove(this.#victim);
  }

  #isWorthLess(a: number, b: number): boolean {
    const confirmed = this.#words[a * RECORD_WORDS + CONFIRMED]! - this.#words[b * RECORD_WORDS + CONFIRMED]!;
    if (confirmed !== 0) return confirmed < 0;
    return (
      this.#doubles[a * RECORD_DOUBLES + LAST_USED_MS]! < this.#doubles[b * RECORD_DOUBLES + LAST_USED_MS]!
    );
  }
}
