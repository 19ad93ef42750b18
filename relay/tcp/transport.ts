/**
 * What the TCP side needs of the system: to accept clients, to reach backends, and to pass bytes between the two. Who is let in,
 * where a connection goes and why it ends is decided above; here bytes are moved. Two implementations behave alike, and the same
 * tests run on both:
 *
 * - `pump` (pump/): system calls over one epoll, on Linux with koffi, in a worker thread
 * - `streams` (streams/): node:net, everywhere
 */
import type { Endpoint } from '../../net/address.ts';
import type { ProxiedAddresses } from './proxy-header.ts';

export type TransportName = 'pump' | 'streams';

/** Connections that may wait in the system for being accepted, so that a burst is not refused; Linux caps it at somaxconn. */
export const BACKLOG = 4_096;

export interface TcpTransport {
  readonly name: TransportName;
  /** Binds the address and accepts. @throws an Error with the system's `code`, such as EADDRINUSE */
  listen(options: ListenOptions): Promise<Acceptor>;
  /** Calls `run` once, after `delayMs`. @returns what prevents it */
  after(delayMs: number, run: () => void): () => void;
}

export interface ListenOptions {
  readonly listen: Endpoint;
  /** A socket that listens there already; it stays its owner's to close. For transports that take descriptors. */
  readonly fd?: number;
  /** Silence before the system probes whether a client is still there; 0: never. */
  readonly keepAliveMs: number;
  readonly onAccept: (client: AcceptedClient) => void;
  /** The system failed to hand over a connection. */
  readonly onError: (error: Error) => void;
}

export interface Acceptor {
  /** The bound port. */
  readonly port: number;
  /** For clients that come from now on. */
  setKeepAlive(keepAliveMs: number): void;
  /** Stops accepting and frees the address; accepted clients stay. */
  close(): Promise<unknown>;
}

/** A client that was accepted and waits for a verdict. Its bytes wait in the system. */
export interface AcceptedClient {
  /** Undefined when it is gone already. */
  readonly address: Endpoint | undefined;
  /** Resets it. */
  refuse(): void;
  /** Keeps it. */
  open(options: LinkOptions): Link;
}

export interface LinkOptions {
  readonly events: LinkEvents;
  /** Counts every byte that is read. */
  readonly counters: { downstreamBytes: number; upstreamBytes: number };
  /** Monotonic clock in ms. */
  readonly now: () => number;
}

/** None is called from within a method of the link. */
export interface LinkEvents {
  /** The backend that was dialled answers. */
  connected(): void;
  /** The backend can't be reached, or reset the connection. @param code the system's, such as ECONNREFUSED */
  backendFailed(code: string): void;
  /** The client reset the connection, or is gone. */
  clientFailed(): void;
  /** Every descriptor is back with the system. */
  closed(): void;
}

/** A client, and the connection that is opened for it towards a backend. */
export interface Link {
  /** Bytes read from the client, and from the backend. */
  readonly downstreamBytes: number;
  readonly upstreamBytes: number;
  /** Bytes read and not yet taken by the system of the other side. */
  readonly bufferedBytes: number;
  /** When a byte last moved, in ms; the owner may set it too. */
  lastActiveMs: number;
  /** Whether this side's FIN was read. */
  readonly hasClientEnded: boolean;
  readonly hasBackendEnded: boolean;
  /** The address that the client contacted. */
  readonly local: Endpoint | undefined;
  /**
   * Reads a PROXY header from the client. What follows it stays in the socket, and so does the client's end.
   *
   * @param onHeader undefined: the connection's own addresses count. Not called when the client fails before.
   */
  readProxyHeader(onHeader: (addresses: ProxiedAddresses | undefined | 'malformed') => void): void;
  /** Opens a connection to a backend; `connected` or `backendFailed` follows. */
  dial(backend: Endpoint): void;
  /** Gives up the backend, so that another one can be dialled; the client waits again. */
  dropBackend(): void;
  /** Passes bytes both ways from now on, until both sides have ended. @param first bytes that the backend gets before them */
  join(first: Buffer | undefined): void;
  /** After `join`: how long the backend is silent before the system probes whether it is still there; 0: never. */
  keepBackendAlive(keepAliveMs: number): void;
  /** Ends both sides with a reset; `closed` follows. */
  reset(): void;
}
