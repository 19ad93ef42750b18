/**
 * What the admin API and the metrics need to see of the rest of the relay. relay/relay.ts implements it from the engine
 * and the TCP side, whose own views have these shapes.
 */
import type { Endpoint } from '../../net/address.ts';
import type { ListenerCounts } from '../core/counters.ts';
import type { BackendFigures } from '../core/backend-figures.ts';
import type { RelayConfig } from './config.ts';

export interface UdpListenerView {
  readonly name: string;
  readonly pool: string;
  readonly local: Endpoint;
  readonly counts: ListenerCounts;
  readonly liveSessions: number;
  /** Live sessions by backend id, of the whole pool: listeners of one pool report the same. */
  readonly sessionsByBackend: ReadonlyMap<string, number>;
  readonly upstreamSockets: number;
  readonly receiveBuffer: { readonly grantedBytes: number | undefined };
  /** By backend id, of the whole pool; from engines that see it. */
  readonly figuresByBackend?: ReadonlyMap<string, BackendFigures>;
}

export interface TcpListenerView {
  readonly name: string;
  readonly pool: string;
  readonly local: Endpoint;
  readonly counts: TcpListenerCounts;
  /** Those that wait for a limit included. */
  readonly liveConnections: number;
  readonly queuedConnections: number;
  /** Live connections by backend id, of this listener. */
  readonly connectionsByBackend: ReadonlyMap<string, number>;
}

export interface TcpListenerCounts {
  readonly accepted: number;
  /** By close reason; every reason is present. */
  readonly closed: Readonly<Record<string, number>>;
  readonly retried: number;
  readonly acceptErrors: number;
  readonly downstreamBytes: number;
  readonly upstreamBytes: number;
  /** Segments that the kernel dropped; of listeners that are there. */
  readonly droppedSegments?: number;
}

/** Which sessions or connections to list. */
export interface ClientQuery {
  readonly limit: number;
  readonly listener?: string;
  /** Backend id. */
  readonly backend?: string;
  /** Client IP in text form. */
  readonly clientIp?: string;
}

/** A listing is answered as JSON just as it is, so the rows are the data planes' own. */
interface Listing {
  readonly total: number;
  readonly truncated: boolean;
}

export interface SessionRows extends Listing {
  readonly sessions: readonly object[];
}

export interface ConnectionRows extends Listing {
  readonly connections: readonly object[];
}

export interface Readiness {
  readonly ready: boolean;
  /** Why not; empty when ready. */
  readonly reasons: readonly string[];
}

export interface RelayView {
  /** The engine that runs, and why it was chosen. */
  engine(): { readonly name: string; readonly reason: string };
  /** How TCP is carried in user space, and why so. */
  tcpEngine(): { readonly name: string; readonly reason: string };
  udpListeners(): readonly UdpListenerView[];
  tcpListeners(): readonly TcpListenerView[];
  capacity(): { readonly maxSessions: number; readonly liveSessions: number; readonly livePins: number };
  /** @throws RelayError TICKRELAY_ERR_ADDRESS when `clientIp` is no address */
  sessions(query: ClientQuery): Promise<SessionRows>;
  /** @throws RelayError TICKRELAY_ERR_ADDRESS when `clientIp` is no address */
  connections(query: ClientQuery): ConnectionRows | Promise<ConnectionRows>;
  /** Returns whether there was one. @throws RelayError TICKRELAY_ERR_ENGINE when the engine can't end a single session */
  endSession(listener: string, client: Endpoint): boolean;
  /** Id of the backend of this pool to which the group's pin of the client leads, where there is one. */
  pinnedBackend(group: string, pool: string, client: Uint32Array): Promise<string | undefined>;
  /** Returns whether there was one with this id. */
  closeConnection(id: number): boolean | Promise<boolean>;
  /** Not ready until every listener is bound, while a pool settles, and from the beginning of the drain. */
  readiness(): Readiness;
  config(): RelayConfig;
}
