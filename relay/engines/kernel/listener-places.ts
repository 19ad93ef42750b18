/**
 * Which listener has which index in the maps, in this relay and in one before it: what the tables of UDP and of TCP listeners have in
 * common. An index outlives its listener until all that this left has ended.
 *
 *     addPlace: an index of its own, or the one that a relay before this one gave it  ->  takePlace: lets nothing in  ->  free
 */
import assert from 'node:assert/strict';
import type { Endpoint, IpAddress } from '../../../net/address.ts';
import type { Names } from './kernel-maps.ts';
import { announce, freeIndex, identityOf, LISTENER_INDEXES, localOf } from './listener-address.ts';
import type { ListenerSource } from './listener-source.ts';
import type { MappedArray } from './mapped-array.ts';
import type { PoolWriter } from './pool-writer.ts';

export interface ListenerPlace<Spec> {
  readonly index: number;
  readonly local: Endpoint;
  readonly pool: PoolWriter;
  readonly spec: Spec;
}

interface PlacesOptions {
  readonly names: Names;
  /** By port; what the programs look at first. */
  readonly ports: MappedArray;
  readonly source: ListenerSource;
  /** Whether the programs still go by what a relay before this one wrote. */
  readonly isHeld: () => boolean;
  /** Behind the identity of each listener: what else makes it the same one. */
  readonly mark?: string;
}

export abstract class ListenerPlaces<
  Spec extends { readonly name: string; readonly pool: string },
  L extends ListenerPlace<Spec>,
> {
  readonly #options: PlacesOptions;
  readonly #byName = new Map<string, L>();
  readonly #byIndex: (L | undefined)[] = [];

  constructor(options: PlacesOptions) {
    this.#options = options;
  }

  get(name: string): L | undefined {
    return this.#byName.get(name);
  }

  at(index: number): L | undefined {
    return this.#byIndex[index];
  }

  all(): readonly L[] {
    return [...this.#byName.values()];
  }

  /** Whether a listener has this index, or one of a relay before this one that may still be claimed. */
  isKnown(index: number): boolean {
    return this.#options.names.listener(index) !== '';
  }

  /** Whether a relay before this one left listeners, or something of one that it was about to remove. */
  get hasLeftovers(): boolean {
    const { names } = this.#options;
    return LISTENER_INDEXES.some((index) => !names.isFree(index) && this.#byIndex[index] === undefined);
  }

  /** Lets players in to the listeners that opened while the maps were held. */
  takeOver(): void {
    for (const listener of this.all()) this.letIn(listener);
  }

  update(spec: Spec): void {
    const before = this.#byName.get(spec.name);
    assert(before !== undefined, 'no such listener');
    this.#keep({ ...before, spec });
  }

  /**
   * Removes what a relay before this one listened on and this one does not.
   *
   * @returns the indexes, also of those that the relay before this one was about to remove: to be freed when all they left has ended
   */
  removeUnclaimed(): readonly number[] {
    const { names } = this.#options;
    for (const index of LISTENER_INDEXES) {
      const identity = names.listener(index);
      if (identity !== '' && this.#byIndex[index] === undefined) this.#forget(index, localOf(identity));
    }
    return LISTENER_INDEXES.filter((index) => names.isLeaving(index));
  }

  /** All that the removed listener left has ended: another one may have its index. */
  free(index: number): void {
    this.#options.names.freeListener(index);
  }

  /**
   * The pool has other backends: with sourceAddress `relay` another address of this host may lead to them.
   *
   * @returns this host's addresses towards the backends; of a pool without listeners none
   */
  refresh(pool: PoolWriter): readonly IpAddress[] {
    const { source } = this.#options;
    const listeners = this.all().filter((listener) => listener.pool === pool);
    for (const { index } of listeners) source.writeAddresses(index, pool);
    return listeners.length === 0 ? [] : source.addresses(pool);
  }

  /**
   * Lets players in. A listener that a relay before this one had keeps its index, and so its sessions or connections and its counters,
   * unless backends would see another source than before.
   *
   * @param listener all of it but the index
   * @throws RelayError TICKRELAY_ERR_LIMIT when there is no index or no relay port for it
   */
  protected addPlace(listener: Omit<L, 'index'>): L {
    const { names, ports, source, isHeld, mark = '' } = this.#options;
    const { spec, local } = listener;
    const identity = identityOf(spec, local) + mark;
    const kept = LISTENER_INDEXES.find((i) => names.listener(i) === identity && source.canKeep(i));
    const isNew = kept === undefined;
    const index = kept ?? freeIndex(names, spec);
    const range = source.choose(index, { name: spec.name, isNew });
    if (isNew) this.clear(index);
    names.setListener(index, identity);
    source.give(index, range);
    const added = { ...listener, index } as L;
    this.#keep(added);
    announce(ports, names, local.port);
    if (!isHeld()) this.letIn(added);
    return added;
  }

  /** Lets nothing more in to the listener, and has it no more. While the maps are held nothing changes for the programs. */
  protected takePlace(name: string): L {
    const listener = this.#byName.get(name);
    assert(listener !== undefined, 'no such listener');
    this.#byName.delete(name);
    this.#byIndex[listener.index] = undefined;
    // While the maps are held its index may be one of a relay before this one; then it is one that nobody has claimed.
    if (!this.#options.isHeld()) this.#forget(listener.index, listener.local);
    return listener;
  }

  /** @returns the listeners, of which the table has none any more; what the programs know stays */
  protected dropAll(): readonly L[] {
    const all = this.all();
    this.#byName.clear();
    this.#byIndex.length = 0;
    return all;
  }

  /** The programs find the listener by its address from now on. */
  protected abstract letIn(listener: L): void;
  /** The programs find no listener by this address any more. */
  protected abstract shut(local: Endpoint): void;
  /** Nothing of what had the index before is left in its rules and counters. */
  protected abstract clear(index: number): void;
  protected abstract writeRules(listener: L): void;
  /** What only one protocol has of the listener is forgotten. */
  protected abstract leave(index: number, local: Endpoint): void;

  #keep(listener: L): void {
    this.#byName.set(listener.spec.name, listener);
    this.#byIndex[listener.index] = listener;
    this.writeRules(listener);
  }

  #forget(index: number, local: Endpoint): void {
    // Another listener may have the address by now: under another name, or with another pool.
    if (!this.all().some((other) => other.local.equals(local))) this.shut(local);
    const { names, ports, source } = this.#options;
    this.leave(index, local);
    source.release(index);
    names.leaveListener(index);
    announce(ports, names, local.port);
  }
}
