/**
 * The data plane contract. Every engine takes the same decisions (DESIGN: "the same in every engine"); test/contract
 * runs one suite against them all. The control plane decides who is ready and publishes it; an engine obeys.
 */
import type { Endpoint } from '../../net/address.ts';
import type { CloseReason } from '../core/close-reason.ts';
import type { ListenerCounts } from '../core/counters.ts';
import type { ListenerRules } from '../core/listener-state.ts';
import type { PinGroupSpec, PinRequest } from '../core/pin-group.ts';
import type { PoolSnapshot } from '../core/pool-snapshot.ts';
import type { BackendFigures } from '../core/backend-figures.ts';
import type { Algorithm } from '../core/select.ts';

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
  readonly figuresByBackend?: ReadonlyMap<string, BackendFigures>;
}

/** A public TCP address, and of its rules those that hold without a look at the bytes. */
export interface TcpListenerSpec {
  readonly name: string;
  readonly listen: Endpoint;
  readonly pool: string;
  readonly algorithm: Algorithm;
  /** Time without a segment in either direction after which a connection ends. */
  readonly idleTimeoutMs: number;
  /** Open connections of this listener. */
  readonly maxConnections: number;
  /** Of one client IP; 0 means no bound. */
  readonly limits: {
    readonly connectionsPerSource: number;
    /** New connections a second, with a burst of one second's worth. */
    readonly connectionRatePerSource: number;
  };
}

/** Live figures of one TCP listener. */
export interface TcpListenerStatus {
  readonly name: string;
  readonly pool: string;
  readonly local: Endpoint;
  readonly counts: {
    /** Connections that opened, and those that were refused. */
    readonly accepted: number;
    /** By close reason; every reason is present. accepted = their sum + the live ones. */
    readonly closed: Readonly<Record<CloseReason, number>>;
    readonly retried: number;
    readonly acceptErrors: number;
    readonly downstreamBytes: number;
    readonly upstreamBytes: number;
    /** Segments that the engine dropped: fragments, and what it could not rewrite. */
    readonly droppedSegments: number;
  };
  readonly liveConnections: number;
  readonly queuedConnections: number;
  /** By backend id; of listeners of one pool, the first one has those of them all. */
  readonly connectionsByBackend: ReadonlyMap<string, number>;
}

/** One live TCP connection, as the admin API lists it. */
export interface TcpConnectionView {
  readonly id: number;
  readonly listener: string;
  readonly client: string;
  readonly backend: string | undefined;
  readonly state: 'connecting' | 'established' | 'client-ended' | 'backend-ended' | 'closing';
  readonly ageMs: number;
  /** Time since a segment last passed, in either direction. */
  readonly idleMs: number;
  readonly downstreamBytes: number;
  readonly upstreamBytes: number;
  readonly bufferedBytes: number;
}

export interface TcpConnectionListing {
  readonly connections: readonly TcpConnectionView[];
  readonly total: number;
  readonly truncated: boolean;
}

/** TCP below the byte stream, in engines that have it: the clients' and the backends' systems speak to each other. */
export interface TcpPath {
  /** Binds the address. @throws RelayError TICKRELAY_ERR_BIND naming the address. */
  addListener(spec: TcpListenerSpec): Promise<Endpoint>;
  /** Changes the rules of a listener in place; its connections stay. Name, address and pool must be the same. */
  updateListener(spec: TcpListenerSpec): void;
  /** Resets the listener's connections and frees its address. */
  removeListener(name: string): Promise<void>;
  /** After the engine's `close` the last ones. */
  listeners(): readonly TcpListenerStatus[];
  /** @throws RelayError TICKRELAY_ERR_ADDRESS when `clientIp` is no address */
  connections(query: SessionQuery): Promise<TcpConnectionListing>;
  /** Resets one connection. @returns whether there was one with this id */
  closeConnection(id: number): Promise<boolean>;
  /** @returns why the engine can't carry connections from `listen` to one of these backends, or undefined */
  whyNot(listen: Endpoint, backends: readonly Endpoint[]): string | undefined;
}

export interface Engine {
  readonly name: EngineName;
  /** Pools that listeners may use at a time; undefined: any number. */
  readonly maxPools?: number;
  /** Whether `close` leaves players playing: then there is nothing to drain. */
  readonly isLasting?: boolean;
  /** TCP, where the engine has it. It obeys what is published, drained and closed here. */
  readonly tcp?: TcpPath | undefined;

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

  /**
   * The relay's start is complete. An engine that found what a relay before it left takes its place only now: until then that one's
   * sessions go on by its own rules, and `close` leaves them so.
   *
   * @throws RelayError when it can't, with everything as it was
   */
  takeOver?(): Promise<void>;
  /** No new sessions from now on; live ones go on. */
  drain(): Promise<void>;
  /** Ends every session and closes every socket. Idempotent. */
  close(): Promise<void>;
}
