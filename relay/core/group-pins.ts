/**
 * The pins that listeners share (pin-group.ts), in the pin table beside those of each listener. A listener's own pin keeps its
 * client's sessions and tokens as ever, and names the backend that the client was last given there.
 *
 * Whoever needs a backend for a client IP asks in this order:
 *
 *     a UDP listener   the group's pin; its own pin; its algorithm
 *     anybody else     the group's pin; the own pins of the group's UDP listeners; its algorithm
 *
 * each only if its backend is ready or draining in the asker's pool; and what it took becomes the group's pin.
 */
import { NO_BACKEND_REF, type BackendRef } from './backend-ref.ts';
import type { ListenerState } from './listener-state.ts';
import {
  type PinGroup,
  PinGroups,
  type PinGroupSpec,
  type PinGroupView,
  type PinRequest,
} from './pin-group.ts';
import type { PinTable } from './pin-table.ts';
import type { PoolSnapshot } from './pool-snapshot.ts';
import { RECORD_WORDS } from './record-table.ts';

export class GroupPins {
  readonly groups = new PinGroups();
  readonly #pins: PinTable;
  readonly #listeners: readonly (ListenerState | undefined)[];

  constructor(pins: PinTable, listeners: readonly (ListenerState | undefined)[]) {
    this.#pins = pins;
    this.#listeners = listeners;
  }

  /** Makes the groups those of `wanted`, and forgets the pins of those that are gone. */
  set(wanted: readonly PinGroupSpec[], snapshotOf: (pool: string) => PoolSnapshot, nowMs: number): void {
    for (const { scope } of this.groups.set(wanted, snapshotOf)) this.#pins.forgetAll(scope, nowMs);
  }

  /** The backend in the listener's pool that the group's pin names, if it is usable there, else NO_BACKEND_REF. */
  follow(view: PinGroupView, words: Uint32Array, at: number): BackendRef {
    const id = this.#pins.find(view.group.scope, words, at);
    return id === -1 ? NO_BACKEND_REF : view.follow(this.#pins.backendRef(id));
  }

  /** The client got this backend of the listener's pool. A full table may have no room for it: then it is not kept. */
  write(view: PinGroupView, poolRef: BackendRef, words: Uint32Array, at: number, nowMs: number): void {
    const ref = view.refOf(poolRef);
    if (ref !== NO_BACKEND_REF) this.#write(view.group, ref, words, at, nowMs);
  }

  /** @returns id of the backend to take: the pin's, or else the proposal */
  request(request: PinRequest, nowMs: number): string | undefined {
    const { client, proposal, hold } = request;
    const group = this.groups.get(request.group);
    if (group === undefined) return proposal;
    const backend = this.#decide(group, request);
    if (backend === undefined || (proposal === undefined && !hold)) return backend;
    const ref = group.refOf(backend);
    if (ref === NO_BACKEND_REF) return backend;
    const id = this.#write(group, ref, client, 0, nowMs);
    if (id === -1) return backend;
    // Whoever asks has proven the address: a TCP connection is open.
    this.#pins.confirm(id);
    if (hold) this.#pins.sessionOpened(id, nowMs);
    return backend;
  }

  /** Ends a hold. Of no consequence where the pin is gone. */
  letGo(groupName: string, client: Uint32Array, nowMs: number): void {
    const group = this.groups.get(groupName);
    if (group === undefined) return;
    const id = this.#pins.find(group.scope, client, 0);
    if (id !== -1 && this.#pins.liveSessions(id) > 0) this.#pins.sessionEnded(id, nowMs);
  }

  /** Forgets the group's pin if nobody holds it and its time, and that of the client's own pins, is over. */
  expire(id: number, nowMs: number): void {
    const pins = this.#pins;
    const group = this.groups.at(pins.scope(id));
    if (group === undefined || !pins.isExpired(id, nowMs, group.pinTimeoutMs)) return;
    const { words } = pins.records;
    for (const listener of this.#listeners) {
      if (listener?.group?.group !== group) continue;
      const own = pins.find(listener.index, words, id * RECORD_WORDS);
      if (own !== -1) pins.touchWith(id, own, nowMs);
    }
    if (pins.isExpired(id, nowMs, group.pinTimeoutMs)) pins.records.remove(id);
  }

  #decide(group: PinGroup, { client, pool, proposal, instead }: PinRequest): string | undefined {
    const id = this.#pins.find(group.scope, client, 0);
    const pinned = id === -1 ? undefined : group.idOf(this.#pins.backendRef(id));
    if (pinned !== undefined && pinned !== instead && group.isUsable(pool, pinned)) return pinned;
    return this.#playedOn(group, pool, client, instead !== undefined) ?? proposal;
  }

  /** Id of the backend that an own pin of a UDP listener names, if it is usable there and in `pool`. */
  #playedOn(group: PinGroup, pool: string, client: Uint32Array, needsSession: boolean): string | undefined {
    for (const listener of this.#listeners) {
      if (listener?.group?.group !== group) continue;
      const own = this.#pins.find(listener.index, client, 0);
      if (own === -1 || (needsSession && this.#pins.liveSessions(own) === 0)) continue;
      const ref = this.#pins.backendRef(own);
      const id = listener.pool.isUsable(ref) ? listener.pool.backendOf(ref)?.id : undefined;
      if (id !== undefined && group.isUsable(pool, id)) return id;
    }
    return undefined;
  }

  #write(group: PinGroup, ref: BackendRef, words: Uint32Array, at: number, nowMs: number): number {
    let id = this.#pins.find(group.scope, words, at);
    if (id === -1) id = this.#pins.add(group.scope, words, at, nowMs);
    if (id === -1) return -1;
    this.#pins.setBackendRef(id, ref);
    this.#pins.touch(id, nowMs);
    return id;
  }
}
