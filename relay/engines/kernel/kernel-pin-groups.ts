/**
 * Pins that listeners share, from the engine's side: what each listener's programs need to translate between their pool and
 * the group (`pin_views`), and the questions of listeners that are not the engine's. The decisions are those of
 * core/group-pins.ts, on maps that the programs write at the same time: so a pin is changed by the steward, and only if it is
 * still the one that the decision was made on.
 *
 * Holds of listeners outside are kept here and not in the maps: they end with this process, as their connections do. A relay
 * that takes maps over begins without pins of groups, since references of groups are counted anew; the listeners' own pins
 * say where clients are.
 */
import { IpAddress } from '../../../net/address.ts';
import { NO_BACKEND_REF, slotOf, type BackendRef } from '../../core/backend-ref.ts';
import { MAX_LISTENERS } from '../../core/limits.ts';
import { type PinGroup, PinGroups, type PinGroupSpec, type PinRequest } from '../../core/pin-group.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import { MapWalk } from './bpf-map.ts';
import type { KernelMaps } from './kernel-maps.ts';
import type { KernelListener } from './listener-table.ts';
import type { Bpf } from './loader.ts';
import { PIN, PIN_CLAIM, PIN_KEY, PIN_VIEW, PIN_VIEW_ENTRY } from './records.ts';
import type { Steward } from './steward.ts';

/** Attempts to change a pin while the programs do. */
const ATTEMPTS = 8;

/** Pins that one step of a walk takes. */
const BATCH = 512;

const NS_PER_MS = 1e6;

export interface KernelPinGroupsOptions {
  readonly bpf: Bpf;
  readonly maps: KernelMaps;
  readonly steward: Steward;
  readonly listeners: () => readonly KernelListener[];
  readonly nowNs: () => number;
}

/** A pin as it was read. */
interface Pin {
  readonly ref: BackendRef;
  readonly live: number;
  readonly lastUsedNs: number;
}

export class KernelPinGroups {
  readonly #options: KernelPinGroupsOptions;
  readonly #groups = new PinGroups();
  /** Listeners that have a view. */
  readonly #views = new Set<number>();
  /** By `scope address`. */
  readonly #holds = new Map<string, number>();
  readonly #value = new DataView(new ArrayBuffer(PIN.size));

  constructor(options: KernelPinGroupsOptions) {
    this.#options = options;
  }

  /** Makes the groups those of `wanted`. The pins of those that are gone go before anything else can be theirs. */
  set(wanted: readonly PinGroupSpec[], snapshotOf: (pool: string) => PoolSnapshot): void {
    const gone = this.#groups.set(wanted, snapshotOf);
    this.writeViews();
    if (gone.length > 0) this.#forget((scope) => gone.some((group) => group.scope === scope));
  }

  publish(snapshot: PoolSnapshot): void {
    this.#groups.publish(snapshot);
  }

  /** Forgets what a relay before this one left of its groups. */
  forgetAdopted(): void {
    let found = false;
    for (let index = 0; index < MAX_LISTENERS; index++) {
      found = this.#options.maps.maps.pin_views.delete(keyOfView(index)) || found;
    }
    if (found) this.#forget((scope) => scope >= MAX_LISTENERS);
  }

  /** A listener, a pool or a group has changed. While the maps are held the programs know nothing of it. */
  writeViews(): void {
    if (this.#options.maps.isHeld) return;
    for (const listener of this.#options.listeners()) this.#writeView(listener);
  }

  /** A listener is gone. */
  removeView(index: number): void {
    if (!this.#views.delete(index)) return;
    this.#options.maps.maps.pin_views.delete(keyOfView(index));
  }

  /** @returns id of the backend to take: the pin's, or else the proposal */
  request(request: PinRequest): string | undefined {
    const { client, proposal, hold } = request;
    const group = this.#groups.get(request.group);
    if (group === undefined || this.#options.maps.isHeld) return proposal;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const key = pinKey(client, group.scope);
      const pin = this.#read(key);
      const backend = this.#decide(group, pin, request);
      if (backend === undefined || (proposal === undefined && !hold)) return backend;
      const ref = group.refOf(backend);
      if (ref === NO_BACKEND_REF) return backend;
      this.#claim(key, { expected: pin?.ref ?? NO_BACKEND_REF, ref, lastUsedNs: this.#options.nowNs() });
      if (this.#options.steward.flush() === 0) continue;
      if (hold) this.#hold(key, 1);
      return backend;
    }
    // The table is full of clients that have sessions.
    return proposal;
  }

  /** Ends a hold. */
  letGo(groupName: string, client: Uint32Array): void {
    const group = this.#groups.get(groupName);
    if (group === undefined) return;
    const key = pinKey(client, group.scope);
    if (!this.#hold(key, -1)) return;
    const pin = this.#read(key);
    if (pin !== undefined) this.#touch(key, pin, this.#options.nowNs());
    this.#options.steward.flush();
  }

  /** Whether the sweeper shall have the pin of a group forgotten: nobody holds it, and its time is over. */
  isOver(key: Uint8Array, value: DataView, at: number): boolean {
    const scope = viewOf(key).getUint32(PIN_KEY.at.listener, true);
    const group = this.#groups.at(scope);
    if (group === undefined) return true;
    const timeoutNs = group.pinTimeoutMs * NS_PER_MS;
    const pin = readPin(value, at);
    const nowNs = this.#options.nowNs();
    if (nowNs - pin.lastUsedNs < timeoutNs || this.#holds.has(textOf(key))) return false;
    const client = IpAddress.fromWords(new Uint32Array(key.slice(0, PIN_KEY.bytes.address).buffer)).words;
    let lastUsedNs = pin.lastUsedNs;
    for (const [, own] of this.#ownPins(group, client)) {
      lastUsedNs = Math.max(lastUsedNs, own.live > 0 ? nowNs : own.lastUsedNs);
    }
    if (nowNs - lastUsedNs >= timeoutNs) return true;
    this.#touch(key, pin, lastUsedNs);
    return false;
  }

  #decide(group: PinGroup, pin: Pin | undefined, request: PinRequest): string | undefined {
    const { client, pool, proposal, instead } = request;
    const pinned = pin === undefined ? undefined : group.idOf(pin.ref);
    if (pinned !== undefined && pinned !== instead && group.isUsable(pool, pinned)) return pinned;
    for (const [listener, own] of this.#ownPins(group, client)) {
      if (instead !== undefined && own.live === 0) continue;
      const id = listener.pool.backendOf(own.ref)?.id;
      if (id !== undefined && group.isUsable(listener.spec.pool, id) && group.isUsable(pool, id)) return id;
    }
    return proposal;
  }

  /** The pins of the client on the group's own listeners. */
  *#ownPins(group: PinGroup, client: Uint32Array): Generator<readonly [KernelListener, Pin]> {
    for (const listener of this.#options.listeners()) {
      if (listener.spec.pinGroup !== group.name) continue;
      const own = this.#read(pinKey(client, listener.index));
      if (own !== undefined) yield [listener, own];
    }
  }

  #read(key: Uint8Array): Pin | undefined {
    const bytes = new Uint8Array(this.#value.buffer);
    return this.#options.maps.maps.pins.lookup(key, bytes) ? readPin(this.#value, 0) : undefined;
  }

  #touch(key: Uint8Array, { ref }: Pin, lastUsedNs: number): void {
    this.#claim(key, { expected: ref, ref, lastUsedNs });
  }

  #claim(key: Uint8Array, claim: { expected: BackendRef; ref: BackendRef; lastUsedNs: number }): void {
    const bytes = new Uint8Array(PIN_CLAIM.size);
    bytes.set(key);
    const view = viewOf(bytes);
    view.setUint32(PIN_CLAIM.at.expected, claim.expected, true);
    view.setUint32(PIN_CLAIM.at.ref, claim.ref, true);
    view.setBigUint64(PIN_CLAIM.at.lastUsedNsLow, BigInt(Math.round(claim.lastUsedNs)), true);
    this.#options.steward.add('claimPin', bytes);
  }

  /** @returns whether there is, or was, a hold */
  #hold(key: Uint8Array, by: 1 | -1): boolean {
    const text = textOf(key);
    const holds = this.#holds.get(text) ?? 0;
    if (holds + by > 0) this.#holds.set(text, holds + by);
    else this.#holds.delete(text);
    return holds + by >= 0;
  }

  #forget(isGone: (scope: number) => boolean): void {
    const { bpf, maps, steward } = this.#options;
    const walk = new MapWalk(bpf, maps.maps.pins, BATCH);
    try {
      for (let isEnd = false; !isEnd;) {
        const step = walk.step();
        isEnd = step.isEnd;
        for (let i = 0; i < step.count; i++) {
          const key = walk.keys.subarray(i * PIN_KEY.size, (i + 1) * PIN_KEY.size);
          if (isGone(viewOf(key).getUint32(PIN_KEY.at.listener, true))) steward.add('endPin', key);
        }
        steward.flush();
      }
    } finally {
      walk.close();
    }
  }

  #writeView({ index, spec, pool }: KernelListener): void {
    const group = this.#groups.get(spec.pinGroup);
    if (group === undefined) {
      this.removeView(index);
      return;
    }
    const bytes = new Uint8Array(PIN_VIEW.size);
    const view = viewOf(bytes);
    view.setUint32(PIN_VIEW.at.scope, group.scope, true);
    const write = (table: 'groups' | 'backends', own: BackendRef, other: BackendRef): void => {
      const at = PIN_VIEW.at[table] + slotOf(own) * PIN_VIEW_ENTRY.size;
      view.setUint32(at + PIN_VIEW_ENTRY.at.own, own, true);
      view.setUint32(at + PIN_VIEW_ENTRY.at.other, other, true);
    };
    for (const { ref, entry, isUsable } of pool.backends()) {
      const groupRef = group.refOf(entry.id);
      if (groupRef === NO_BACKEND_REF) continue;
      write('backends', ref, groupRef);
      write('groups', groupRef, isUsable ? ref : NO_BACKEND_REF);
    }
    this.#options.maps.maps.pin_views.update(keyOfView(index), bytes);
    this.#views.add(index);
  }
}

function readPin(value: DataView, at: number): Pin {
  return {
    ref: value.getUint32(at + PIN.at.ref, true),
    live: value.getUint32(at + PIN.at.live, true),
    lastUsedNs: Number(value.getBigUint64(at + PIN.at.lastUsedNs, true)),
  };
}

function pinKey(client: Uint32Array, scope: number): Uint8Array {
  const key = new Uint8Array(PIN_KEY.size);
  key.set(new Uint8Array(client.buffer, client.byteOffset, PIN_KEY.bytes.address), PIN_KEY.at.address);
  viewOf(key).setUint32(PIN_KEY.at.listener, scope, true);
  return key;
}

function keyOfView(index: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(index).buffer);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function textOf(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('latin1');
}
