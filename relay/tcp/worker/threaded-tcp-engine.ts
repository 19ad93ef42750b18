/**
 * The TCP engine in a worker thread, as the main thread sees it. The listening sockets and the counters are kept here, so that a
 * worker that dies is replaced over the same sockets: clients that come meanwhile wait in the system's backlog.
 */
import assert from 'node:assert/strict';
import { Endpoint } from '../../../net/address.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { TcpSockets } from '../../../net/linux/tcp-sockets.ts';
import { toPlainSnapshot } from '../../core/plain-snapshot.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import type { TcpConnectionListing, TcpConnectionQuery } from '../connection-table.ts';
import type { SharedPins } from '../shared-pins.ts';
import { TCP_COUNTER_CELLS, TcpCounters } from '../tcp-counters.ts';
import { cantListen, statusOf, type TcpListenerStatus } from '../tcp-listener.ts';
import type { TcpPlane } from '../tcp-plane.ts';
import type { TcpLog } from '../tcp-log.ts';
import type { TcpListenerSpec } from '../tcp-rules.ts';
import { BACKLOG } from '../transport.ts';
import { toPlainTcpSpec, type ToMainThread, type ToTcpWorker } from './messages.ts';
import { TcpWorkerThread } from './tcp-worker-thread.ts';

/** A worker that lived shorter is not replaced at once: another try would only burn the processor. */
const SHORT_LIFE_MS = 1_000;
const RESTART_DELAY_MS = 1_000;

export interface ThreadedTcpEngineOptions {
  readonly libc: Libc;
  readonly logger?: TcpLog | undefined;
  readonly hashSeed: number;
  /** Told of failed attempts to reach a backend, and of the first one that succeeds after them. */
  readonly onConnectOutcome: (
    pool: string,
    backend: { readonly id: string },
    failure: string | undefined,
  ) => void;
  readonly pins?: SharedPins;
}

interface Listener {
  spec: TcpListenerSpec;
  readonly local: Endpoint;
  readonly fd: number;
  readonly cells: Float64Array;
  readonly counters: TcpCounters;
  isAccepting: boolean;
}

export class ThreadedTcpEngine implements TcpPlane {
  readonly transport = 'pump';
  readonly #options: ThreadedTcpEngineOptions;
  readonly #sockets: TcpSockets;
  readonly #listeners = new Map<string, Listener>();
  readonly #snapshots = new Map<string, PoolSnapshot>();
  readonly #ids = new Float64Array(new SharedArrayBuffer(8));
  #worker: TcpWorkerThread;
  #startedMs = 0;
  #isDraining = false;
  #closing: Promise<void> | undefined;

  constructor(options: ThreadedTcpEngineOptions) {
    this.#options = options;
    this.#sockets = new TcpSockets(options.libc);
    this.#worker = this.#startWorker();
  }

  async addListener(spec: TcpListenerSpec): Promise<Endpoint> {
    const { name, listen } = spec;
    assert(!this.#listeners.has(name), `a listener is called "${name}" already`);
    const fd = this.#bind(spec);
    const local = new Endpoint(listen.ip, this.#sockets.local(fd).port);
    const cells = new Float64Array(new SharedArrayBuffer(8 * TCP_COUNTER_CELLS));
    const listener = { spec, local, fd, cells, counters: new TcpCounters(cells), isAccepting: true };
    this.#listeners.set(name, listener);
    try {
      await this.#addTo(this.#worker, listener);
    } catch (error) {
      this.#listeners.delete(name);
      this.#options.libc.close(fd);
      throw error;
    }
    return local;
  }

  async updateListener(spec: TcpListenerSpec): Promise<void> {
    const listener = this.#listeners.get(spec.name);
    assert(listener?.spec.pool === spec.pool, `no listener is called "${spec.name}"`);
    listener.spec = spec;
    await this.#tell({ kind: 'update', spec: toPlainTcpSpec({ ...spec, listen: listener.local }) });
  }

  async removeListener(name: string): Promise<void> {
    const listener = this.#listeners.get(name);
    assert(listener !== undefined, `no listener is called "${name}"`);
    await this.#tell({ kind: 'remove', name });
    this.#stop(listener);
    this.#listeners.delete(name);
    this.#forgetIfUnused(listener.spec.pool);
  }

  async publish(snapshot: PoolSnapshot): Promise<void> {
    this.#snapshots.set(snapshot.pool, snapshot);
    this.#forgetIfUnused(snapshot.pool);
    await this.#tell({ kind: 'publish', snapshot: toPlainSnapshot(snapshot) });
  }

  listeners(): readonly TcpListenerStatus[] {
    return Array.from(this.#listeners.values(), ({ spec, local, counters, isAccepting }) =>
      statusOf({
        name: spec.name,
        pool: spec.pool,
        local,
        isAccepting,
        counters,
        backends: this.#snapshots.get(spec.pool)?.backends ?? [],
      }),
    );
  }

  connections(query: TcpConnectionQuery): Promise<TcpConnectionListing> {
    return this.#worker.ask({ kind: 'connections', query });
  }

  closeConnection(id: number): Promise<boolean> {
    return this.#worker.ask({ kind: 'close-connection', id });
  }

  async drain(): Promise<void> {
    this.#isDraining = true;
    await this.#tell({ kind: 'drain' });
    for (const listener of this.#listeners.values()) this.#stop(listener);
  }

  /** Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** What is kept of the pools, for tests. */
  dump(): { readonly pools: readonly string[] } {
    return { pools: [...this.#snapshots.keys()] };
  }

  /** Ends the worker as a crash would, for tests. */
  async killWorker(): Promise<void> {
    await this.#worker.kill();
  }

  async #close(): Promise<void> {
    await this.#worker.close();
    for (const listener of this.#listeners.values()) {
      this.#stop(listener);
      // Nothing, unless the worker was dying meanwhile.
      listener.counters.loseLive('worker-failure');
    }
    this.#sockets.close();
  }

  /** A worker that dies before it obeys is replaced by one that is told all that counts. */
  async #tell(request: ToTcpWorker): Promise<void> {
    const worker = this.#worker;
    try {
      await worker.ask(request);
    } catch (error) {
      if (!worker.hasExited) throw error;
    }
  }

  #bind({ name, listen }: TcpListenerSpec): number {
    try {
      return this.#sockets.listen(listen, BACKLOG);
    } catch (error) {
      throw cantListen(name, listen, error);
    }
  }

  #stop(listener: Listener): void {
    if (!listener.isAccepting) return;
    listener.isAccepting = false;
    this.#options.libc.close(listener.fd);
  }

  #addTo(worker: TcpWorkerThread, { spec, local, fd, cells }: Listener): Promise<unknown> {
    return worker.ask({ kind: 'add', spec: toPlainTcpSpec({ ...spec, listen: local }), fd, cells });
  }

  #startWorker(): TcpWorkerThread {
    this.#startedMs = performance.now();
    const { libc, hashSeed, logger } = this.#options;
    return new TcpWorkerThread({
      libc,
      sockets: this.#sockets,
      hashSeed,
      ids: this.#ids,
      onTold: (message) => this.#told(message),
      onTrouble: (error) => logger?.warn({ err: error }, 'the TCP worker is in trouble'),
      onDeath: () => this.#replaceWorker(),
    });
  }

  #told(message: ToMainThread): unknown {
    const { logger, onConnectOutcome, pins } = this.#options;
    switch (message.kind) {
      case 'log':
        logger?.[message.level](message.fields, message.text);
        return undefined;
      case 'outcome':
        onConnectOutcome(message.pool, { id: message.backend }, message.failure);
        return undefined;
      case 'pin':
        return pins?.request(message.pin);
      case 'let-pin-go':
        pins?.letGo(message.group, message.client);
        return undefined;
      case 'online':
        return undefined;
    }
  }

  /** A worker died with its connections. A new one takes its place and its listeners. */
  #replaceWorker(): void {
    for (const { counters } of this.#listeners.values()) counters.loseLive('worker-failure');
    if (this.#closing !== undefined) return;
    if (performance.now() - this.#startedMs < SHORT_LIFE_MS) {
      setTimeout(() => this.#restart(), RESTART_DELAY_MS).unref();
    } else this.#restart();
  }

  #restart(): void {
    if (this.#closing !== undefined) return;
    const { logger } = this.#options;
    logger?.warn({}, 'the TCP worker ended and is replaced; its connections are lost');
    const worker = this.#startWorker();
    this.#worker = worker;
    const told: Promise<unknown>[] = [];
    for (const snapshot of this.#snapshots.values())
      told.push(worker.ask({ kind: 'publish', snapshot: toPlainSnapshot(snapshot) }));
    for (const listener of this.#listeners.values()) {
      if (listener.isAccepting) told.push(this.#addTo(worker, listener));
    }
    if (this.#isDraining) told.push(worker.ask({ kind: 'drain' }));
    Promise.all(told).catch((error: unknown) =>
      logger?.warn({ err: error }, 'the new TCP worker does not do what it is told'),
    );
  }

  /** The worker follows the same rule (tcp-engine.ts). */
  #forgetIfUnused(name: string): void {
    const backends = this.#snapshots.get(name)?.backends ?? [];
    if (backends.some((backend) => backend !== undefined)) return;
    for (const { spec } of this.#listeners.values()) if (spec.pool === name) return;
    this.#snapshots.delete(name);
  }
}
