/**
 * The sessions of one engine: (listener, client address, client port) -> backend, upstream socket and traffic. A session's
 * id is its place in the table, and changes when the table moves it (RecordTableOptions.onMove).
 *
 * Fields of a record (record-table.ts), after the client address:
 *
 *     word 4      key: listener index + 1 (16) | client port (16)
 *     word 5      backend reference
 *     word 6      path (12): the engine's number for the way to the client | upstream (20): for the way to the backend
 *     word 7      datagrams from the client
 *     double 4    last datagram from the client, in ms on the engine's clock
 *     double 5    bytes from the client
 *     double 6    bytes to the client
 *     word 14     opened at, in seconds on the engine's clock
 *     word 15     datagrams to the client
 *
 * What a datagram from the client needs is in the first 48 bytes: a large array begins 16 bytes into a page, where malloc put it,
 * so that a record's last quarter is in the next cache line.
 */
import type { BackendRef } from './backend-ref.ts';
import {
  KEY_WORD,
  RECORD_DOUBLES,
  RECORD_WORDS,
  RecordTable,
  type RecordTableOptions,
} from './record-table.ts';

/** The session has no upstream yet. */
export const NO_UPSTREAM = 0xfffff;

/** Enough for every upstream socket that a configuration may allow: a million. */
const UPSTREAM_BITS = 20;
const UPSTREAM_MASK = 0xfffff;

const BACKEND_REF = 5;
const WAYS = 6;
const DATAGRAMS_DOWNSTREAM = 7;
const LAST_SEEN_MS = 4;
const BYTES_DOWNSTREAM = 5;
const BYTES_UPSTREAM = 6;
const OPENED_S = 14;
const DATAGRAMS_UPSTREAM = 15;

export class SessionTable {
  readonly records: RecordTable;
  readonly #words: Uint32Array;
  readonly #doubles: Float64Array;

  constructor(options: RecordTableOptions) {
    this.records = new RecordTable(options);
    this.#words = this.records.words;
    this.#doubles = this.records.doubles;
  }

  /** @returns the session's id, or -1 */
  find(listener: number, words: Uint32Array, at: number, port: number): number {
    return this.records.find(words, at, sessionKey(listener, port));
  }

  /** Makes the `find`s of a batch of up to PREFETCH_LIMIT datagrams cheaper, where the table is larger than the cache. */
  prefetch(listener: number, words: Uint32Array, ports: Uint16Array, count: number): void {
    this.records.prefetch(words, sessionKey(listener, 0), ports, count);
  }

  /** @returns the new session's id, or -1 when the table is full */
  open(listener: number, words: Uint32Array, at: number, port: number, nowMs: number): number {
    const id = this.records.insert(words, at, sessionKey(listener, port));
    if (id === -1) return -1;
    this.#words[id * RECORD_WORDS + WAYS] = NO_UPSTREAM;
    this.#words[id * RECORD_WORDS + OPENED_S] = nowMs / 1000;
    this.#doubles[id * RECORD_DOUBLES + LAST_SEEN_MS] = nowMs;
    return id;
  }

  /** A datagram from the client: counted, and the only thing that keeps a session alive (RFC 4787 REQ-6). */
  touch(id: number, bytes: number, nowMs: number): void {
    this.#doubles[id * RECORD_DOUBLES + LAST_SEEN_MS] = nowMs;
    this.#doubles[id * RECORD_DOUBLES + BYTES_DOWNSTREAM]! += bytes;
    this.#words[id * RECORD_WORDS + DATAGRAMS_DOWNSTREAM]!++;
  }

  /** A datagram to the client. */
  replied(id: number, bytes: number): void {
    this.#doubles[id * RECORD_DOUBLES + BYTES_UPSTREAM]! += bytes;
    this.#words[id * RECORD_WORDS + DATAGRAMS_UPSTREAM]!++;
  }

  /** Index of the client's address in `records.words`. */
  addressAt(id: number): number {
    return id * RECORD_WORDS;
  }

  listener(id: number): number {
    return (this.#words[id * RECORD_WORDS + KEY_WORD]! >>> 16) - 1;
  }

  clientPort(id: number): number {
    return this.#words[id * RECORD_WORDS + KEY_WORD]! & 0xffff;
  }

  backendRef(id: number): BackendRef {
    return this.#words[id * RECORD_WORDS + BACKEND_REF]!;
  }

  setBackendRef(id: number, ref: BackendRef): void {
    this.#words[id * RECORD_WORDS + BACKEND_REF] = ref;
  }

  upstream(id: number): number {
    return this.#words[id * RECORD_WORDS + WAYS]! & UPSTREAM_MASK;
  }

  setUpstream(id: number, upstream: number): void {
    const at = id * RECORD_WORDS + WAYS;
    this.#words[at] = (this.#words[at]! & ~UPSTREAM_MASK) | upstream;
  }

  /** On which path the client's last datagram came (net/datagram-socket.ts), and so the replies go. */
  path(id: number): number {
    return this.#words[id * RECORD_WORDS + WAYS]! >>> UPSTREAM_BITS;
  }

  setPath(id: number, path: number): void {
    const at = id * RECORD_WORDS + WAYS;
    this.#words[at] = (this.#words[at]! & UPSTREAM_MASK) | (path << UPSTREAM_BITS);
  }

  openedMs(id: number): number {
    return this.#words[id * RECORD_WORDS + OPENED_S]! * 1000;
  }

  lastSeenMs(id: number): number {
    return this.#doubles[id * RECORD_DOUBLES + LAST_SEEN_MS]!;
  }

  /** Whether the client has been silent for `timeoutMs`. A boolean, since a double that leaves a function may be boxed. */
  isIdle(id: number, nowMs: number, timeoutMs: number): boolean {
    return nowMs - this.#doubles[id * RECORD_DOUBLES + LAST_SEEN_MS]! >= timeoutMs;
  }

  /** Whether the client of session `a` was heard before that of session `b`. */
  isLongerSilent(a: number, b: number): boolean {
    const doubles = this.#doubles;
    return doubles[a * RECORD_DOUBLES + LAST_SEEN_MS]! < doubles[b * RECORD_DOUBLES + LAST_SEEN_MS]!;
  }

  datagramsDownstream(id: number): number {
    return this.#words[id * RECORD_WORDS + DATAGRAMS_DOWNSTREAM]!;
  }

  datagramsUpstream(id: number): number {
    return this.#words[id * RECORD_WORDS + DATAGRAMS_UPSTREAM]!;
  }

  bytesDownstream(id: number): number {
    return this.#doubles[id * RECORD_DOUBLES + BYTES_DOWNSTREAM]!;
  }

  bytesUpstream(id: number): number {
    return this.#doubles[id * RECORD_DOUBLES + BYTES_UPSTREAM]!;
  }

  /** Its client has sent one datagram and no more: perhaps a spoofed source, and the first to go when room is needed. */
  isHalfOpen(id: number): boolean {
    return this.datagramsDownstream(id) <= 1;
  }
}

function sessionKey(listener: number, port: number): number {
  return (((listener + 1) << 16) | port) >>> 0;
}
