/**
 * A public TCP address. What happens to each connection that arrives:
 *
 *   1. it is counted; a trusted proxy says who the client is; the client IP's rate is checked
 *   2. the limits are checked: of the listener, of the client IP, of the backends
 *   3. a backend is chosen and dialled (tcp-connection.ts); or the connection waits for its turn in a bounded queue;
 *      or it is reset at once, with a reason that is counted
 *   4. when it ends, those that wait are looked at, in the order in which they came
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Endpoint, IpAddress, type Cidr } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { hashAddress } from '../core/hash.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import type { Algorithm } from '../core/select.ts';
import type { CloseReason } from './close-reason.ts';
import type { ProxyVersion } from './proxy-header.ts';
import { SourceTable, type Source } from './source-table.ts';
import {
  reset,
  STREAM_HIGH_WATER_BYTES,
  type TcpConnection,
  type TcpConnectionRules,
} from './tcp-connection.ts';
import { TcpCounters, type TcpCounts } from './tcp-counters.ts';
import type { TcpPool } from './tcp-pool.ts';

/** Connections that may wait in the system for being accepted, so that a burst is not refused; Linux caps it at somaxconn. */
const BACKLOG = 4_096;

/** A public TCP address and the rules of its connections. */
export interface TcpListenerSpec extends TcpConnectionRules {
  readonly name: string;
  readonly listen: Endpoint;
  readonly pool: string;
  readonly algorithm: Algorithm;
  /** Connections of this listener that are let in. */
  readonly maxConnections: number;
  readonly limits: TcpLimits;
  /** Where a connection waits for the limit that it met. */
  readonly queue: {
    /** 0: none waits, all are refused. */
    readonly size: number;
    readonly timeoutMs: number;
  };
  readonly proxyProtocol: ProxyProtocolRules;
}

/** How the relay learns, and tells, who a client is when proxies stand between (proxy-header.ts). */
export interface ProxyProtocolRules {
  /** Proxies that must begin with a header; nobody else's is read. */
  readonly accept: readonly Cidr[];
  /** Time for the header to be complete. */
  readonly timeoutMs: number;
  readonly send: ProxyVersion | 'none';
}

/** Of one client IP; 0 means no bound. */
export interface TcpLimits {
  /** Connections let in; as many again may wait. */
  readonly connectionsPerSource: number;
  /** New connections a second, with a burst of one second's worth. */
  readonly connectionRatePerSource: number;
}

/** Live figures of one listener. */
export interface TcpListenerStatus {
  readonly name: string;
  readonly pool: string;
  readonly local: Endpoint;
  /** False once the listener drains: its address is free, its connections go on. */
  readonly isAccepting: boolean;
  readonly counts: TcpCounts;
  /** Those that wait included. */
  readonly liveConnections: number;
  readonly queuedConnections: number;
  /** Live connections by backend id. */
  readonly connectionsByBackend: ReadonlyMap<string, number>;
}

export interface TcpListenerOptions {
  readonly spec: TcpListenerSpec;
  readonly pool: TcpPool;
  readonly hashSeed: number;
  readonly now: () => number;
  /** A client is to be let in, or to wait. */
  readonly open: (listener: TcpListener, clientSocket: Socket, client: Endpoint) => TcpConnection;
  readonly onAcceptError: (listener: TcpListener, error: Error) => void;
}

/** What a connection holds on to at its listener until it ends. */
interface Entry {
  /** Absent while a proxy has not yet said who the client is. */
  readonly source?: Source;
  /** Of the client's address. */
  readonly hash: number;
  isAdmitted: boolean;
}
type KnownEntry = Entry & { readonly source: Source };

/** A client that is let in. */
interface Verdict {
  readonly source: Source;
  readonly hash: number;
  /** One connection is counted towards it; absent: the client waits. */
  readonly backend: BackendEntry | undefined;
}

export class TcpListener {
  readonly local: Endpoint;
  readonly counters = new TcpCounters();
  readonly #options: TcpListenerOptions;
  readonly #server: Server;
  #rules: TcpListenerSpec;
  readonly #entries = new Map<TcpConnection, Entry>();
  readonly #sources = new SourceTable();
  /** In the order in which they came. */
  readonly #queue = new Map<TcpConnection, KnownEntry>();
  /** Connections that wait for a PROXY header. */
  #readingHeader = 0;
  #admitted = 0;
  #stopped: Promise<unknown> | undefined;
  #closed: Promise<void> | undefined;
  #onEmpty: (() => void) | undefined;

  private constructor(options: TcpListenerOptions, server: Server) {
    this.#options = options;
    this.#server = server;
    this.#rules = options.spec;
    this.local = new Endpoint(options.spec.listen.ip, (server.address() as AddressInfo).port);
    server.on('connection', (socket) => this.#accept(socket));
    server.on('error', (error) => {
      this.counters.acceptErrors++;
      options.onAcceptError(this, error);
    });
  }

  /** Binds the address. @throws RelayError TICKRELAY_ERR_BIND naming it. */
  static async open(options: TcpListenerOptions): Promise<TcpListener> {
    const { name, listen } = options.spec;
    const server = createServer({
      allowHalfOpen: true,
      pauseOnConnect: true,
      noDelay: true,
      highWaterMark: STREAM_HIGH_WATER_BYTES,
    });
    server.listen({ host: listen.ip.toString(), port: listen.port, backlog: BACKLOG });
    try {
      await once(server, 'listening');
    } catch (error) {
      throw new RelayError(
        'TICKRELAY_ERR_BIND',
        `listener "${name}" can't listen on tcp ${listen.toString()}: ${bindFailure(error)}`,
        { cause: error },
      );
    }
    return new TcpListener(options, server);
  }

  get name(): string {
    return this.#rules.name;
  }

  get rules(): TcpListenerSpec {
    return this.#rules;
  }

  /** Changes the rules in place; the idle timeout holds for live connections too. Name, address and pool must be the same. */
  update(spec: TcpListenerSpec): void {
    const { name, listen, pool } = this.#rules;
    assert(spec.name === name && spec.listen.equals(listen) && spec.pool === pool);
    this.#rules = spec;
    this.serveQueue();
  }

  status(connectionsByBackend: ReadonlyMap<string, number>): TcpListenerStatus {
    return {
      name: this.name,
      pool: this.#rules.pool,
      local: this.local,
      isAccepting: this.#stopped === undefined,
      counts: this.counters.dump(),
      liveConnections: this.#entries.size,
      queuedConnections: this.#queue.size,
      connectionsByBackend,
    };
  }

  /** A connection ended and its descriptors are closed. */
  released(connection: TcpConnection, reason: CloseReason): void {
    const { source, isAdmitted } = this.#entries.get(connection)!;
    this.counters.closed(reason);
    this.#entries.delete(connection);
    if (source === undefined) this.#readingHeader--;
    else {
      if (this.#queue.delete(connection)) source.waiting--;
      if (isAdmitted) {
        source.admitted--;
        this.#admitted--;
      }
      this.#sources.forget(source, this.#options.now());
    }
    if (this.#entries.size === 0) this.#onEmpty?.();
  }

  /** Lets in those of the waiting connections that the limits now allow, the oldest first. */
  serveQueue(): void {
    for (const [connection, entry] of this.#queue) {
      if (connection.state === 'closing') continue;
      const backend = this.#choose(entry.source, entry.hash);
      if (typeof backend !== 'string') {
        this.#queue.delete(connection);
        entry.source.waiting--;
        this.#admit(connection, entry, backend);
      } else if (backend !== 'source-connection-limit') return;
    }
  }

  /** Forgets clients that are long gone. */
  sweep(nowMs: number): void {
    this.#sources.sweep(nowMs);
  }

  /** Stops accepting and frees the address; live connections go on. Idempotent. */
  stop(): void {
    if (this.#stopped !== undefined) return;
    this.#stopped = once(this.#server, 'close');
    this.#server.close();
  }

  /** Stops, and waits until the last connection has ended. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.stop();
    if (this.#entries.size > 0) await new Promise<void>((resolve) => (this.#onEmpty = resolve));
    await this.#stopped;
  }

  #accept(clientSocket: Socket): void {
    this.counters.accepted++;
    const address = clientSocket.remoteAddress;
    if (address === undefined) {
      this.#refuse(clientSocket, 'client-reset');
      return;
    }
    clientSocket.setKeepAlive(this.#rules.keepAliveMs > 0, this.#rules.keepAliveMs);
    const peer = new Endpoint(IpAddress.parse(address), clientSocket.remotePort!);
    if (this.#rules.proxyProtocol.accept.some((block) => block.contains(peer.ip))) {
      this.#askProxy(clientSocket, peer);
      return;
    }
    const verdict = this.#judge(peer);
    if (typeof verdict === 'string') this.#refuse(clientSocket, verdict);
    else this.#enter(this.#options.open(this, clientSocket, peer), verdict);
  }

  /** The header's time is bounded, and so is the number of those that wait for one. */
  #askProxy(clientSocket: Socket, proxy: Endpoint): void {
    const { maxConnections, proxyProtocol } = this.#rules;
    if (this.#readingHeader >= maxConnections) {
      this.#refuse(clientSocket, 'connection-limit');
      return;
    }
    this.#readingHeader++;
    const connection = this.#options.open(this, clientSocket, proxy);
    this.#entries.set(connection, { hash: 0, isAdmitted: false });
    connection.readProxyHeader(proxyProtocol.timeoutMs, () => {
      const verdict = this.#judge(connection.client);
      if (typeof verdict === 'string') {
        connection.close(verdict);
        return;
      }
      this.#readingHeader--;
      this.#enter(connection, verdict);
    });
  }

  /** @returns how the client comes in, or why it is refused */
  #judge(client: Endpoint): Verdict | CloseReason {
    const { limits, queue } = this.#rules;
    const nowMs = this.#options.now();
    const source = this.#sources.of(client.ip);
    const hash = hashAddress(client.ip.words, 0, this.#options.hashSeed);
    const isTooFast = !source.takeToken(nowMs, limits.connectionRatePerSource);
    const backend = isTooFast ? 'source-rate-limit' : this.#choose(source, hash);
    if (typeof backend !== 'string') return { source, hash, backend };
    const mayWait = backend !== 'source-rate-limit' && backend !== 'no-backend';
    // One client must not fill the queue that all share.
    const { connectionsPerSource } = limits;
    const hasTurn = connectionsPerSource === 0 || source.waiting < connectionsPerSource;
    if (mayWait && hasTurn && this.#queue.size < queue.size) return { source, hash, backend: undefined };
    this.#sources.forget(source, nowMs);
    return backend;
  }

  /** @returns a backend with one connection counted towards it, or the limit that is reached */
  #choose(source: Source, hash: number): BackendEntry | CloseReason {
    const { maxConnections, limits, algorithm, slowStartMs } = this.#rules;
    if (this.#admitted >= maxConnections) return 'connection-limit';
    const { connectionsPerSource } = limits;
    if (connectionsPerSource > 0 && source.admitted >= connectionsPerSource) return 'source-connection-limit';
    return this.#options.pool.acquire({ algorithm, hash, slowStartMs, nowMs: this.#options.now() });
  }

  #enter(connection: TcpConnection, { source, hash, backend }: Verdict): void {
    const entry = { source, hash, isAdmitted: false };
    this.#entries.set(connection, entry);
    if (backend !== undefined) {
      this.#admit(connection, entry, backend);
      return;
    }
    source.waiting++;
    this.#queue.set(connection, entry);
    connection.waitFor(this.#rules.queue.timeoutMs);
  }

  #admit(connection: TcpConnection, entry: KnownEntry, backend: BackendEntry): void {
    entry.isAdmitted = true;
    entry.source.admitted++;
    this.#admitted++;
    connection.connectTo(backend, entry.hash);
  }

  #refuse(clientSocket: Socket, reason: CloseReason): void {
    this.counters.closed(reason);
    clientSocket.on('error', () => undefined);
    reset(clientSocket);
  }
}

function bindFailure(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  switch (code) {
    case 'EADDRINUSE':
      return 'something listens there already (EADDRINUSE); end it or choose another port';
    case 'EADDRNOTAVAIL':
      return 'no interface of this machine has that address (EADDRNOTAVAIL); use one that it has, or 0.0.0.0 or [::] for all';
    case 'EACCES':
      return 'this user may not use that port (EACCES); choose one from 1024 up, or grant CAP_NET_BIND_SERVICE';
    default:
      return `${code}; choose an address and port that this machine can bind`;
  }
}
