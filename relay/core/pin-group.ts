/**
 * What the listeners of one `pinGroup` share: the backend of a client IP, whichever of them it comes to first. Their pools
 * may differ, as a login port and a game port of one server do, so a group knows backends by id. It gives each id a slot
 * and a reference of its own (backend-ref.ts), and translates between those and the references of each pool:
 *
 *     pin of the group: client IP -> reference of the group  --id-->  reference of the asking listener's pool
 *
 * A backend that fails or leaves, in any pool of the group, gets the next incarnation here too: the group's pins that name it
 * are released at that moment, without a search. Ids beyond MAX_BACKENDS have no slot, and so no pins of the group.
 */
import { backendRef, nextIncarnation, NO_BACKEND_REF, slotOf, type BackendRef } from './backend-ref.ts';
import { MAX_BACKENDS, MAX_LISTENERS } from './limits.ts';
import type { PoolSnapshot } from './pool-snapshot.ts';

export interface PinGroupSpec {
  readonly name: string;
  /** Of all its listeners. */
  readonly pools: readonly string[];
  /** How long a pin outlives the client's last session or connection. */
  readonly pinTimeoutMs: number;
}

/** What a listener that is no UDP engine's asks of the pins of its group. */
export interface PinRequest {
  readonly group: string;
  /** A v4-mapped or IPv6 address as 4 words. */
  readonly client: Uint32Array;
  /** The asker's, in which the pin's backend must be usable. */
  readonly pool: string;
  /** Id of the backend that is to be the pin where none can be followed; absent: none is made. */
  readonly proposal?: string | undefined;
  /** Id of a backend that could not be reached: the proposal is the pin in its place, unless the client plays on it. */
  readonly instead?: string | undefined;
  /** The pin is used from now on, and so lives, until it is let go. */
  readonly hold: boolean;
}

/** A group as one of its pools sees it. Its arrays are the group's own, and change with each publication. */
export class PinGroupView {
  readonly group: PinGroup;
  /** By slot of the group: the pool's reference where the backend is usable there, else NO_BACKEND_REF. */
  readonly usable = new Uint32Array(MAX_BACKENDS);
  /** By slot of the pool: the group's reference. */
  readonly refs = new Uint32Array(MAX_BACKENDS);

  constructor(group: PinGroup) {
    this.group = group;
  }

  /** The backend of this pool that a reference of the group means, if usable, else NO_BACKEND_REF. */
  follow(groupRef: BackendRef): BackendRef {
    return this.group.isCurrent(groupRef) ? this.usable[slotOf(groupRef)]! : NO_BACKEND_REF;
  }

  /** The group's reference of a backend that is in this pool now, or NO_BACKEND_REF. */
  refOf(poolRef: BackendRef): BackendRef {
    return this.refs[slotOf(poolRef)]!;
  }
}

export class PinGroup {
  readonly name: string;
  /** Of its pins in the pin table, above those of listeners. */
  readonly scope: number;
  pinTimeoutMs: number;
  readonly #snapshots = new Map<string, PoolSnapshot>();
  readonly #views = new Map<string, PinGroupView>();
  readonly #slots = new Map<string, number>();
  /** By slot. */
  readonly #ids: (string | undefined)[] = [];
  /** By slot: the reference that its backend has or, in a free slot, that the next one gets. */
  readonly #refs: BackendRef[] = [];

  /** @param index 0 to MAX_LISTENERS - 1, unique among groups that exist */
  constructor(name: string, index: number) {
    this.name = name;
    this.scope = MAX_LISTENERS + index;
    this.pinTimeoutMs = 0;
  }

  /** The pools of the group, as they are now. Pools that it had before keep what they were. */
  setPools(snapshots: readonly PoolSnapshot[]): void {
    const names = new Set(snapshots.map(({ pool }) => pool));
    for (const name of [...this.#snapshots.keys()]) {
      if (names.has(name)) continue;
      this.#snapshots.delete(name);
      this.#views.delete(name);
    }
    for (const snapshot of snapshots) {
      if (!this.#snapshots.has(snapshot.pool)) this.#snapshots.set(snapshot.pool, snapshot);
    }
    this.#assignSlots();
    this.#fillViews();
  }

  /** Of no consequence for a pool that is not one of the group's. */
  publish(snapshot: PoolSnapshot): void {
    const before = this.#snapshots.get(snapshot.pool);
    if (before === undefined) return;
    this.#snapshots.set(snapshot.pool, snapshot);
    for (const entry of before.backends) {
      if (entry === undefined || before.usable[entry.slot] === NO_BACKEND_REF) continue;
      if (before.usable[entry.slot] !== snapshot.usable[entry.slot]) this.#release(entry.id);
    }
    this.#assignSlots();
    this.#fillViews();
  }

  /** The group as a pool of its own sees it. */
  view(pool: string): PinGroupView {
    let view = this.#views.get(pool);
    if (view === undefined) this.#views.set(pool, (view = new PinGroupView(this)));
    return view;
  }

  /** Whether the reference still means a backend of the group. */
  isCurrent(ref: BackendRef): boolean {
    return ref !== NO_BACKEND_REF && this.#refs[slotOf(ref)] === ref && this.#ids[slotOf(ref)] !== undefined;
  }

  /** The backend that the reference still means, or undefined. */
  idOf(ref: BackendRef): string | undefined {
    return this.isCurrent(ref) ? this.#ids[slotOf(ref)] : undefined;
  }

  /** The reference of the backend with this id, or NO_BACKEND_REF. */
  refOf(id: string): BackendRef {
    const slot = this.#slots.get(id);
    return slot === undefined ? NO_BACKEND_REF : this.#refs[slot]!;
  }

  /** Whether a pool of the group has this backend and it is ready or draining. */
  isUsable(pool: string, id: string): boolean {
    return this.view(pool).follow(this.refOf(id)) !== NO_BACKEND_REF;
  }

  #release(id: string): void {
    const slot = this.#slots.get(id);
    if (slot !== undefined) this.#refs[slot] = nextIncarnation(this.#refs[slot]!);
  }

  /** Ids that are gone free their slots, new ones take the lowest that are free. */
  #assignSlots(): void {
    const present = new Set<string>();
    for (const { backends } of this.#snapshots.values()) {
      for (const entry of backends) if (entry !== undefined) present.add(entry.id);
    }
    for (const [id, slot] of [...this.#slots]) {
      if (present.has(id)) continue;
      this.#release(id);
      this.#slots.delete(id);
      this.#ids[slot] = undefined;
    }
    for (const id of present) {
      if (this.#slots.has(id)) continue;
      const free = this.#ids.indexOf(undefined);
      const slot = free === -1 ? this.#ids.length : free;
      if (slot === MAX_BACKENDS) return;
      this.#slots.set(id, slot);
      this.#ids[slot] = id;
      this.#refs[slot] ??= backendRef(slot, 1);
    }
  }

  #fillViews(): void {
    for (const [pool, { backends, usable }] of this.#snapshots) {
      const view = this.view(pool);
      view.usable.fill(NO_BACKEND_REF);
      view.refs.fill(NO_BACKEND_REF);
      for (const entry of backends) {
        const slot = entry && this.#slots.get(entry.id);
        if (slot === undefined) continue;
        view.refs[entry!.slot] = this.#refs[slot]!;
        view.usable[slot] = usable[entry!.slot]!;
      }
    }
  }
}

/** The groups of one engine by name, and the pools that they need. */
export class PinGroups {
  readonly #byName = new Map<string, PinGroup>();
  /** By index: scope - MAX_LISTENERS. */
  readonly #byIndex: (PinGroup | undefined)[] = [];

  get(name: string | undefined): PinGroup | undefined {
    return name === undefined ? undefined : this.#byName.get(name);
  }

  /** The group whose pins have this scope. */
  at(scope: number): PinGroup | undefined {
    return this.#byIndex[scope - MAX_LISTENERS];
  }

  /**
   * Makes the groups those of `wanted`: one that stays keeps its pins.
   *
   * @param snapshotOf the pool as it was published last
   * @returns the groups that are gone, whose pins are the caller's to forget
   */
  set(wanted: readonly PinGroupSpec[], snapshotOf: (pool: string) => PoolSnapshot): readonly PinGroup[] {
    const gone = [...this.#byName.values()].filter(({ name }) => !wanted.some((spec) => spec.name === name));
    for (const group of gone) {
      this.#byName.delete(group.name);
      this.#byIndex[group.scope - MAX_LISTENERS] = undefined;
    }
    for (const { name, pools, pinTimeoutMs } of wanted) {
      const group = this.#byName.get(name) ?? this.#add(name);
      group.pinTimeoutMs = pinTimeoutMs;
      group.setPools(pools.map(snapshotOf));
    }
    return gone;
  }

  publish(snapshot: PoolSnapshot): void {
    for (const group of this.#byName.values()) group.publish(snapshot);
  }

  #add(name: string): PinGroup {
    const free = this.#byIndex.indexOf(undefined);
    const index = free === -1 ? this.#byIndex.length : free;
    const group = new PinGroup(name, index);
    this.#byIndex[index] = group;
    this.#byName.set(name, group);
    return group;
  }
}
