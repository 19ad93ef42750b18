/**
 * The userspace data plane: the router's decisions (core/router.ts) over datagram sockets (net/datagram-socket.ts).
 */
import assert from 'node:assert/strict';
import type { Endpoint } from '../../../net/address.ts';
import type { OpenDatagramSocket } from '../../../net/datagram-socket.ts';
import type { ListenerCounters } from '../../core/counters.ts';
import { ListenerState, type LiveSessions, PoolView } from '../../core/listener-state.ts';
import { MAX_LISTENERS, SWEEP_BUDGET, UPSTREAM_QUARANTINE_MS, UPSTREAM_RESERVE } from '../../core/limits.ts';
import type { PinGroupSpec, PinRequest } from '../../core/pin-group.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import { BackendPool } from '../../core/backend-pool.ts';
import { Router } from '../../core/router.ts';
import type {
  Engine,
  EngineName,
  ListenerStatus,
  SessionListing,
  SessionQuery,
  UdpListenerSpec,
} from '../engine.ts';
import { listSessions } from './session-listing.ts';
import { UdpListener } from './udp-listener.ts';
import type { ReserveBounds } from './upstream-reserve.ts';

/** Time between two sweep steps. */
const SWEEP_INTERVAL_MS = 50;

export interface UserspaceEngineOptions {
  readonly name: EngineName;
  readonly openSocket: OpenDatagramSocket;
  readonly maxSessions: number;
  /** Of all listeners together. */
  readonly maxUpstreamSockets: number;
  readonly upstreamQuarantineMs?: number;
  /** Upstream sockets of each listener that stand ready. */
  readonly upstreamReserve?: ReserveBounds;
  readonly hashSeed: number;
  /** A secret; see RouterOptions. */
  readonly tableSeed: number;
  /** RecordTableOptions (core/record-table.ts). */
  readonly prepareMemory?: ((memory: ArrayBuffer) => void) | undefined;
  /** A monotonic clock in ms. */
  readonly now: () => number;
  /** The system refused an upstream socket, or a socket reported an error. */
  readonly onTrouble?: (error: unknown) => void;
  /** Calls `run` each `periodMs` until the returned function is called. Default: setInterval. */
  readonly every?: (periodMs: number, run: () => void) => () => void;
  /** Where to count the live sessions of a pool's backends. Default: memory of its own. */
  readonly liveOf?: (pool: string) => LiveSessions;
}

/** What a listener may bring along: a socket that is bound already, counters and turns in shared memory. */
export interface ListenerParts {
  readonly openSocket?: OpenDatagramSocket;
  readonly counters?: ListenerCounters;
  readonly turns?: Int32Array;
}

export class UserspaceEngine implements Engine {
  readonly name: EngineName;
  readonly #options: UserspaceEngineOptions;
  readonly #router: Router;
  readonly #listeners = new Map<string, UdpListener>();
  readonly #byIndex: (UdpListener | undefined)[] = [];
  readonly #pools = new Map<string, PoolView>();
  #endSweeps: (() => void) | undefined;
  #closing: Promise<unknown> | undefined;

  constructor(options: UserspaceEngineOptions) {
    this.name = options.name;
    this.#options = options;
    this.#router = new Router({
      maxSessions: options.maxSessions,
      hashSeed: options.hashSeed,
      tableSeed: options.tableSeed,
      prepareMemory: options.prepareMemory,
      onDetach: (session) => this.#listenerOf(session).detach(session),
      onRenumber: (session) => this.#listenerOf(session).renumber(session),
    });
  }

  addListener(spec: UdpListenerSpec, parts: ListenerParts = {}): Promise<Endpoint> {
    return Promise.resolve()
      .then(() => this.#add(spec, parts).local)
      .finally(() => this.#forgetIfUnused(spec.pool));
  }

  updateListener(spec: UdpListenerSpec): Promise<void> {
    const listener = this.#listeners.get(spec.name);
    assert(listener !== undefined && listener.spec.pool === spec.pool, 'no such listener');
    listener.update(spec);
    this.#joinGroup(listener);
    return Promise.resolve();
  }

  async removeListener(name: string): Promise<void> {
    const listener = this.#listeners.get(name);
    assert(listener !== undefined, 'no such listener');
    this.#listeners.delete(name);
    await listener.close();
    this.#byIndex[listener.state.index] = undefined;
    this.#forgetIfUnused(listener.spec.pool);
  }

  publish(snapshot: PoolSnapshot): Promise<void> {
    this.#poolView(snapshot.pool).publish(snapshot);
    this.#router.groupPins.groups.publish(snapshot);
    for (const listener of this.#listeners.values()) {
      if (listener.spec.pool === snapshot.pool) listener.publish(snapshot);
    }
    this.#forgetIfUnused(snapshot.pool);
    return Promise.resolve();
  }

  setPinGroups(groups: readonly PinGroupSpec[]): Promise<void> {
    const snapshotOf = (pool: string): PoolSnapshot =>
      this.#pools.get(pool)?.snapshot ?? new BackendPool(pool).snapshot();
    this.#router.groupPins.set(groups, snapshotOf, this.#options.now());
    for (const listener of this.#listeners.values()) this.#joinGroup(listener);
    return Promise.resolve();
  }

  requestPin(request: PinRequest): Promise<string | undefined> {
    return Promise.resolve(this.#router.groupPins.request(request, this.#options.now()));
  }

  letPinGo(group: string, client: Uint32Array): void {
    this.#router.groupPins.letGo(group, client, this.#options.now());
  }

  listeners(): readonly ListenerStatus[] {
    return Array.from(this.#listeners.values(), (listener) => listener.status());
  }

  capacity(): { readonly maxSessions: number; readonly liveSessions: number; readonly livePins: number } {
    const { sessions, pins } = this.#router;
    return {
      maxSessions: sessions.records.capacity,
      liveSessions: sessions.records.size,
      livePins: pins.records.size,
    };
  }

  sessions(query: SessionQuery): Promise<SessionListing> {
    const upstreamPort = (session: number): number => this.#listenerOf(session).upstreamPort(session);
    return listSessions(this.#router, query, { nowMs: this.#options.now(), upstreamPort });
  }

  /** What is kept of the pools, for tests and for whoever looks for a leak. */
  dump(): { readonly pools: readonly string[] } {
    return { pools: [...this.#pools.keys()] };
  }

  drain(): Promise<void> {
    this.#router.drain();
    return Promise.resolve();
  }

  async close(): Promise<void> {
    this.#endSweeps?.();
    this.#endSweeps = undefined;
    // They stay in the map: what they counted until the last socket was closed can still be read.
    this.#closing ??= Promise.all(Array.from(this.#listeners.values(), (listener) => listener.close()));
    await this.#closing;
  }

  /** One bounded step of expiry. Runs by itself every 50 ms; tests with a clock of their own call it. */
  sweep(): void {
    const nowMs = this.#options.now();
    this.#router.sweep(SWEEP_BUDGET, nowMs);
    for (const listener of this.#listeners.values()) listener.sweep(nowMs);
  }

  #add(
    spec: UdpListenerSpec,
    { openSocket = this.#options.openSocket, counters, turns }: ListenerParts,
  ): UdpListener {
    assert(!this.#listeners.has(spec.name), 'the listener is there already');
    const free = this.#byIndex.indexOf(undefined);
    const index = free === -1 ? this.#byIndex.length : free;
    assert(index < MAX_LISTENERS, 'too many listeners');
    const state = new ListenerState(index, spec.name, {
      rules: spec,
      pool: this.#poolView(spec.pool),
      counters,
      turns,
    });
    const {
      openSocket: openUpstream,
      maxUpstreamSockets,
      upstreamQuarantineMs = UPSTREAM_QUARANTINE_MS,
      upstreamReserve = UPSTREAM_RESERVE,
      now,
      onTrouble,
    } = this.#options;
    const listener = new UdpListener({
      spec,
      state,
      router: this.#router,
      openSocket,
      openUpstream,
      hasRoom: () => this.#hasRoom(),
      makeRoom: () => this.#makeRoom(),
      upstreamReserve,
      maxUpstreamSockets,
      upstreamQuarantineMs,
      now,
      onTrouble: onTrouble ?? (() => undefined),
    });
    this.#router.addListener(state);
    this.#byIndex[index] = listener;
    this.#listeners.set(spec.name, listener);
    this.#joinGroup(listener);
    this.#endSweeps ??= (this.#options.every ?? everyByTimer)(SWEEP_INTERVAL_MS, () => this.sweep());
    return listener;
  }

  /** A group that is not known yet is joined when it is. */
  #joinGroup({ spec, state }: UdpListener): void {
    state.group = this.#router.groupPins.groups.get(spec.pinGroup)?.view(spec.pool);
  }

  /** Whether the upstream sockets are not used up. */
  #hasRoom(): boolean {
    let sockets = 0;
    for (const listener of this.#listeners.values()) sockets += listener.upstreamSockets;
    return sockets < this.#options.maxUpstreamSockets;
  }

  /** @returns whether a listener had an upstream socket ready and gave it up */
  #makeRoom(): boolean {
    for (const listener of this.#listeners.values()) if (listener.giveUpReady()) return true;
    return false;
  }

  #listenerOf(session: number): UdpListener {
    return this.#byIndex[this.#router.sessions.listener(session)]!;
  }

  /** A pool without backends that no listener names is the same as one that was never published. */
  #forgetIfUnused(pool: string): void {
    if (this.#pools.get(pool)?.isEmpty !== true) return;
    for (const { spec } of this.#listeners.values()) if (spec.pool === pool) return;
    this.#pools.delete(pool);
  }

  /** A pool that was not published yet is empty. */
  #poolView(pool: string): PoolView {
    let view = this.#pools.get(pool);
    if (view === undefined) {
      view = new PoolView(new BackendPool(pool).snapshot(), this.#options.liveOf?.(pool));
      this.#pools.set(pool, view);
    }
    return view;
  }
}

function everyByTimer(periodMs: number, run: () => void): () => void {
  const timer = setInterval(run, periodMs).unref();
  return () => clearInterval(timer);
}
