/**
 * The mmsg data plane: worker threads, each with its own socket on every public address, its own epoll, sessions and
 * pins. The kernel steers each client IP to one of them (net/linux/steering.ts), so they share nothing on the packet path.
 *
 *     this thread   binds the addresses, publishes snapshots, adds up the counters, replaces a worker that dies
 *     each worker   a userspace engine over a poller (worker.ts)
 *
 * The listener sockets belong to this thread: while a worker is being replaced they stay open, and what arrives meanwhile
 * waits in their receive buffers.
 */
import assert from 'node:assert/strict';
import { type Endpoint, IpAddress } from '../../../net/address.ts';
import { Arena } from '../../../net/linux/arena.ts';
import { CallRing } from '../../../net/linux/call-ring.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { readReceiveBuffer } from '../../../net/linux/mmsg-socket.ts';
import { bindGroup, steeredTo } from '../../../net/linux/steering.ts';
import { BackendPool } from '../../core/backend-pool.ts';
import { COUNTER_COUNT, ListenerCounters } from '../../core/counters.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import type { LiveSessions } from '../../core/listener-state.ts';
import type { PinGroupSpec, PinRequest } from '../../core/pin-group.ts';
import { toPlainSnapshot } from '../../core/plain-snapshot.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import type { Engine, ListenerStatus, SessionListing, SessionQuery, UdpListenerSpec } from '../engine.ts';
import { type Answer, toPlainSpec, type WorkerSettings } from './messages.ts';
import { WorkerThread } from './worker-thread.ts';

export interface MmsgEngineOptions {
  readonly libc: Libc;
  /** Worker threads, at least 1. */
  readonly workers: number;
  /** Of all workers together. */
  readonly maxSessions: number;
  /** Of all listeners and workers together. */
  readonly maxUpstreamSockets: number;
  readonly upstreamQuarantineMs?: number;
  readonly hashSeed: number;
  readonly tableSeed: number;
  readonly coalesceUs?: number;
  /** Whether to use io_uring where the system allows it. Default true. */
  readonly ring?: boolean;
  /** A clock of the caller's in ms, in shared memory; absent: the system's. */
  readonly clock?: Float64Array;
  readonly onTrouble?: (error: unknown) => void;
}

/** A worker that ends earlier than this after its start is not replaced at once, but after the delay. */
const SHORT_LIFE_MS = 1_000;
const RESTART_DELAY_MS = 500;

interface Listener {
  spec: UdpListenerSpec;
  /** Granted by the system, of the smallest socket. */
  receiveBufferBytes: number;
  readonly local: Endpoint;
  /** One for each worker. */
  readonly fds: readonly number[];
  readonly counters: readonly ListenerCounters[];
  /** Of round-robin, for all workers. */
  readonly turns: Int32Array;
}

interface Pool {
  snapshot: PoolSnapshot;
  /** Live sessions by slot, one for each worker. */
  readonly live: readonly Uint32Array[];
}

export class MmsgEngine implements Engine {
  readonly name = 'mmsg';
  /** How the workers call the system, for the log. */
  readonly origin: string;
  readonly #options: MmsgEngineOptions;
  readonly #libc: Libc;
  readonly #settings: Omit<WorkerSettings, 'descriptors' | 'figures'>;
  readonly #memory: Arena;
  readonly #workers: WorkerThread[] = [];
  readonly #listeners = new Map<string, Listener>();
  readonly #pools = new Map<string, Pool>();
  #pinGroups: readonly PinGroupSpec[] = [];
  readonly #startedMs: number[] = [];
  readonly #now = (): number => performance.now();
  #isDraining = false;
  #closing: Promise<void> | undefined;

  constructor(options: MmsgEngineOptions) {
    const { libc, workers, clock } = options;
    assert(workers >= 1);
    this.#options = options;
    this.#libc = libc;
    const ringless = options.ring === false ? 'not asked for' : CallRing.whyUnavailable(libc);
    this.origin =
      ringless === undefined
        ? 'io_uring: one system call for many sockets'
        : `a system call for each socket, without io_uring: ${ringless}`;
    this.#settings = {
      maxSessions: Math.ceil(options.maxSessions / workers),
      maxUpstreamSockets: Math.ceil(options.maxUpstreamSockets / workers),
      upstreamQuarantineMs: options.upstreamQuarantineMs,
      hashSeed: options.hashSeed,
      tableSeed: options.tableSeed,
      coalesceUs: options.coalesceUs ?? 0,
      ring: ringless === undefined,
      clock,
    };
    this.#memory = new Arena(libc, 4096);
    this.#memory.u32[0] = 1;
    try {
      for (let index = 0; index < workers; index++) this.#workers.push(this.#startWorker(index));
    } catch (error) {
      void this.close();
      throw error;
    }
  }

  async addListener(spec: UdpListenerSpec): Promise<Endpoint> {
    assert(!this.#listeners.has(spec.name), 'the listener is there already');
    const { fds, bound } = bindGroup(
      this.#libc,
      { local: spec.listen, receiveBufferBytes: spec.receiveBufferBytes },
      this.#workers.length,
    );
    const counters = fds.map(
      () => new ListenerCounters(new Float64Array(new SharedArrayBuffer(8 * COUNTER_COUNT))),
    );
    const turns = new Int32Array(new SharedArrayBuffer(4));
    const receiveBufferBytes = this.#smallestBuffer(fds);
    const listener = { spec, local: bound, fds, receiveBufferBytes, counters, turns };
    this.#listeners.set(spec.name, listener);
    if (!this.#pools.has(spec.pool)) this.#openPool(spec.pool);
    try {
      await Promise.all(this.#workers.map((worker, index) => this.#addTo(worker, index, listener)));
    } catch (error) {
      await this.removeListener(spec.name);
      throw error;
    }
    return bound;
  }

  async updateListener(spec: UdpListenerSpec): Promise<void> {
    const listener = this.#listeners.get(spec.name);
    assert(listener !== undefined && listener.spec.pool === spec.pool, 'no such listener');
    listener.spec = spec;
    await this.#askAll({ kind: 'update', spec: toPlainSpec(this.#share(spec)) });
    listener.receiveBufferBytes = this.#smallestBuffer(listener.fds);
  }

  async removeListener(name: string): Promise<void> {
    const listener = this.#listeners.get(name);
    assert(listener !== undefined, 'no such listener');
    this.#listeners.delete(name);
    await this.#askAll({ kind: 'remove', name });
    for (const fd of listener.fds) this.#libc.close(fd);
    this.#forgetIfUnused(listener.spec.pool);
  }

  async publish(snapshot: PoolSnapshot): Promise<void> {
    const pool = this.#pools.get(snapshot.pool) ?? this.#openPool(snapshot.pool);
    pool.snapshot = snapshot;
    this.#forgetIfUnused(snapshot.pool);
    await this.#publishToAll(pool);
  }

  async setPinGroups(groups: readonly PinGroupSpec[]): Promise<void> {
    this.#pinGroups = groups;
    await this.#askAll({ kind: 'pin-groups', groups });
  }

  /** Asks the worker that has the client's sessions. One that dies before it answers has lost the pin, too. */
  async requestPin(request: PinRequest): Promise<string | undefined> {
    const answer = this.#workerOf(request.client).ask({ kind: 'pin', pin: request });
    return answer.then(
      ({ backend }) => backend,
      () => request.proposal,
    );
  }

  letPinGo(group: string, client: Uint32Array): void {
    void this.#workerOf(client)
      .ask({ kind: 'let-pin-go', group, client })
      .catch(() => undefined);
  }

  listeners(): readonly ListenerStatus[] {
    return Array.from(this.#listeners.values(), (listener) => this.#status(listener));
  }

  capacity(): { readonly maxSessions: number; readonly liveSessions: number; readonly livePins: number } {
    let liveSessions = 0;
    for (const { counters } of this.#listeners.values()) liveSessions += addUp(counters).liveSessions;
    return {
      maxSessions: this.#settings.maxSessions * this.#workers.length,
      liveSessions,
      livePins: this.#workers.reduce((sum, worker) => sum + worker.livePins, 0),
    };
  }

  async sessions(query: SessionQuery): Promise<SessionListing> {
    const listings = await this.#askAll({ kind: 'sessions', query });
    const sessions = listings.flatMap(({ listing }) => listing?.sessions ?? []).slice(0, query.limit);
    const total = listings.reduce((sum, { listing }) => sum + (listing?.total ?? 0), 0);
    return { sessions, total, truncated: total > sessions.length };
  }

  /** What is kept of the pools, here and by each worker, for tests and for whoever looks for a leak. */
  dump(): { readonly pools: readonly string[]; readonly poolsOfWorkers: readonly number[] } {
    return {
      pools: [...this.#pools.keys()],
      poolsOfWorkers: this.#workers.map(({ pools }) => pools),
    };
  }

  async drain(): Promise<void> {
    this.#isDraining = true;
    await this.#askAll({ kind: 'drain' });
  }

  /** Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** One step of expiry in every worker, for callers with a clock of their own. */
  async sweep(): Promise<void> {
    await this.#askAll({ kind: 'sweep' });
  }

  /** Ends a worker as a crash would, for tests. */
  async killWorker(index: number): Promise<void> {
    await this.#workers[index]!.kill();
  }

  async #close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.close()));
    for (const { fds } of this.#listeners.values()) for (const fd of fds) this.#libc.close(fd);
    this.#memory.free();
  }

  #startWorker(index: number): WorkerThread {
    this.#startedMs[index] = this.#now();
    return new WorkerThread(
      {
        libc: this.#libc,
        settings: this.#settings,
        onTrouble: (error) => this.#options.onTrouble?.(error),
        onDeath: () => this.#replaceWorker(index),
      },
      this.#memory.address,
    );
  }

  /** A worker died with its sessions. A new one takes its place, its sockets and its share of the players. */
  #replaceWorker(index: number): void {
    if (this.#closing !== undefined) return;
    if (this.#now() - this.#startedMs[index]! < SHORT_LIFE_MS) {
      // It did not live long enough to be of use; another try at once would only burn the processor.
      setTimeout(() => this.#restart(index), RESTART_DELAY_MS).unref();
      return;
    }
    this.#restart(index);
  }

  #restart(index: number): void {
    if (this.#closing !== undefined) return;
    this.#options.onTrouble?.(new Error(`worker ${index} ended and is replaced; its sessions begin anew`));
    const worker = this.#startWorker(index);
    this.#workers[index] = worker;
    const told = Array.from(this.#pools.values(), (pool) => {
      pool.live[index]!.fill(0);
      return this.#publishTo(worker, index, pool);
    });
    told.push(worker.ask({ kind: 'pin-groups', groups: this.#pinGroups }));
    for (const listener of this.#listeners.values()) {
      const counters = listener.counters[index]!;
      counters.liveSessions = 0;
      counters.upstreamSockets = 0;
      told.push(this.#addTo(worker, index, listener));
    }
    if (this.#isDraining) told.push(worker.ask({ kind: 'drain' }));
    Promise.all(told).catch((error: unknown) => this.#options.onTrouble?.(error));
  }

  #openPool(name: string): Pool {
    const live = this.#workers.map(() => new Uint32Array(new SharedArrayBuffer(4 * MAX_BACKENDS)));
    const pool = { snapshot: new BackendPool(name).snapshot(), live };
    this.#pools.set(name, pool);
    return pool;
  }

  /** The workers follow the same rule (userspace-engine.ts), so they forget a pool together with this thread. */
  #forgetIfUnused(name: string): void {
    const backends = this.#pools.get(name)?.snapshot.backends ?? [];
    if (backends.some((backend) => backend !== undefined)) return;
    for (const { spec } of this.#listeners.values()) if (spec.pool === name) return;
    this.#pools.delete(name);
  }

  /** A worker that dies meanwhile gets the snapshot with its replacement. */
  async #publishToAll(pool: Pool): Promise<void> {
    await Promise.allSettled(this.#workers.map((worker, index) => this.#publishTo(worker, index, pool)));
  }

  #publishTo(worker: WorkerThread, index: number, { snapshot, live }: Pool): Promise<unknown> {
    return worker.ask({
      kind: 'publish',
      snapshot: toPlainSnapshot(snapshot),
      live: liveOf(live, index),
    });
  }

  async #addTo(
    worker: WorkerThread,
    index: number,
    { spec, local, fds, counters, turns }: Listener,
  ): Promise<void> {
    await worker.ask({
      kind: 'add',
      spec: toPlainSpec(this.#share({ ...spec, listen: local })),
      live: liveOf(this.#pools.get(spec.pool)!.live, index),
      fd: fds[index]!,
      counters: counters[index]!.values,
      turns,
    });
  }

  /** Each worker admits its share of the listener's rate, since each gets its share of the clients. */
  #share(spec: UdpListenerSpec): UdpListenerSpec {
    const sessionRate = Math.ceil(spec.limits.sessionRate / this.#workers.length);
    return { ...spec, limits: { ...spec.limits, sessionRate } };
  }

  /** Asks every worker; one that dies before it answers has nothing to say. */
  #askAll(message: Parameters<WorkerThread['ask']>[0]): Promise<Answer[]> {
    return Promise.all(this.#workers.map((worker) => worker.ask(message).catch(() => ({}))));
  }

  #workerOf(client: Uint32Array): WorkerThread {
    return this.#workers[steeredTo(IpAddress.fromWords(client, 0), this.#workers.length)]!;
  }

  #smallestBuffer(fds: readonly number[]): number {
    return Math.min(...fds.map((fd) => readReceiveBuffer(this.#libc, fd)));
  }

  #status({ spec, local, receiveBufferBytes, counters }: Listener): ListenerStatus {
    const sum = addUp(counters);
    const pool = this.#pools.get(spec.pool)!;
    const sessionsByBackend = new Map<string, number>();
    for (const backend of pool.snapshot.backends) {
      if (backend === undefined) continue;
      sessionsByBackend.set(
        backend.id,
        pool.live.reduce((count, live) => count + live[backend.slot]!, 0),
      );
    }
    return {
      name: spec.name,
      local,
      pool: spec.pool,
      counts: sum.dump(),
      liveSessions: sum.liveSessions,
      sessionsByBackend,
      upstreamSockets: sum.upstreamSockets,
      receiveBuffer: {
        askedBytes: spec.receiveBufferBytes,
        grantedBytes: receiveBufferBytes,
      },
    };
  }
}

/** The live sessions of a pool as one worker sees them. */
function liveOf(live: readonly Uint32Array[], index: number): LiveSessions {
  return { own: live[index]!, others: live.filter((_, other) => other !== index) };
}

function addUp(counters: readonly ListenerCounters[]): ListenerCounters {
  const sum = new ListenerCounters();
  for (const { values } of counters) for (let i = 0; i < values.length; i++) sum.values[i]! += values[i]!;
  return sum;
}
