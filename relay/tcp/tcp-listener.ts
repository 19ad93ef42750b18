/**
 * A public TCP address. What happens to each connection that arrives:
 *
 *   1. it is counted; a trusted proxy says who the client is; the client IP's rate is checked
 *   2. the limits are checked: of the listener, of the client IP, of the backends
 *   3. a backend is chosen, in a pin group the one of the client's pin, and dialled (tcp-connection.ts); or the connection waits for its turn in a bounded queue;
 *      or it is reset at once, with a reason that is counted
 *   4. when it ends, those that wait are looked at, in the order in which they came
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Endpoint, IpAddress } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { Admission } from './admission.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import type { CloseReason } from './close-reason.ts';
import type { SharedPins } from './shared-pins.ts';
import { reset, STREAM_HIGH_WATER_BYTES } from './stream-ends.ts';
import type { TcpConnection } from './tcp-connection.ts';
import { TcpCounters, type TcpCounts } from './tcp-counters.ts';
import type { TcpPool } from './tcp-pool.ts';
import type { TcpListenerSpec } from './tcp-rules.ts';

/** Connections that may wait in the system for being accepted, so that a burst is not refused; Linux caps it at somaxconn. */
const BACKLOG = 4_096;

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
  readonly pins: SharedPins | undefined;
  /** A client is to be let in, or to wait. */
  readonly open: (listener: TcpListener, clientSocket: Socket, client: Endpoint) => TcpConnection;
  readonly onAcceptError: (listener: TcpListener, error: Error) => void;
}

export class TcpListener {
  readonly local: Endpoint;
  readonly counters = new TcpCounters();
  readonly #options: TcpListenerOptions;
  readonly #server: Server;
  #rules: TcpListenerSpec;
  readonly #admission: Admission;
  #stopped: Promise<unknown> | undefined;
  #closed: Promise<void> | undefined;
  #onEmpty: (() => void) | undefined;

  private constructor(options: TcpListenerOptions, server: Server) {
    this.#options = options;
    this.#server = server;
    this.#rules = options.spec;
    const { pool, hashSeed, now, pins } = options;
    this.#admission = new Admission({ rules: () => this.#rules, pool, hashSeed, now, pins });
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
      liveConnections: this.#admission.live,
      queuedConnections: this.#admission.queued,
      connectionsByBackend,
    };
  }

  /** A connection ended and its descriptors are closed. */
  released(connection: TcpConnection, reason: CloseReason): void {
    this.counters.closed(reason);
    this.#admission.release(connection);
    if (this.#admission.live === 0) this.#onEmpty?.();
  }

  /** A connection is about to go on with another backend. @returns resolves when it may, undefined when it may at once */
  retried(
    connection: TcpConnection,
    failed: BackendEntry,
    other: BackendEntry,
  ): Promise<unknown> | undefined {
    return this.#admission.retried(connection, failed, other);
  }

  /** Lets in those of the waiting connections that the limits now allow, the oldest first. */
  serveQueue(): void {
    this.#admission.serveQueue();
  }

  /** Forgets clients that are long gone. */
  sweep(nowMs: number): void {
    this.#admission.sweep(nowMs);
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
    if (this.#admission.live > 0) await new Promise<void>((resolve) => (this.#onEmpty = resolve));
    await this.#stopped;
  }

  #accept(clientSocket: Socket): void {
    this.counters.accepted++;
    const address = clientSocket.remoteAddress;
    if (address === undefined) {
      this.#refuse(clientSocket, 'client-reset');
      return;
    }
    const peer = new Endpoint(IpAddress.parse(address), clientSocket.remotePort!);
    if (this.#rules.proxyProtocol.accept.some((block) => block.contains(peer.ip))) {
      this.#askProxy(clientSocket, peer);
      return;
    }
    const verdict = this.#admission.judge(peer);
    if (typeof verdict === 'string') this.#refuse(clientSocket, verdict);
    else this.#admission.enter(this.#open(clientSocket, peer), verdict);
  }

  /** The header's time is bounded, and so is the number of those that wait for one. */
  #askProxy(clientSocket: Socket, proxy: Endpoint): void {
    if (!this.#admission.mayExpect) {
      this.#refuse(clientSocket, 'connection-limit');
      return;
    }
    const connection = this.#open(clientSocket, proxy);
    this.#admission.expect(connection);
    connection.readProxyHeader(this.#rules.proxyProtocol.timeoutMs, () => {
      const verdict = this.#admission.judge(connection.client);
      if (typeof verdict === 'string') connection.close(verdict);
      else this.#admission.enter(connection, verdict);
    });
  }

  #open(clientSocket: Socket, client: Endpoint): TcpConnection {
    clientSocket.setKeepAlive(this.#rules.keepAliveMs > 0, this.#rules.keepAliveMs);
    return this.#options.open(this, clientSocket, client);
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
