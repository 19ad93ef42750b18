/**
 * A public TCP address. For each connection that arrives: count it, check the cap, choose a backend, hand it over
 * (tcp-connection.ts). What can't be served is reset at once, with a reason that is counted.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Endpoint, IpAddress } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { hashAddress } from '../core/hash.ts';
import type { Algorithm } from '../core/select.ts';
import type { CloseReason } from './close-reason.ts';
import { reset, STREAM_HIGH_WATER_BYTES, type TcpConnectionRules } from './tcp-connection.ts';
import { TcpCounters, type TcpCounts } from './tcp-counters.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import type { TcpPool } from './tcp-pool.ts';

/** Connections that may wait in the system for being accepted, so that a burst is not refused; Linux caps it at somaxconn. */
const BACKLOG = 4_096;

/** A public TCP address and the rules of its connections. */
export interface TcpListenerSpec extends TcpConnectionRules {
  readonly name: string;
  readonly listen: Endpoint;
  readonly pool: string;
  readonly algorithm: Algorithm;
  /** Live connections of this listener; above it, new ones are refused. */
  readonly maxConnections: number;
}

/** Live figures of one listener. */
export interface TcpListenerStatus {
  readonly name: string;
  readonly pool: string;
  readonly local: Endpoint;
  /** False once the listener drains: its address is free, its connections go on. */
  readonly isAccepting: boolean;
  readonly counts: TcpCounts;
  readonly liveConnections: number;
  /** Live connections by backend id. */
  readonly connectionsByBackend: ReadonlyMap<string, number>;
}

/** A client let in, with the backend chosen for it. */
export interface Admission {
  readonly clientSocket: Socket;
  readonly client: Endpoint;
  readonly backend: BackendEntry;
  readonly hash: number;
}

export interface TcpListenerOptions {
  readonly spec: TcpListenerSpec;
  readonly pool: TcpPool;
  readonly hashSeed: number;
  readonly onAdmitted: (listener: TcpListener, admission: Admission) => void;
  readonly onAcceptError: (listener: TcpListener, error: Error) => void;
}

export class TcpListener {
  readonly local: Endpoint;
  readonly counters = new TcpCounters();
  readonly #options: TcpListenerOptions;
  readonly #server: Server;
  #rules: TcpListenerSpec;
  #liveConnections = 0;
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
  }

  status(connectionsByBackend: ReadonlyMap<string, number>): TcpListenerStatus {
    return {
      name: this.name,
      pool: this.#rules.pool,
      local: this.local,
      isAccepting: this.#stopped === undefined,
      counts: this.counters.dump(),
      liveConnections: this.#liveConnections,
      connectionsByBackend,
    };
  }

  /** One of the admitted connections ended and its descriptors are closed. */
  released(reason: CloseReason): void {
    this.counters.closed(reason);
    if (--this.#liveConnections === 0) this.#onEmpty?.();
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
    if (this.#liveConnections > 0) await new Promise<void>((resolve) => (this.#onEmpty = resolve));
    await this.#stopped;
  }

  #accept(clientSocket: Socket): void {
    this.counters.accepted++;
    const address = clientSocket.remoteAddress;
    if (address === undefined) {
      this.#refuse(clientSocket, 'client-reset');
      return;
    }
    if (this.#liveConnections >= this.#rules.maxConnections) {
      this.#refuse(clientSocket, 'connection-limit');
      return;
    }
    const client = new Endpoint(IpAddress.parse(address), clientSocket.remotePort!);
    const hash = hashAddress(client.ip.words, 0, this.#options.hashSeed);
    const backend = this.#options.pool.acquire(this.#rules.algorithm, hash);
    if (backend === undefined) {
      this.#refuse(clientSocket, 'no-backend');
      return;
    }
    this.#liveConnections++;
    clientSocket.setKeepAlive(this.#rules.keepAliveMs > 0, this.#rules.keepAliveMs);
    this.#options.onAdmitted(this, { clientSocket, client, backend, hash });
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
