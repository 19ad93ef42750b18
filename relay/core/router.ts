/**
 * Which backend gets a datagram: the decisions that are the same in every engine, over the tables, without I/O.
 *
 * A datagram from a client, in this order:
 *
 *  1. its session by (listener, client IP, client port), unless idle for too long;
 *  2. the session's backend is usable: forward. Else the player is re-pinned, as in 4;
 *  3. no session: the listener is not draining, somebody could take the client, and then the client's and the listener's
 *     limits allow one more: what can't be served takes nothing of a rate;
 *  4. the backend: the pin of the client IP if its backend is ready or draining, else the listener's algorithm. Where
 *     listeners share their pins, the group's pin comes first, and then the listener's own;
 *  5. the session and the pins are written.
 *
 * Time is passed in, in ms on a monotonic clock. A drop is a value: `route` returns a session id, or `~reason`.
 */
import assert from 'node:assert/strict';
import { NO_BACKEND_REF, type BackendRef, slotOf } from './backend-ref.ts';
import { type DropReason, dropReason } from './drop-reason.ts';
import { hashAddress } from './hash.ts';
import { EVICTION_BUDGET, MAX_LISTENERS } from './limits.ts';
import type { ListenerState } from './listener-state.ts';
import { GroupPins } from './group-pins.ts';
import { PinTable } from './pin-table.ts';
import { NO_UPSTREAM, SessionTable } from './session-table.ts';

const BAD_SOURCE = dropReason('bad-source');
const NO_BACKEND = dropReason('no-backend');
const SESSION_TABLE_FULL = dropReason('session-table-full');
const PIN_TABLE_FULL = dropReason('pin-table-full');
const SOURCE_SESSION_LIMIT = dropReason('source-session-limit');
const SOURCE_RATE_LIMIT = dropReason('source-rate-limit');
const LISTENER_RATE_LIMIT = dropReason('listener-rate-limit');
const DRAINING = dropReason('draining');

/** Pins outlive sessions, so there is room for more of them. */
const PINS_PER_SESSION = 2;

export interface RouterOptions {
  readonly maxSessions: number;
  /** Seed of ip-hash: relays that share it, and the backends, agree on every player's server. */
  readonly hashSeed: number;
  /** Seed of the tables' indexes; a secret. */
  readonly tableSeed: number;
  /** RecordTableOptions. */
  readonly prepareMemory?: ((memory: ArrayBuffer) => void) | undefined;
  /** The session is about to lose its upstream: it ends, or moves to another backend. Its record is still whole. */
  readonly onDetach: (session: number) => void;
  /** The session with an upstream got this new id. */
  readonly onRenumber: (session: number) => void;
}

export class Router {
  readonly sessions: SessionTable;
  readonly pins: PinTable;
  readonly groupPins: GroupPins;
  readonly #listeners: (ListenerState | undefined)[] = [];
  readonly #hashSeed: number;
  readonly #onDetach: (session: number) => void;
  readonly #sweepSession: (id: number, nowMs: number) => void;
  readonly #sweepPin: (id: number, nowMs: number) => void;
  readonly #considerVictim: (id: number) => void;
  #victim = -1;
  #draining = false;

  constructor(options: RouterOptions) {
    const shared = { seed: options.tableSeed, prepareMemory: options.prepareMemory };
    this.sessions = new SessionTable({
      ...shared,
      capacity: options.maxSessions,
      onMove: (_from, to) => {
        if (this.sessions.upstream(to) !== NO_UPSTREAM) options.onRenumber(to);
      },
    });
    this.pins = new PinTable({ ...shared, capacity: options.maxSessions * PINS_PER_SESSION });
    this.groupPins = new GroupPins(this.pins, this.#listeners);
    this.#hashSeed = options.hashSeed;
    this.#onDetach = options.onDetach;
    this.#sweepSession = (id, nowMs) => {
      const listener = this.#listeners[this.sessions.listener(id)]!;
      if (this.#isIdle(id, listener, nowMs)) this.expire(id, listener, nowMs);
    };
    this.#considerVictim = (id) => {
      if (!this.sessions.isHalfOpen(id)) return;
      if (this.#victim === -1 || this.sessions.isLongerSilent(id, this.#victim)) this.#victim = id;
    };
    this.#sweepPin = (id, nowMs) => {
      const scope = this.pins.scope(id);
      if (scope >= MAX_LISTENERS) {
        this.groupPins.expire(id, nowMs);
        return;
      }
      const listener = this.#listeners[scope]!;
      if (this.pins.isExpired(id, nowMs, listener.pinTimeoutMs)) this.pins.records.remove(id);
    };
  }

  addListener(listener: ListenerState): void {
    assert(this.#listeners[listener.index] === undefined);
    this.#listeners[listener.index] = listener;
  }

  /** Ends every session of the listener and forgets its pins. */
  removeListener(listener: ListenerState, nowMs: number): void {
    const { sessions, pins } = this;
    this.#listeners[listener.index] = undefined;
    if (listener.counters.sessionsOpened === 0) return;
    const endSession = (id: number): void => {
      if (sessions.listener(id) === listener.index) this.end(id, listener, nowMs);
    };
    // As many steps as there are places and records: a removal may move a record into the place just visited.
    sessions.records.walk(sessions.records.places + sessions.records.size, endSession, nowMs);
    pins.forgetAll(listener.index, nowMs);
  }

  listenerOf(session: number): ListenerState {
    return this.#listeners[this.sessions.listener(session)]!;
  }

  /** No new sessions from now on. */
  drain(): void {
    this.#draining = true;
  }

  /**
   * Decides on one datagram of `bytes` from the client at `words[at]` and `port`.
   *
   * @returns the id of its session, whose backend is usable, or `~reason` (negative) when it must be dropped
   */
  route(
    listener: ListenerState,
    words: Uint32Array,
    at: number,
    port: number,
    bytes: number,
    nowMs: number,
  ): number {
    const { sessions } = this;
    const id = sessions.find(listener.index, words, at, port);
    if (id === -1) return this.#open(listener, words, at, port, bytes, nowMs);
    if (this.#isIdle(id, listener, nowMs)) {
      this.expire(id, listener, nowMs);
      return this.#open(listener, words, at, port, bytes, nowMs);
    }
    if (sessions.datagramsDownstream(id) === 1) this.#confirm(listener, words, at);
    sessions.touch(id, bytes, nowMs);
    return listener.pool.isUsable(sessions.backendRef(id)) ? id : this.#repin(id, listener, words, at, nowMs);
  }

  /** Whether a reply from the backend in `slot` may pass to the session: it is the session's own, and alive. */
  mayReply(session: number, slot: number, nowMs: number): boolean {
    const listener = this.listenerOf(session);
    const ref = this.sessions.backendRef(session);
    return slotOf(ref) === slot && listener.pool.isUsable(ref) && !this.#isIdle(session, listener, nowMs);
  }

  /** Ends sessions and pins whose time is over, a bounded number of records at a time. */
  sweep(budget: number, nowMs: number): void {
    this.sessions.records.walk(budget, this.#sweepSession, nowMs);
    this.pins.records.walk(budget, this.#sweepPin, nowMs);
  }

  expire(session: number, listener: ListenerState, nowMs: number): void {
    listener.counters.sessionExpired();
    this.end(session, listener, nowMs);
  }

  /** Ends a half-open session, to make room for another. Ids of others may change. */
  evict(session: number, nowMs: number): void {
    const listener = this.listenerOf(session);
    listener.counters.sessionEvicted();
    this.end(session, listener, nowMs);
  }

  /** Ends a session; its pin stays. */
  end(session: number, listener: ListenerState, nowMs: number): void {
    const { sessions, pins } = this;
    this.#detach(session);
    listener.pool.sessionEnded(sessions.backendRef(session));
    listener.counters.liveSessions--;
    const pin = pins.find(listener.index, sessions.records.words, sessions.addressAt(session));
    if (pin !== -1) pins.sessionEnded(pin, nowMs);
    sessions.records.remove(session);
  }

  #isIdle(session: number, listener: ListenerState, nowMs: number): boolean {
    return this.sessions.isIdle(session, nowMs, listener.idleTimeoutMs);
  }

  #open(
    listener: ListenerState,
    words: Uint32Array,
    at: number,
    port: number,
    bytes: number,
    nowMs: number,
  ): number {
    if (port === 0 || !isAnswerable(words, at)) return ~BAD_SOURCE;
    if (this.#draining) return ~DRAINING;
    const { sessions, pins } = this;
    let pin = pins.find(listener.index, words, at);
    const pinned = this.#pinned(listener, pin, words, at);
    if (pinned === NO_BACKEND_REF && listener.pool.snapshot.ready.length === 0) return ~NO_BACKEND;
    const refused = this.#admit(listener, pin, nowMs);
    if (refused !== -1) return ~refused;
    const ref = pinned === NO_BACKEND_REF ? this.#choose(listener, words, at) : pinned;

    if (sessions.records.isFull && !this.#evictHalfOpen(nowMs)) return ~SESSION_TABLE_FULL;
    if (pin === -1) {
      pin = pins.add(listener.index, words, at, nowMs);
      if (pin === -1) return ~PIN_TABLE_FULL;
      this.#admitSource(listener, pin, nowMs);
    }
    const id = sessions.open(listener.index, words, at, port, nowMs);
    sessions.setBackendRef(id, ref);
    sessions.touch(id, bytes, nowMs);
    pins.setBackendRef(pin, ref);
    pins.sessionOpened(pin, nowMs);
    if (listener.group !== undefined) this.groupPins.write(listener.group, ref, words, at, nowMs);
    listener.pool.sessionOpened(ref);
    listener.counters.liveSessions++;
    listener.counters.sessionOpened();
    return id;
  }

  /** @returns the reason to refuse one more session of this client IP, or -1 */
  #admit(listener: ListenerState, pin: number, nowMs: number): DropReason {
    const refused = pin === -1 ? -1 : this.#admitSource(listener, pin, nowMs);
    if (refused !== -1) return refused;
    return listener.rate.take(nowMs) ? -1 : LISTENER_RATE_LIMIT;
  }

  #admitSource(listener: ListenerState, pin: number, nowMs: number): DropReason {
    const { sessionsPerSource, sessionRatePerSource } = listener.limits;
    if (sessionsPerSource > 0 && this.pins.liveSessions(pin) >= sessionsPerSource)
      return SOURCE_SESSION_LIMIT;
    return this.pins.takeToken(pin, nowMs, sessionRatePerSource) ? -1 : SOURCE_RATE_LIMIT;
  }

  /** @returns the backend that a pin of this client IP names, if it is ready or draining, else NO_BACKEND_REF */
  #pinned(listener: ListenerState, pin: number, words: Uint32Array, at: number): BackendRef {
    const { pool, group } = listener;
    if (group !== undefined) {
      const shared = this.groupPins.follow(group, words, at);
      if (shared !== NO_BACKEND_REF && pool.isUsable(shared)) return shared;
    }
    if (pin === -1) return NO_BACKEND_REF;
    const own = this.pins.backendRef(pin);
    return pool.isUsable(own) ? own : NO_BACKEND_REF;
  }

  /** @returns the backend that the algorithm says, or NO_BACKEND_REF when none is ready */
  #choose({ pool, selector, algorithm }: ListenerState, words: Uint32Array, at: number): BackendRef {
    const slot = selector.choose(
      algorithm,
      pool.snapshot,
      hashAddress(words, at, this.#hashSeed),
      algorithm === 'least-connections' ? pool.totalLive() : pool.live,
    );
    return slot === -1 ? NO_BACKEND_REF : pool.snapshot.usable[slot]!;
  }

  /** The session's backend is gone: the player moves to where its pin, or else the algorithm, says. */
  #repin(session: number, listener: ListenerState, words: Uint32Array, at: number, nowMs: number): number {
    const pin = this.pins.find(listener.index, words, at);
    const pinned = this.#pinned(listener, pin, words, at);
    const ref = pinned === NO_BACKEND_REF ? this.#choose(listener, words, at) : pinned;
    if (ref === NO_BACKEND_REF) return ~NO_BACKEND;
    this.#detach(session);
    this.sessions.setBackendRef(session, ref);
    listener.pool.sessionOpened(ref);
    if (pin !== -1) this.pins.setBackendRef(pin, ref);
    if (listener.group !== undefined) this.groupPins.write(listener.group, ref, words, at, nowMs);
    listener.counters.sessionRepinned();
    return session;
  }

  #detach(session: number): void {
    if (this.sessions.upstream(session) === NO_UPSTREAM) return;
    this.#onDetach(session);
    this.sessions.setUpstream(session, NO_UPSTREAM);
  }

  #confirm(listener: ListenerState, words: Uint32Array, at: number): void {
    const pin = this.pins.find(listener.index, words, at);
    if (pin !== -1) this.pins.confirm(pin);
  }

  /** Of the next few sessions, ends the half-open one that is silent longest. @returns whether there was one */
  #evictHalfOpen(nowMs: number): boolean {
    this.#victim = -1;
    this.sessions.records.walk(EVICTION_BUDGET, this.#considerVictim, nowMs);
    if (this.#victim !== -1) this.evict(this.#victim, nowMs);
    return this.#victim !== -1;
  }
}

/** Whether a reply could be sent there: not unspecified, not multicast (224.0.0.0/4, ff00::/8), not broadcast. */
function isAnswerable(words: Uint32Array, at: number): boolean {
  const isMapped = words[at + 2] === 0xffff0000 && words[at] === 0 && words[at + 1] === 0;
  if (isMapped) {
    const firstByte = words[at + 3]! & 0xff;
    return firstByte !== 0 && firstByte < 224;
  }
  const isZero = (words[at]! | words[at + 1]! | words[at + 2]! | words[at + 3]!) === 0;
  return !isZero && (words[at]! & 0xff) !== 0xff;
}
