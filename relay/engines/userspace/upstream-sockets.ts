/**
 * The upstream sockets of one listener, each bound to a port of its own. A backend tells players apart by the port that
 * their datagrams come from, so two sessions on one backend never share a socket; sessions on *different* backends do,
 * since a reply's source address tells those apart. The descriptors needed are the sessions of the busiest backend. For each
 * backend slot, each socket is fresh, owned or resting (upstream-slot.ts).
 *
 * Spare sockets are in none of these yet: `sweep` opens them ahead of need, and a slot takes one when it has no fresh one,
 * so that sessions on different backends still share. Sockets that nobody has and whose rest is over count towards that
 * reserve; what is beyond it `sweep` closes.
 */
import assert from 'node:assert/strict';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import type { DatagramSocket } from '../../../net/datagram-socket.ts';
import { RelayError } from '../../../net/relay-error.ts';
import {
  EVICTION_BUDGET,
  UPSTREAM_CLOSES_PER_SWEEP,
  UPSTREAM_OPENS_PER_SWEEP,
  UPSTREAM_RESERVE_SHARE,
} from '../../core/limits.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import { NO_OWNER, UpstreamOwners } from './upstream-owners.ts';
import { type ReserveBounds, UpstreamReserve } from './upstream-reserve.ts';
import { UpstreamSlot, type UpstreamSocket } from './upstream-slot.ts';

const ANY_V4 = new Endpoint(IpAddress.parse('0.0.0.0'), 0);
const ANY_V6 = new Endpoint(IpAddress.parse('::'), 0);

/** After the system refused a socket, how long none is asked for: asking costs more than a datagram is worth. */
const OPEN_RETRY_MS = 100;

/** Between two reports that the sockets are used up. */
const FULL_REPORT_MS = 10_000;

/** The sockets of one address family that stand ready. */
interface Family {
  readonly isV4: boolean;
  readonly reserve: UpstreamReserve;
  /** Opened ahead, and used by nobody yet. */
  readonly spares: UpstreamSocket[];
  /** Without sessions, spares included. */
  unowned: number;
  /** Used before, without sessions and rested, as the last sweep counted them. */
  idle: number;
}

export interface UpstreamSocketsOptions {
  readonly maxSockets: number;
  /** Whether one more may be opened beside those of other listeners. */
  readonly hasRoom: () => boolean;
  /** Makes another listener close a spare one. @returns whether there is room now */
  readonly makeRoom: () => boolean;
  /** Sockets held ready, before the bound that `maxSockets` sets. */
  readonly reserve: ReserveBounds;
  readonly quarantineMs: number;
  /** Opens and binds a socket whose datagrams bear its number as their tag. */
  readonly open: (local: Endpoint, number: number) => DatagramSocket;
  /** The system refused a socket, or the cap did. Called at most once in 100 ms, and in 10 s for the cap. */
  readonly onOpenFailed: (error: unknown) => void;
}

export class UpstreamSockets {
  /** By socket and backend slot. */
  readonly owners = new UpstreamOwners();
  /** By number, while it is open. */
  readonly sockets: (DatagramSocket | undefined)[] = [];
  readonly #options: UpstreamSocketsOptions;
  readonly #members: (UpstreamSocket | undefined)[] = [];
  readonly #freeNumbers: number[] = [];
  readonly #slots: (UpstreamSlot | undefined)[] = [];
  readonly #families: readonly [v6: Family, v4: Family];
  #size = 0;
  #retryOpenAtMs = 0;
  #reportedFullMs = Number.NEGATIVE_INFINITY;
  #cursor = 0;

  constructor(options: UpstreamSocketsOptions) {
    this.#options = options;
    const cap = Math.floor(options.maxSockets / UPSTREAM_RESERVE_SHARE);
    const least = Math.min(cap, options.reserve.least);
    const most = Math.min(cap, options.reserve.most);
    const family = (isV4: boolean): Family => {
      return { isV4, reserve: new UpstreamReserve({ least, most }), spares: [], unowned: 0, idle: 0 };
    };
    this.#families = [family(false), family(true)];
  }

  get size(): number {
    return this.#size;
  }

  /**
   * Learns the pool's backends. A backend that is new to its slot, or back in it, may have been known under another one
   * meanwhile, whose late replies can still come: sockets that are open already rest before they serve it.
   */
  publish(snapshot: PoolSnapshot, nowMs: number): void {
    const slots = Math.max(this.#slots.length, snapshot.backends.length);
    this.owners.makeRoom({ slots });
    for (let slot = 0; slot < slots; slot++) {
      const endpoint = snapshot.backends[slot]?.endpoint;
      if (endpoint === undefined) {
        this.#slots[slot] = undefined;
        continue;
      }
      if (this.#slots[slot]?.endpoint.equals(endpoint) === true) continue;
      const place = new UpstreamSlot(endpoint);
      for (const member of this.#members) {
        if (
          member?.isV4 === place.isV4 &&
          !member.isSpare &&
          this.owners.get(member.number, slot) === NO_OWNER
        )
          place.rest(member, nowMs);
      }
      this.#slots[slot] = place;
    }
  }

  /** Takes a socket towards a slot for a session. @returns its number, or -1 when none can be had */
  acquire(slot: number, session: number, nowMs: number): number {
    const place = this.#slots[slot];
    assert(place !== undefined, 'a backend that was not published');
    place.endRests(nowMs - this.#options.quarantineMs);
    const member = place.take() ?? this.#takeSpare(place) ?? this.#openFor(place, nowMs);
    if (member === undefined) return -1;
    if (member.owned === 0) {
      const family = this.#familyOf(place);
      family.unowned--;
      family.reserve.noteTaken();
    }
    this.owners.set(member.number, slot, session);
    member.owned++;
    return member.number;
  }

  /** The session leaves its socket, which rests. */
  release(number: number, slot: number, session: number, nowMs: number): void {
    const member = this.#members[number];
    assert(member !== undefined && this.owners.get(number, slot) === session, 'released by another session');
    this.owners.set(number, slot, NO_OWNER);
    member.owned--;
    if (member.owned === 0) this.#familyOf(member).unowned++;
    member.leftMs = nowMs;
    const place = this.#slots[slot];
    if (place?.isV4 === member.isV4) place.rest(member, nowMs);
  }

  /** The session that owns the socket towards this slot goes by a new id. */
  renumber(number: number, slot: number, session: number): void {
    assert(this.owners.get(number, slot) !== NO_OWNER);
    this.owners.set(number, slot, session);
  }

  /**
   * Looks at a few sockets for a session that has one to itself, towards this slot, and may lose it.
   *
   * @returns its id, or -1
   */
  findSoleOwner(slot: number, mayLose: (session: number) => boolean): number {
    for (let steps = Math.min(EVICTION_BUDGET, this.#members.length); steps > 0; steps--) {
      this.#cursor = (this.#cursor + 1) % this.#members.length;
      const member = this.#members[this.#cursor];
      if (member?.owned !== 1) continue;
      const session = this.owners.get(member.number, slot);
      if (session !== NO_OWNER && mayLose(session)) return session;
    }
    return -1;
  }

  /**
   * Closes a socket that no session owns, without waiting for its rest: a late reply then finds no port at all.
   *
   * @returns whether there is room for another one now
   */
  closeUnowned(number: number): boolean {
    const member = this.#members[number];
    if (member === undefined || member.owned > 0) return false;
    this.#close(member);
    this.#retryOpenAtMs = 0;
    return true;
  }

  /** Closes a socket that only stands ready. @returns whether there was one */
  giveUpReady(nowMs: number): boolean {
    for (const family of this.#families) {
      const member = family.spares.pop() ?? this.#findIdle(family, nowMs);
      if (member === undefined) continue;
      this.#close(member);
      return true;
    }
    return false;
  }

  /** One step: ends rests that are over, closes sockets that nobody needs any more, and opens some ahead of need. */
  sweep(nowMs: number): void {
    const restedSinceMs = nowMs - this.#options.quarantineMs;
    for (const place of this.#slots) place?.endRests(restedSinceMs);
    for (const family of this.#families) this.#balance(family, nowMs);
    for (const place of this.#slots) place?.forgetClosed(this.#size);
  }

  async close(): Promise<void> {
    await Promise.all(this.#members.flatMap((member) => member?.socket.close() ?? []));
    this.#members.length = 0;
    this.sockets.length = 0;
    for (const family of this.#families) {
      family.spares.length = 0;
      family.unowned = 0;
    }
    this.#size = 0;
  }

  /** Brings the sockets that stand ready towards the number that is wanted. */
  #balance(family: Family, nowMs: number): void {
    const { spares, reserve, isV4 } = family;
    const isUsed = this.#slots.some((place) => place?.isV4 === isV4);
    const wanted = isUsed ? reserve.wanted(nowMs) : 0;
    let closes = UPSTREAM_CLOSES_PER_SWEEP;
    family.idle = 0;
    for (const member of family.unowned > spares.length ? this.#members : []) {
      if (member?.isV4 !== isV4 || !this.#isIdle(member, nowMs)) continue;
      if (spares.length + family.idle < wanted || closes === 0) family.idle++;
      else {
        this.#close(member);
        closes--;
      }
    }
    for (; closes > 0 && spares.length > 0 && spares.length + family.idle > wanted; closes--)
      this.#close(spares.pop()!);
    for (let opens = UPSTREAM_OPENS_PER_SWEEP; opens > 0; opens--) {
      if (spares.length + family.idle >= wanted || !this.#hasRoom()) break;
      const spare = this.#open(isV4, nowMs);
      if (spare === undefined) break;
      spare.isSpare = true;
      spares.push(spare);
    }
  }

  #isIdle(member: UpstreamSocket, nowMs: number): boolean {
    return !member.isSpare && member.owned === 0 && nowMs - member.leftMs >= this.#options.quarantineMs;
  }

  #findIdle(family: Family, nowMs: number): UpstreamSocket | undefined {
    if (family.idle === 0) return undefined;
    const found = this.#members.find((member) => member?.isV4 === family.isV4 && this.#isIdle(member, nowMs));
    family.idle = found === undefined ? 0 : family.idle - 1;
    return found;
  }

  #familyOf({ isV4 }: Pick<UpstreamSlot, 'isV4'>): Family {
    return this.#families[isV4 ? 1 : 0];
  }

  /** Takes a spare socket. It never served anybody, or not for a quarantine: it needs no rest towards any backend. */
  #takeSpare(place: UpstreamSlot): UpstreamSocket | undefined {
    const member = this.#familyOf(place).spares.pop();
    if (member === undefined) return undefined;
    member.isSpare = false;
    this.#offerToOthers(place, member);
    return member;
  }

  /** Opens one more socket for a session. */
  #openFor(place: UpstreamSlot, nowMs: number): UpstreamSocket | undefined {
    if (!this.#hasRoom() && !this.#makeRoom(nowMs)) return undefined;
    const member = this.#open(place.isV4, nowMs);
    if (member !== undefined) this.#offerToOthers(place, member);
    return member;
  }

  /** A socket that a slot takes is fresh for the others. */
  #offerToOthers(place: UpstreamSlot, member: UpstreamSocket): void {
    for (const other of this.#slots) if (other !== place && other?.isV4 === member.isV4) other.offer(member);
  }

  /** Asks the system for one more socket, unless it has just refused one. */
  #open(isV4: boolean, nowMs: number): UpstreamSocket | undefined {
    if (nowMs < this.#retryOpenAtMs) return undefined;
    const number = this.#freeNumbers.pop() ?? this.#members.length;
    let socket: DatagramSocket;
    try {
      socket = this.#options.open(isV4 ? ANY_V4 : ANY_V6, number);
    } catch (error) {
      if (number < this.#members.length) this.#freeNumbers.push(number);
      this.#retryOpenAtMs = nowMs + OPEN_RETRY_MS;
      this.#options.onOpenFailed(error);
      return undefined;
    }
    this.owners.makeRoom({ sockets: number + 1 });
    const leftMs = Number.NEGATIVE_INFINITY;
    const member = { number, isV4, socket, owned: 0, leftMs, isSpare: false, closed: false };
    this.#members[number] = member;
    this.sockets[number] = socket;
    this.#size++;
    this.#familyOf(member).unowned++;
    return member;
  }

  #hasRoom(): boolean {
    return this.#size < this.#options.maxSockets && this.#options.hasRoom();
  }

  /** At the cap, sockets that only stand ready give way: the reserve never costs anybody a session. */
  #makeRoom(nowMs: number): boolean {
    const { makeRoom, onOpenFailed } = this.#options;
    if (this.giveUpReady(nowMs) || makeRoom()) return true;
    if (nowMs - this.#reportedFullMs < FULL_REPORT_MS) return false;
    this.#reportedFullMs = nowMs;
    const message =
      'all upstream sockets are in use; raise limits.maxUpstreamSockets, unless this is a flood';
    onOpenFailed(new RelayError('TICKRELAY_ERR_LIMIT', message));
    return false;
  }

  #close(member: UpstreamSocket): void {
    member.closed = true;
    this.#members[member.number] = undefined;
    this.sockets[member.number] = undefined;
    this.#freeNumbers.push(member.number);
    this.#size--;
    this.#familyOf(member).unowned--;
    void member.socket.close();
  }
}
