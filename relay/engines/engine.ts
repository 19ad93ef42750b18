/**
 * The data plane contract. Every engine takes the same decisions (DESIGN: "the same in every engine"); test/contract
 * runs one suite against them all. The control plane decides who is ready and publishes it; an engine obeys.
 */
import type { Endpoint } from '../../net/address.ts';
import type { ListenerCounts } from '../core/counters.ts';
import type { ListenerRules } from '../core/listener-state.ts';
import type { PinGroupSpec, PinRequest } from '../core/pin-group.ts';
import type { PoolSnapshot } from '../core/pool-snapshot.ts';
import type { ReplyTimes } from '../core/reply-times.ts';

export type EngineName = 'dgram' | 'mmsg' | 'kernel';

/** A public UDP address and the rules of its sessions. */
export interface UdpListenerSpec extends ListenerRules {
  readonly name: string;
  readonly listen: Endpoint;
  readonly pool: string;
  /** Name of the group whose listeners share their pins; absent: its pins are its own. */
  readonly pinGroup?: string | undefined;
  /** Asked of the system for each socket of the listener; it may grant less. */
  readonly receiveBufferBytes: number;
}

/** One live session, as the admin API lists it. */
export interface SessionView {
  readonly listener: string;
  readonly client: string;
  /** Id, or undefined when the backend is gone and the client has not been heard since. */
  readonly backend: string | undefined;
  /** Local port of the upstream socket; the backend sees this one. */
  readonly upstreamPort: number;
  readonly ageMs: number;
  /** Time since the last datagram from the client. */
  readonly idleMs: number;
  readonly halfOpen: boolean;
  readonly downstreamDatagrams: number;
  readonly downstreamBytes: number;
  readonly upstreamDatagrams: number;
  readonly upstreamBytes: number;
  /** How evenly the client's datagrams come, from engines that see each one's time of arrival. */
  readonly pacing?: Pacing;
}

export interface Pacing {
  /** Intervals of more than two ticks between datagrams from the client. */
  readonly gaps: number;
  /** Intervals by length: one count for each power of two around the tick; the first and the last are open. */
  readonly intervals: readonly number[];
}

export interface SessionQuery {
  /** At most this many; the listing says whether there were more. */
  readonly limit: number;
  readonly listener?: string;
  /** Backend id. */
  readonly backend?: string;
  /** Client IP in text form. */
  readonly clientIp?: string;
}

export interface SessionListing {
  readonly sessions: readonly SessionView[];
  readonly total: number;
  readonly truncated: boolean;
}

/** Live figures of one listener. */
export interface ListenerStatus {
  readonly name: string;
  readonly local: Endpoint;
  readonly pool: string;
  readonly counts: ListenerCounts;
  readonly liveSessions: number;
  /** Live sessions by backend id, of the whole pool. */
  readonly sessionsByBackend: ReadonlyMap<string, number>;
  readonly upstreamSockets: number;
  /** Receive buffer of the listener's socket, of the smallest where it has several. */
  readonly receiveBuffer: { readonly askedBytes: number; readonly grantedBytes: number | undefined };
  /** By backend id, of the whole pool, from engines that see each datagram's time. */
  readonly replyTimesByBackend?: ReadonlyMap<string, ReplyTimes>;
}

export interface Engine {
  readonly name: EngineName;
  /** Whether `close` leaves players playing: then there is nothing to drain. */
  readonly isLasting?: boolean;

  /** Binds the address. @throws RelayError TICKRELAY_ERR_BIND naming the address. */
  addListener(spec: UdpListenerSpec): Promise<Endpoint>;
  /** Changes the rules of a listener in place; its sessions stay. Name, address and pool must be the same. */
  updateListener(spec: UdpListenerSpec): Promise<void>;
  /** Ends the listener's sessions and frees its address. */
  removeListener(name: string): Promise<void>;

  /**
   * Swaps in what the control plane decided about a pool. The last one published counts, also for later listeners. A pool
   * without backends that no listener names is forgotten.
   *
   * @returns resolves when the whole engine obeys it
   */
  publish(snapshot: PoolSnapshot): Promise<void>;

  /** The groups that share pins, also of listeners that the engine does not have. A group that stays keeps its pins. */
  setPinGroups(groups: readonly PinGroupSpec[]): Promise<void>;
  /**
   * Asks for the pin of a client IP in its group, and makes it where none can be followed.
   *
   * @returns id of the backend to take: the pin's, or else the proposal
   */
  requestPin(request: PinRequest): Promise<string | undefined>;
  /** Ends a hold that a request took. */
  letPinGo(group: string, client: Uint32Array): void;

  /** After `close` the last ones, with their final counts. */
  listeners(): readonly ListenerStatus[];
  /** Sessions that the tables can hold, and hold. */
  capacity(): { readonly maxSessions: number; readonly liveSessions: number; readonly livePins: number };
  sessions(query: SessionQuery): Promise<SessionListing>;
  /**
   * Ends one session, where the engine can: the client's next datagram opens another. Its pin stays.
   *
   * @returns whether there was such a session
   */
  endSession?(listener: string, client: Endpoint): boolean;

  /** No new sessions from now on; live ones go on. */
  drain(): Promise<void>;
  /** Ends every session and closes every socket. Idempotent. */
  close(): Promise<void>;
}
