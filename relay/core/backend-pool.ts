/**
 * The backends of one pool and what is known about each: health, drain, operator's switch, weight. The control plane
 * changes the pool; `snapshot()` is what the data planes get to see of it.
 *
 * A backend keeps its slot for life; the lowest free slot is reused. Its reference (backend-ref.ts) gets the next
 * incarnation each time the backend stops being usable and when it is removed. A slot remembers its last incarnation, so
 * a reference never means two things.
 */
import assert from 'node:assert/strict';
import type { Endpoint } from '../../net/address.ts';
import { backendRef, nextIncarnation, NO_BACKEND_REF, type BackendRef } from './backend-ref.ts';
import { EndpointIndex } from './endpoint-index.ts';
import { MAX_BACKENDS, MAX_WEIGHT } from './limits.ts';
import { buildMaglev } from './maglev.ts';
import type { BackendEntry, BackendState, PoolSnapshot } from './pool-snapshot.ts';
import { buildRotation } from './rotation.ts';

export interface BackendSpec {
  /** Unique in the pool. */
  readonly id: string;
  /** Unique in the pool. */
  readonly endpoint: Endpoint;
  /** 1..MAX_WEIGHT, relative to the other backends. */
  readonly weight: number;
  /** TCP connections that it may have at once; 0, the default: no bound. */
  readonly maxConnections?: number;
  /** Whether it counts as healthy before its first check; true by default. */
  readonly healthy?: boolean;
}

/** A backend as it was when asked for; a later change makes a new one. */
export interface Backend extends BackendEntry {
  readonly healthy: boolean;
  readonly draining: boolean;
  readonly enabled: boolean;
}

type Condition = Pick<Backend, 'healthy' | 'draining' | 'enabled' | 'weight' | 'maxConnections'>;

export class BackendPool {
  readonly name: string;
  /** By slot. */
  readonly #backends: (Backend | undefined)[] = [];
  readonly #slots = new Map<string, number>();
  /** The reference that each slot's backend has or, in a free slot, that the next one gets. */
  readonly #refs: BackendRef[] = [];
  /** The newest snapshot and whether it still tells the truth. */
  #snapshot: PoolSnapshot | undefined;
  #changed = false;
  #index: EndpointIndex | undefined;

  constructor(name: string) {
    this.name = name;
  }

  get isFull(): boolean {
    return this.#slots.size === MAX_BACKENDS;
  }

  /** Adds a backend. Id and endpoint must be new, the weight in range and the pool not full. */
  add({ id, endpoint, weight, maxConnections = 0, healthy = true }: BackendSpec): void {
    assert(!this.isFull, 'the pool is full');
    assert(!this.#slots.has(id), `backend "${id}" is already in the pool`);
    assert(!this.hasEndpoint(endpoint), `${endpoint.toString()} is already in the pool`);
    assertWeight(weight);
    const slot = this.#lowestFreeSlot();
    this.#refs[slot] ??= backendRef(slot, 1);
    const condition = { healthy, draining: false, enabled: true, weight, maxConnections };
    this.#slots.set(id, slot);
    this.#backends[slot] = {
      slot,
      ref: this.#refs[slot],
      id,
      endpoint,
      ...condition,
      state: stateOf(condition),
    };
    this.#changed = true;
    this.#index = undefined;
  }

  /** Returns whether there was such a backend. */
  remove(id: string): boolean {
    const slot = this.#slots.get(id);
    if (slot === undefined) return false;
    this.#slots.delete(id);
    this.#backends[slot] = undefined;
    this.#refs[slot] = nextIncarnation(this.#refs[slot]!);
    this.#changed = true;
    this.#index = undefined;
    return true;
  }

  // The setters return whether anything changed. An unknown id changes nothing.

  /** What the health checks say. */
  setHealthy(id: string, healthy: boolean): boolean {
    return this.#set(id, 'healthy', healthy);
  }

  /** A draining backend keeps its players and takes no new ones. */
  setDraining(id: string, draining: boolean): boolean {
    return this.#set(id, 'draining', draining);
  }

  /** The operator's switch. */
  setEnabled(id: string, enabled: boolean): boolean {
    return this.#set(id, 'enabled', enabled);
  }

  setWeight(id: string, weight: number): boolean {
    assertWeight(weight);
    return this.#set(id, 'weight', weight);
  }

  setMaxConnections(id: string, maxConnections: number): boolean {
    return this.#set(id, 'maxConnections', maxConnections);
  }

  get(id: string): Backend | undefined {
    const slot = this.#slots.get(id);
    return slot === undefined ? undefined : this.#backends[slot];
  }

  /** All backends, by slot. */
  list(): readonly Backend[] {
    return this.#backends.filter((backend) => backend !== undefined);
  }

  hasEndpoint(endpoint: Endpoint): boolean {
    return this.list().some((backend) => backend.endpoint.equals(endpoint));
  }

  /**
   * The pool as it is now: the same object until something changes, and never touched after that. The arrays by slot
   * have room for every slot, so that the slot of any reference is within bounds.
   */
  snapshot(): PoolSnapshot {
    if (this.#snapshot === undefined || this.#changed) this.#snapshot = this.#takeSnapshot(this.#snapshot);
    this.#changed = false;
    return this.#snapshot;
  }

  #takeSnapshot(previous: PoolSnapshot | undefined): PoolSnapshot {
    const backends = this.list();
    const ready = backends.filter(({ state }) => state === 'ready');
    const usable = new Uint32Array(MAX_BACKENDS).fill(NO_BACKEND_REF);
    const weights = new Uint16Array(MAX_BACKENDS);
    for (const { slot, ref, weight, state } of backends) {
      if (isUsable(state)) usable[slot] = ref;
      weights[slot] = weight;
    }
    this.#index ??= new EndpointIndex(backends);
    const { words, ports, slotAt } = this.#index;
    // The tables cost milliseconds; most changes leave the ready backends as they are.
    const tables = previous !== undefined && sameReady(previous, ready) ? previous : buildTables(ready);
    return {
      pool: this.name,
      epoch: (previous?.epoch ?? 0) + 1,
      backends: this.#backends.slice(),
      usable,
      ready: Uint16Array.from(ready, ({ slot }) => slot),
      weights,
      words,
      ports,
      maglev: tables.maglev,
      rotation: tables.rotation,
      slotAt,
    };
  }

  #lowestFreeSlot(): number {
    const free = this.#backends.indexOf(undefined);
    return free === -1 ? this.#backends.length : free;
  }

  #set<K extends keyof Condition>(id: string, key: K, value: Condition[K]): boolean {
    const backend = this.get(id);
    if (backend === undefined || backend[key] === value) return false;
    const changed = { ...backend, [key]: value };
    const state = stateOf(changed);
    const { slot } = backend;
    if (isUsable(backend.state) && !isUsable(state)) this.#refs[slot] = nextIncarnation(backend.ref);
    this.#backends[slot] = { ...changed, state, ref: this.#refs[slot]! };
    this.#changed = true;
    return true;
  }
}

function stateOf({
  healthy,
  draining,
  enabled,
}: Pick<Condition, 'healthy' | 'draining' | 'enabled'>): BackendState {
  if (!enabled) return 'disabled';
  if (!healthy) return 'unhealthy';
  return draining ? 'draining' : 'ready';
}

function isUsable(state: BackendState): boolean {
  return state === 'ready' || state === 'draining';
}

/** Whether these are the backends, endpoints and weights that the snapshot's tables were built from. */
function sameReady(previous: PoolSnapshot, ready: readonly Backend[]): boolean {
  return (
    previous.ready.length === ready.length &&
    ready.every(({ slot, weight, endpoint }, i) => {
      const before = previous.backends[slot];
      return previous.ready[i] === slot && before?.weight === weight && before.endpoint.equals(endpoint);
    })
  );
}

function buildTables(ready: readonly Backend[]): Pick<PoolSnapshot, 'maglev' | 'rotation'> {
  return { maglev: buildMaglev(ready), rotation: buildRotation(ready) };
}

function assertWeight(weight: number): void {
  assert(
    Number.isInteger(weight) && weight >= 1 && weight <= MAX_WEIGHT,
    `weight must be 1 to ${MAX_WEIGHT}, not ${weight}`,
  );
}
