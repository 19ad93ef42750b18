/**
 * TCP pass-through: listeners, the pools behind them, and the connections between. The control plane decides who is
 * ready and publishes it; this side obeys at once. The same shape as the UDP engines (relay/engines/engine.ts).
 */
import assert from 'node:assert/strict';
import type { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { SWEEP_BUDGET } from '../core/limits.ts';
import type { PoolSnapshot } from '../core/pool-snapshot.ts';
import type { CloseReason } from '../core/close-reason.ts';
import type { SharedPins } from './shared-pins.ts';
import { ConnectionTable, type TcpConnectionListing, type TcpConnectionQuery } from './connection-table.ts';
import { StreamTransport } from './streams/stream-transport.ts';
import { TcpConnection, type ConnectOutcome, type TcpConnectionHost } from './tcp-connection.ts';
import { TcpListener, type TcpListenerOptions, type TcpListenerStatus } from './tcp-listener.ts';
import type { TcpLog } from './tcp-log.ts';
import type { TcpListenerSpec } from './tcp-rules.ts';
import type { TcpPlane } from './tcp-plane.ts';
import { TcpPool } from './tcp-pool.ts';
import type { AcceptedClient, TcpTransport, TransportName } from './transport.ts';

/** Between two steps of the idle sweep. An idle connection ends at most this late for each 4,096 live ones. */
const SWEEP_INTERVAL_MS = 1_000;

/** Between two log lines about failing accepts of one engine; the counter has them all. */
const ACCEPT_LOG_INTERVAL_MS = 10_000;

export interface TcpEngineOptions {
  readonly logger?: TcpLog | undefined;
  /** Seed of the client address hash; the same in every relay that shall choose alike. Default 0. */
  readonly hashSeed?: number;
  /** Monotonic clock in ms. */
  readonly now?: () => number;
  /** The pins of the listeners' pin groups. Without it nothing is pinned. */
  readonly pins?: SharedPins;
  /** Default: node:net. */
  readonly transport?: TcpTransport;
  /** Told of every attempt to reach a backend. */
  readonly onConnectOutcome?: (pool: string, ...outcome: Parameters<ConnectOutcome>) => void;
  readonly sweepIntervalMs?: number;
  /** One number: the id of the last connection, for an engine that goes on where another one ended. */
  readonly ids?: Float64Array;
}

/** Parts of a listener that somebody else owns: its bound socket, its counters. */
export type TcpListenerParts = Pick<TcpListenerOptions, 'fd' | 'counters'>;

export class TcpEngine implements TcpPlane {
  readonly #logger: TcpEngineOptions['logger'];
  readonly #hashSeed: number;
  readonly #now: () => number;
  readonly #pins: SharedPins | undefined;
  readonly #transport: TcpTransport;
  readonly #onConnectOutcome: NonNullable<TcpEngineOptions['onConnectOutcome']>;
  readonly #listeners = new Map<string, TcpListener>();
  readonly #pools = new Map<string, TcpPool>();
  readonly #connections = new ConnectionTable();
  readonly #opening = new Set<TcpListenerSpec>();
  #cancelSweep: () => void;
  readonly #sweepIntervalMs: number;
  readonly #ids: Float64Array;
  #isDraining = false;
  #closing: Promise<void> | undefined;
  #acceptLoggedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: TcpEngineOptions = {}) {
    this.#logger = options.logger;
    this.#hashSeed = options.hashSeed ?? 0;
    this.#now = options.now ?? (() => performance.now());
    this.#pins = options.pins;
    this.#ids = options.ids ?? new Float64Array(1);
    this.#transport = options.transport ?? new StreamTransport();
    this.#onConnectOutcome = options.onConnectOutcome ?? (() => undefined);
    this.#sweepIntervalMs = options.sweepIntervalMs ?? SWEEP_INTERVAL_MS;
    this.#cancelSweep = this.#sweepLater();
  }

  #sweepLater(): () => void {
    return this.#transport.after(this.#sweepIntervalMs, () => {
      this.#cancelSweep = this.#sweepLater();
      this.#sweep();
    });
  }

  get transport(): TransportName {
    return this.#transport.name;
  }

  /**
   * Binds the address and accepts at once.
   *
   * @returns the bound address, with the port that the system chose
   * @throws RelayError TICKRELAY_ERR_BIND naming the address; TICKRELAY_ERR_ENGINE once the engine drains
   */
  async addListener(spec: TcpListenerSpec, parts: TcpListenerParts = {}): Promise<Endpoint> {
    assert(!this.#listeners.has(spec.name), `a listener is called "${spec.name}" already`);
    this.#refuseWhenDraining(spec.name);
    this.#opening.add(spec);
    try {
      const listener = await this.#listen(spec, parts);
      if (this.#isDraining) await listener.close();
      this.#refuseWhenDraining(spec.name);
      this.#listeners.set(spec.name, listener);
      this.#logger?.info({ listener: spec.name, local: listener.local.toString() }, 'tcp listener open');
      return listener.local;
    } finally {
      this.#opening.delete(spec);
      this.#forgetIfUnused(spec.pool);
    }
  }

  #listen(spec: TcpListenerSpec, parts: TcpListenerParts): Promise<TcpListener> {
    const pool = this.#pool(spec.pool);
    let host: TcpConnectionHost | undefined;
    return TcpListener.open({
      ...parts,
      spec,
      pool,
      transport: this.#transport,
      hashSeed: this.#hashSeed,
      now: this.#now,
      pins: this.#pins,
      open: (at, accepted, client) => {
        host ??= this.#hostOf(at, pool);
        return this.#open(host, accepted, client);
      },
      onAcceptError: (at, error) => this.#logAcceptError(at, error),
    });
  }

  /** Changes the rules of a listener in place; its connections stay. Name, address and pool must be the same. */
  updateListener(spec: TcpListenerSpec): Promise<void> {
    const listener = this.#listeners.get(spec.name);
    assert(listener !== undefined, `no listener is called "${spec.name}"`);
    listener.update(spec);
    return Promise.resolve();
  }

  /** Resets the listener's connections and frees its address. */
  async removeListener(name: string): Promise<void> {
    const listener = this.#listeners.get(name);
    assert(listener !== undefined, `no listener is called "${name}"`);
    await this.#end(listener, 'listener-removed');
    this.#listeners.delete(name);
    this.#forgetIfUnused(listener.rules.pool);
  }

  /**
   * Swaps in what the control plane decided about a pool. The last one published counts, also for later listeners.
   * Connections of a backend that is no longer usable are reset at once; those of a draining one go on.
   */
  publish(snapshot: PoolSnapshot): Promise<void> {
    const pool = this.#pool(snapshot.pool);
    pool.publish(snapshot, this.#now());
    for (const connection of this.#connections.values()) {
      const { backend } = connection;
      const isLost = connection.pool === pool.name && backend !== undefined && !pool.isUsable(backend);
      if (isLost) connection.backendLost();
    }
    this.#serveQueues(pool.name);
    this.#forgetIfUnused(pool.name);
    return Promise.resolve();
  }

  listeners(): readonly TcpListenerStatus[] {
    return [...this.#listeners.values()].map((listener) => listener.status());
  }

  /** What the engine keeps, for tests. */
  dump(): { readonly pools: readonly string[]; readonly connections: number } {
    return { pools: [...this.#pools.keys()], connections: this.#connections.size };
  }

  /** Oldest first. @throws RelayError TICKRELAY_ERR_ADDRESS when `clientIp` is no address. */
  connections(query: TcpConnectionQuery): TcpConnectionListing {
    return this.#connections.list(query, this.#now());
  }

  /** Resets one connection. @returns whether there was one with this id */
  closeConnection(id: number): boolean {
    const connection = this.#connections.get(id);
    connection?.close('operator');
    return connection !== undefined;
  }

  /** Listeners stop accepting and free their addresses; live connections go on until they end. Idempotent. */
  drain(): Promise<void> {
    this.#isDraining = true;
    for (const listener of this.#listeners.values()) listener.stop();
    return Promise.resolve();
  }

  /** Resets every connection, closes every socket and waits until their descriptors are back. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.drain();
    await Promise.all([...this.#listeners.values()].map((listener) => this.#end(listener, 'shutdown')));
    this.#cancelSweep();
  }

  async #end(listener: TcpListener, reason: CloseReason): Promise<void> {
    listener.stop();
    for (const connection of this.#connections.values()) {
      if (connection.listener === listener.name) connection.close(reason);
    }
    await listener.close();
    this.#logger?.info({ listener: listener.name, counts: listener.counters.dump() }, 'tcp listener closed');
  }

  #pool(name: string): TcpPool {
    let pool = this.#pools.get(name);
    if (pool === undefined) {
      pool = new TcpPool(name);
      this.#pools.set(name, pool);
    }
    return pool;
  }

  /** A pool without backends that no listener names is the same as one that was never published. */
  #forgetIfUnused(name: string): void {
    if (this.#pools.get(name)?.isEmpty !== true) return;
    for (const { rules } of this.#listeners.values()) if (rules.pool === name) return;
    for (const { pool } of this.#opening) if (pool === name) return;
    this.#pools.delete(name);
  }

  #refuseWhenDraining(name: string): void {
    if (!this.#isDraining) return;
    throw new RelayError(
      'TICKRELAY_ERR_ENGINE',
      `listener "${name}" can't be added: the relay is draining; start it again to take new connections`,
    );
  }

  #open(host: TcpConnectionHost, accepted: AcceptedClient, client: Endpoint): TcpConnection {
    const connection = new TcpConnection(host, { id: ++this.#ids[0]!, accepted, client });
    this.#connections.add(connection);
    return connection;
  }

  #hostOf(listener: TcpListener, pool: TcpPool): TcpConnectionHost {
    return {
      listener,
      pool,
      transport: this.#transport,
      now: this.#now,
      onConnectOutcome: (backend, failure) => this.#onConnectOutcome(pool.name, backend, failure),
      onRetry: (retried, failed, other) => listener.retried(retried, failed, other),
      onClosed: (closed, reason) => {
        this.#connections.remove(closed);
        listener.released(closed, reason);
        this.#serveQueues(pool.name);
      },
    };
  }

  /** A place came free: at a listener, at a backend, or for a client. */
  #serveQueues(pool: string): void {
    for (const listener of this.#listeners.values()) if (listener.rules.pool === pool) listener.serveQueue();
  }

  #sweep(): void {
    const nowMs = this.#now();
    this.#connections.sweep(nowMs, SWEEP_BUDGET);
    for (const listener of this.#listeners.values()) listener.sweep(nowMs);
  }

  #logAcceptError(listener: TcpListener, error: Error): void {
    const nowMs = this.#now();
    if (nowMs - this.#acceptLoggedAtMs < ACCEPT_LOG_INTERVAL_MS) return;
    this.#acceptLoggedAtMs = nowMs;
    this.#logger?.warn(
      { listener: listener.name, err: error },
      'a connection could not be accepted; if descriptors ran out, raise the limit (ulimit -n) or lower maxConnections',
    );
  }
}
