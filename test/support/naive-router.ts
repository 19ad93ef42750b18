/**
 * The router's decisions straight from the design, on Maps and plain objects, with the order of its checks: session,
 * whether anybody is there, admission, pin, algorithm. It knows addresses as text and backends as objects; nothing is counted that can be counted
 * again. Tables are bounded, but their choice of a victim is not modelled: give the router room.
 */
import assert from 'node:assert/strict';
import { IpAddress } from '../../net/address.ts';
import type { BackendPool } from '../../relay/core/backend-pool.ts';
import type { DropReasonName } from '../../relay/core/drop-reason.ts';
import { hashAddress } from '../../relay/core/hash.ts';
import type { ListenerRules } from '../../relay/core/listener-state.ts';
import { naiveIpHash, naiveLeastConnections } from './naive-select.ts';
import { NaiveTokenBucket } from './naive-token-bucket.ts';

/** One stay of a backend in the pool, from becoming usable until it fails or leaves. Sessions and pins hold on to it. */
interface Stay {
  readonly id: string;
  over: boolean;
}

export interface NaiveSession {
  readonly listener: string;
  readonly ip: string;
  readonly port: number;
  stay: Stay;
  lastSeenMs: number;
  datagrams: number;
  bytes: number;
}

interface NaivePin {
  stay: Stay;
  lastUsedMs: number;
  readonly tokens: NaiveTokenBucket;
}

interface NaiveListener {
  rules: ListenerRules;
  rate: NaiveTokenBucket;
  turn: number;
}

/** Of one listener of the router that is compared. */
interface SessionCounts {
  readonly sessionsOpened: number;
  readonly sessionsExpired: number;
  readonly sessionsRepinned: number;
}

export class NaiveRouter {
  /** By `listener ip port`. */
  readonly sessions = new Map<string, NaiveSession>();
  /** By `listener ip`. */
  readonly pins = new Map<string, NaivePin>();
  readonly tally = { opened: 0, expired: 0, repinned: 0 };
  readonly #listeners = new Map<string, NaiveListener>();
  readonly #pool: BackendPool;
  #stays = new Map<string, Stay>();
  #draining = false;

  constructor(pool: BackendPool) {
    this.#pool = pool;
  }

  setRules(listener: string, rules: ListenerRules): void {
    const before = this.#listeners.get(listener);
    const { sessionRate } = rules.limits;
    const isSameRate = before?.rules.limits.sessionRate === sessionRate;
    const rate = isSameRate ? before.rate : new NaiveTokenBucket(sessionRate);
    this.#listeners.set(listener, { rules, rate, turn: before?.turn ?? 0 });
  }

  /** The pool has changed: a backend that is no longer usable has ended its stay. */
  publish(): void {
    const usable = this.#pool.list().filter(({ state }) => state === 'ready' || state === 'draining');
    const ids = new Set(usable.map(({ id }) => id));
    for (const stay of this.#stays.values()) stay.over ||= !ids.has(stay.id);
    this.#stays = new Map(
      usable.map(({ id }) => {
        const stay = this.#stays.get(id);
        return [id, stay === undefined || stay.over ? { id, over: false } : stay];
      }),
    );
  }

  /** Asserts that the listeners together counted the sessions that were opened, expired and re-pinned here. */
  checkTally(counts: readonly SessionCounts[]): void {
    const sum = (of: (count: SessionCounts) => number): number =>
      counts.reduce((total, count) => total + of(count), 0);
    const counted = {
      opened: sum(({ sessionsOpened }) => sessionsOpened),
      expired: sum(({ sessionsExpired }) => sessionsExpired),
      repinned: sum(({ sessionsRepinned }) => sessionsRepinned),
    };
    assert.deepEqual(counted, this.tally);
  }

  drain(): void {
    this.#draining = true;
  }

  /** The id of the backend that gets the datagram, or why none does. */
  route(listener: string, ip: string, port: number, bytes: number, nowMs: number): string {
    const key = `${listener} ${ip} ${port}`;
    if (this.sessions.has(key) && this.isIdle(key, nowMs)) this.expire(key, nowMs);
    let session = this.sessions.get(key);
    if (session === undefined) {
      const opened = this.#open(listener, ip, port, nowMs);
      if (typeof opened === 'string') return opened;
      session = opened;
    }
    session.lastSeenMs = nowMs;
    session.datagrams++;
    session.bytes += bytes;
    if (!session.stay.over) return session.stay.id;

    const stay = this.#choose(listener, ip);
    if (stay === undefined) return 'no-backend' satisfies DropReasonName;
    session.stay = stay;
    this.tally.repinned++;
    this.pins.get(`${listener} ${ip}`)!.stay = stay;
    return stay.id;
  }

  // A sweep may take its time, and until it has come a session still counts. So the test tells which ones it took.

  isIdle(key: string, nowMs: number): boolean {
    const { listener, lastSeenMs } = this.sessions.get(key)!;
    return nowMs - lastSeenMs >= this.#listeners.get(listener)!.rules.idleTimeoutMs;
  }

  expire(key: string, nowMs: number): void {
    const { listener, ip } = this.sessions.get(key)!;
    this.sessions.delete(key);
    this.pins.get(`${listener} ${ip}`)!.lastUsedMs = nowMs;
    this.tally.expired++;
  }

  isPinOver(key: string, nowMs: number): boolean {
    const [listener, ip] = key.split(' ') as [string, string];
    const { pinTimeoutMs } = this.#listeners.get(listener)!.rules;
    return (
      this.sessionsOf(listener, ip).length === 0 && nowMs - this.pins.get(key)!.lastUsedMs >= pinTimeoutMs
    );
  }

  removeListener(listener: string): void {
    for (const key of this.sessions.keys()) if (key.startsWith(`${listener} `)) this.sessions.delete(key);
    for (const key of this.pins.keys()) if (key.startsWith(`${listener} `)) this.pins.delete(key);
  }

  sessionsOf(listener: string, ip?: string): NaiveSession[] {
    const all = [...this.sessions.values()];
    return all.filter((session) => session.listener === listener && (ip === undefined || session.ip === ip));
  }

  /** Live sessions of the backend's present stay. */
  live(id: string): number {
    return [...this.sessions.values()].filter(({ stay }) => stay.id === id && !stay.over).length;
  }

  #open(listener: string, ip: string, port: number, nowMs: number): NaiveSession | DropReasonName {
    const { rules, rate } = this.#listeners.get(listener)!;
    const { limits } = rules;
    const { range } = IpAddress.parse(ip);
    if (port === 0 || ['unspecified', 'multicast', 'broadcast'].includes(range)) return 'bad-source';
    if (this.#draining) return 'draining';
    const known = this.pins.get(`${listener} ${ip}`);
    if (known?.stay.over !== false && this.#pool.snapshot().ready.length === 0) return 'no-backend';
    const live = this.sessionsOf(listener, ip).length;
    if (limits.sessionsPerSource > 0 && live >= limits.sessionsPerSource) return 'source-session-limit';
    if (known !== undefined && !known.tokens.take(nowMs)) return 'source-rate-limit';
    if (!rate.take(nowMs)) return 'listener-rate-limit';
    const stay = this.#choose(listener, ip)!;
    const pin = known ?? {
      stay,
      lastUsedMs: nowMs,
      tokens: new NaiveTokenBucket(limits.sessionRatePerSource),
    };
    if (known === undefined) pin.tokens.take(nowMs);
    pin.stay = stay;
    pin.lastUsedMs = nowMs;
    this.pins.set(`${listener} ${ip}`, pin);
    const session = { listener, ip, port, stay, lastSeenMs: nowMs, datagrams: 0, bytes: 0 };
    this.sessions.set(`${listener} ${ip} ${port}`, session);
    this.tally.opened++;
    return session;
  }

  #choose(listener: string, ip: string): Stay | undefined {
    const pinned = this.pins.get(`${listener} ${ip}`)?.stay;
    if (pinned?.over === false) return pinned;
    const of = this.#listeners.get(listener)!;
    const snapshot = this.#pool.snapshot();
    if (snapshot.ready.length === 0) return undefined;
    const hash = hashAddress(IpAddress.parse(ip).words, 0, 0) >>> 0;
    let slot: number;
    if (of.rules.algorithm === 'ip-hash') slot = naiveIpHash(snapshot, hash);
    else if (of.rules.algorithm === 'least-connections') {
      const live = Uint32Array.from(snapshot.backends, (backend) => (backend ? this.live(backend.id) : 0));
      slot = naiveLeastConnections(snapshot, hash, live);
    } else {
      if (of.turn >= snapshot.rotation.length) of.turn = 0;
      slot = snapshot.rotation[of.turn++]!;
    }
    return this.#stays.get(snapshot.backends[slot]!.id);
  }
}
