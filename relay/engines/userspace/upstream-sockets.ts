/**
 * The upstream sockets of one listener, each bound to a port of its own. A backend tells players apart by the port that
 * their datagrams come from, so two sessions on one backend never share a socket; sessions on *different* backends do,
 * since a reply's source address tells those apart. The descriptors needed are the sessions of the busiest backend.
 *
 * A socket that a session left rests before another session may use it towards the same backend, so that a late reply
 * finds nobody and is dropped. For each backend slot, each socket is in one of three places:
 *
 *     fresh    may be taken now               (a stack: the last one left is the first taken)
 *     owned    by one live session            (owners[slot] is its id)
 *     resting  since it was left              (a queue, in the order of time)
 *
 * Spare sockets are in none of them yet: `sweep` opens them ahead of need, and a slot takes one when it has no fresh one,
 * so that sessions on different backends still share. Sockets that nobody has and whose rest is over count towards that
 * reserve; what is beyond it `sweep` closes.
 */
import assert from 'node:assert/strict';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import type { DatagramBatch, DatagramSocket } from '../../../net/datagram-socket.ts';
import { RelayError } from '../../../net/relay-error.ts';
import {
  EVICTION_BUDGET,
  UPSTREAM_CLOSES_PER_SWEEP,
  UPSTREAM_OPENS_PER_SWEEP,
  UPSTREAM_RESERVE_SHARE,
} from '../../core/limits.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import { RestQueue } from './rest-queue.ts';
import { type ReserveBounds, UpstreamReserve } from './upstream-reserve.ts';

/** Nobody owns the socket towards this slot. */
export const NO_OWNER = -1;

const ANY_V4 = new Endpoint(IpAddress.parse('0.0.0.0'), 0);
const ANY_V6 = new Endpoint(IpAddress.parse('::'), 0);

/** After the system refused a socket, how long none is asked for: asking costs more than a datagram is worth. */
const OPEN_RETRY_MS = 100;

/** Between two reports that the sockets are used up. */
const FULL_REPORT_MS = 10_000;

export interface UpstreamSocket {
  /** Its number, in sessions. Reused after it was closed. */
  readonly number: number;
  readonly isV4: boolean;
  readonly socket: DatagramSocket;
  /** Session id by backend slot, or NO_OWNER. */
  readonly owners: Int32Array;
}

interface Member extends UpstreamSocket {
  owners: Int32Array;
  /** Slots that have an owner. */
  owned: number;
  /** When a session last left it; before all time when none ever had it. */
  leftMs: number;
  isSpare: boolean;
  closed: boolean;
}

interface Rest {
  readonly member: Member;
  readonly sinceMs: number;
}

/** The sockets of one address family that stand ready. */
interface Family {
  readonly isV4: boolean;
  readonly reserve: UpstreamReserve;
  /** Opened ahead, and used by nobody yet. */
  readonly spares: Member[];
  /** Without sessions, spares included. */
  unowned: number;
  /** Used before, without sessions and rested, as the last sweep counted them. */
  idle: number;
}

interface Slot {
  readonly isV4: boolean;
  readonly endpoint: Endpoint;
  fresh: Member[];
  readonly resting: RestQueue<Rest>;
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
  /** Opens and binds a socket whose datagrams go to `onReceive` with the member that received them. */
  readonly open: (local: Endpoint, onReceive: (batch: DatagramBatch) => void) => DatagramSocket;
  readonly onReceive: (upstream: UpstreamSocket, batch: DatagramBatch) => void;
  /** The system refused a socket, or the cap did. Called at most once in 100 ms, and in 10 s for the cap. */
  readonly onOpenFailed: (error: unknown) => void;
}

export class UpstreamSockets {
  readonly #options: UpstreamSocketsOptions;
  readonly #members: (Member | undefined)[] = [];
  readonly #freeNumbers: number[] = [];
  readonly #slots: (Slot | undefined)[] = [];
  readonly #families: readonly [v6: Family, v4: Family];
  #slotCapacity = 8;
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

  get(number: number): UpstreamSocket {
    return this.#members[number]!;
  }

  /**
   * Learns the pool's backends. A backend that is new to its slot, or back in it, may have been known under another one
   * meanwhile, whose late replies can still come: sockets that are open already rest before they serve it.
   */
  publish(snapshot: PoolSnapshot, nowMs: number): void {
    while (this.#slotCapacity < snapshot.backends.length) this.#growSlots();
    for (let slot = 0; slot < Math.max(this.#slots.length, snapshot.backends.length); slot++) {
      const endpoint = snapshot.backends[slot]?.endpoint;
      if (endpoint === undefined) {
        this.#slots[slot] = undefined;
        continue;
      }
      if (this.#slots[slot]?.endpoint.equals(endpoint) === true) continue;
      const isV4 = endpoint.ip.isV4;
      const resting = new RestQueue<Rest>();
      for (const member of this.#members) {
        if (member?.isV4 === isV4 && !member.isSpare && member.owners[slot] === NO_OWNER)
          resting.push({ member, sinceMs: nowMs });
      }
      this.#slots[slot] = { isV4, endpoint, fresh: [], resting };
    }
  }

  /** Takes a socket towards a slot for a session. @returns its number, or -1 when none can be had */
  acquire(slot: number, session: number, nowMs: number): number {
    const place = this.#slots[slot];
    assert(place !== undefined, 'a backend that was not published');
    this.#endRest(place, nowMs);
    let member = place.fresh.pop();
    while (member?.closed === true) member = place.fresh.pop();
    member ??= this.#takeSpare(place) ?? this.#openFor(place, nowMs);
    if (member === undefined) return -1;
    if (member.owned === 0) {
      const family = this.#familyOf(place);
      family.unowned--;
      family.reserve.noteTaken();
    }
    member.owners[slot] = session;
    member.owned++;
    return member.number;
  }

  /** The session leaves its socket, which rests. */
  release(number: number, slot: number, session: number, nowMs: number): void {
    const member = this.#members[number];
    assert(member?.owners[slot] === session, 'released by a session that does not own it');
    member.owners[slot] = NO_OWNER;
    member.owned--;
    if (member.owned === 0) this.#familyOf(member).unowned++;
    member.leftMs = nowMs;
    const place = this.#slots[slot];
    if (place?.isV4 === member.isV4) place.resting.push({ member, sinceMs: nowMs });
  }

  /** The session that owns the socket towards this slot goes by a new id. */
  renumber(number: number, slot: number, session: number): void {
    const member = this.#members[number];
    assert(member !== undefined && member.owners[slot] !== NO_OWNER);
    member.owners[slot] = session;
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
      const session = member.owners[slot]!;
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
    for (const place of this.#slots) if (place !== undefined) this.#endRest(place, nowMs);
    for (const family of this.#families) this.#balance(family, nowMs);
    for (const place of this.#slots) if (place !== undefined) this.#forgetClosed(place);
  }

  async close(): Promise<void> {
    await Promise.all(this.#members.flatMap((member) => member?.socket.close() ?? []));
    this.#members.length = 0;
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

  #isIdle(member: Member, nowMs: number): boolean {
    return !member.isSpare && member.owned === 0 && nowMs - member.leftMs >= this.#options.quarantineMs;
  }

  #findIdle(family: Family, nowMs: number): Member | undefined {
    if (family.idle === 0) return undefined;
    const found = this.#members.find((member) => member?.isV4 === family.isV4 && this.#isIdle(member, nowMs));
    family.idle = found === undefined ? 0 : family.idle - 1;
    return found;
  }

  #familyOf({ isV4 }: Pick<Slot, 'isV4'>): Family {
    return this.#families[isV4 ? 1 : 0];
  }

  #growSlots(): void {
    this.#slotCapacity *= 2;
    for (const member of this.#members) {
      if (member === undefined) continue;
      const owners = new Int32Array(this.#slotCapacity).fill(NO_OWNER);
      owners.set(member.owners);
      member.owners = owners;
    }
  }

  #endRest(place: Slot, nowMs: number): void {
    const restedBefore = nowMs - this.#options.quarantineMs;
    for (
      let head = place.resting.peek();
      head !== undefined && head.sinceMs <= restedBefore;
      head = place.resting.peek()
    ) {
      place.resting.shift();
      if (!head.member.closed) place.fresh.push(head.member);
    }
  }

  /** A slot that takes few sockets would keep all that were ever opened. Once most of its stack are closed, they go. */
  #forgetClosed(place: Slot): void {
    if (place.fresh.length > 2 * this.#size) place.fresh = place.fresh.filter(({ closed }) => !closed);
  }

  /** Takes a spare socket. It never served anybody, or not for a quarantine: it needs no rest towards any backend. */
  #takeSpare(place: Slot): Member | undefined {
    const member = this.#familyOf(place).spares.pop();
    if (member === undefined) return undefined;
    member.isSpare = false;
    this.#offerToOthers(place, member);
    return member;
  }

  /** Opens one more socket for a session. */
  #openFor(place: Slot, nowMs: number): Member | undefined {
    if (!this.#hasRoom() && !this.#makeRoom(nowMs)) return undefined;
    const member = this.#open(place.isV4, nowMs);
    if (member !== undefined) this.#offerToOthers(place, member);
    return member;
  }

  /** A socket that a slot takes is fresh for the others. */
  #offerToOthers(place: Slot, member: Member): void {
    for (const other of this.#slots)
      if (other !== place && other?.isV4 === member.isV4) other.fresh.push(member);
  }

  /** Asks the system for one more socket, unless it has just refused one. */
  #open(isV4: boolean, nowMs: number): Member | undefined {
    if (nowMs < this.#retryOpenAtMs) return undefined;
    const owners = new Int32Array(this.#slotCapacity).fill(NO_OWNER);
    const number = this.#freeNumbers.pop() ?? this.#members.length;
    const leftMs = Number.NEGATIVE_INFINITY;
    let member: Member | undefined;
    try {
      const socket = this.#options.open(isV4 ? ANY_V4 : ANY_V6, (batch) => {
        if (member !== undefined) this.#options.onReceive(member, batch);
      });
      member = { number, isV4, socket, owners, owned: 0, leftMs, isSpare: false, closed: false };
    } catch (error) {
      this.#freeNumbers.push(number);
      this.#retryOpenAtMs = nowMs + OPEN_RETRY_MS;
      this.#options.onOpenFailed(error);
      return undefined;
    }
    this.#members[number] = member;
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

  #close(member: Member): void {
    member.closed = true;
    this.#members[member.number] = undefined;
    this.#freeNumbers.push(member.number);
    this.#size--;
    this.#familyOf(member).unowned--;
    void member.socket.close();
  }
}
