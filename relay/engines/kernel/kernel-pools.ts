/**
 * The pools that listeners use, by name, each with its place in the maps; and what the control plane last said of every pool.
 *
 * A place is given up when no listener uses its pool and the control plane has no backend in it, or earlier if another pool
 * needs it. By then all sessions and connections of the pool's listeners have ended; what rests of them (reverse records,
 * pins, ended connections) refers to backends that nobody has any more, since references go on counting in a place,
 * whichever pool has it.
 *
 *     of: a listener takes hold  ->  letGo: the last one does  ->  empty snapshot  ->  the name is cleared, the place free
 */
import assert from 'node:assert/strict';
import { RelayError } from '../../../net/relay-error.ts';
import { BackendPool } from '../../core/backend-pool.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import type { KernelMaps } from './kernel-maps.ts';
import { PoolWriter } from './pool-writer.ts';

interface Place {
  readonly writer: PoolWriter;
  /** Listeners that use the pool; those of a relay before this one count as one. */
  users: number;
}

export class KernelPools {
  readonly #maps: KernelMaps;
  readonly #places = new Map<string, Place>();
  /** Names of pools that listeners of a relay before this one may use. */
  #inherited: readonly string[] = [];
  readonly #snapshots = new Map<string, PoolSnapshot>();
  /** Until the places that are being given up are free. */
  #leaving: Promise<unknown> = Promise.resolve();
  /** Whether what is published is only remembered. */
  #isHeld = false;

  constructor(maps: KernelMaps) {
    this.#maps = maps;
  }

  /** Takes over the pools of a relay before this one, whose listeners hold them until `letGoInherited`. */
  adopt(): void {
    for (const index of this.#indexes()) {
      const name = this.#maps.names.pool(index);
      if (name !== '') this.#newPlace(name, index).users = 1;
    }
    this.#inherited = [...this.#places.keys()];
    this.#isHeld = this.#maps.isHeld;
  }

  /** Writes what was published while the maps were held. */
  async release(): Promise<void> {
    this.#isHeld = false;
    for (const [name, { writer }] of [...this.#places]) {
      const snapshot = this.#snapshots.get(name);
      // What is known from a relay before this one holds until the pool has settled.
      const isKnown = this.#inherited.includes(name);
      if (isKnown && (snapshot === undefined || snapshot.isSettling === true)) continue;
      await writer.publish(this.snapshotOf(name));
      await this.#forgetIfUnused(name);
    }
  }

  get all(): Iterable<PoolWriter> {
    return Array.from(this.#places.values(), ({ writer }) => writer);
  }

  /** What was last published of a pool; one that was not is empty. */
  snapshotOf(name: string): PoolSnapshot {
    return this.#snapshots.get(name) ?? new BackendPool(name).snapshot();
  }

  /** @returns the pool's writer, if a listener uses it and it has not to settle first */
  async publish(snapshot: PoolSnapshot): Promise<PoolWriter | undefined> {
    this.#snapshots.set(snapshot.pool, snapshot);
    const place = this.#places.get(snapshot.pool);
    // What is known from a relay before this one holds until the pool has settled.
    if (snapshot.isSettling === true || this.#isHeld) return undefined;
    await place?.writer.publish(snapshot);
    await this.#forgetIfUnused(snapshot.pool);
    return this.#places.get(snapshot.pool)?.writer;
  }

  /** The pool's writer, for a listener, which lets it go in the end. @throws RelayError TICKRELAY_ERR_LIMIT when there is no room */
  async of(name: string): Promise<PoolWriter> {
    for (;;) {
      await this.#leaving;
      const known = this.#places.get(name);
      if (known !== undefined) {
        known.users++;
        return known.writer;
      }
      const index = this.#indexes().find((i) => this.#maps.names.pool(i) === '');
      if (index !== undefined) {
        return this.#take(name, index);
      }
      const unused = Array.from(this.#places).find(([, { users }]) => users === 0);
      if (unused === undefined) throw this.#noRoom(name);
      await this.#leave(unused[0]);
    }
  }

  /** A listener that has no session or connection any more uses the pool no longer. */
  async letGo(writer: PoolWriter): Promise<void> {
    const entry = Array.from(this.#places).find(([, place]) => place.writer === writer);
    assert(entry !== undefined && entry[1].users > 0, 'the pool is not in use');
    entry[1].users--;
    await this.#forgetIfUnused(entry[0]);
  }

  /** Listeners of a relay before this one that were not claimed are gone, and so are the pools that only they used. Idempotent. */
  async letGoInherited(): Promise<void> {
    const names = this.#inherited;
    this.#inherited = [];
    for (const name of names) {
      this.#places.get(name)!.users--;
      await this.#forgetIfUnused(name);
    }
  }

  /** When nothing is being published any more. */
  async idle(): Promise<void> {
    await Promise.all(Array.from(this.all, (pool) => pool.idle()));
    await this.#leaving;
  }

  async #take(name: string, index: number): Promise<PoolWriter> {
    const place = this.#newPlace(name, index);
    place.users++;
    this.#maps.names.setPool(index, name);
    try {
      if (!this.#isHeld) await place.writer.publish(this.snapshotOf(name));
      return place.writer;
    } catch (error) {
      this.#places.delete(name);
      this.#maps.names.setPool(index, '');
      throw error;
    }
  }

  #indexes(): readonly number[] {
    return Array.from({ length: this.#maps.sizes.maxPools }, (_, index) => index);
  }

  /** Knows what the place had before: a pool of this name, or the references of others. */
  #newPlace(name: string, index: number): Place {
    const writer = new PoolWriter(this.#maps, index);
    writer.adopt();
    const place = { writer, users: 0 };
    this.#places.set(name, place);
    return place;
  }

  async #forgetIfUnused(name: string): Promise<void> {
    if (this.#isHeld) return;
    const snapshot = this.#snapshots.get(name);
    if (snapshot?.isSettling === true || snapshot?.backends.some((entry) => entry !== undefined) === true)
      return;
    const place = this.#places.get(name);
    if (place !== undefined && place.users > 0) return;
    this.#snapshots.delete(name);
    await this.#leave(name);
  }

  /** Gives up the place of a pool that nobody uses. */
  async #leave(name: string): Promise<void> {
    const place = this.#places.get(name);
    if (place === undefined) return;
    this.#places.delete(name);
    const left = place.writer
      .publish(new BackendPool(name).snapshot())
      .then(() => this.#maps.names.setPool(place.writer.index, ''));
    this.#leaving = Promise.allSettled([this.#leaving, left]);
    await left;
  }

  #noRoom(name: string): RelayError {
    const { maxPools } = this.#maps.sizes;
    const why =
      this.#inherited.length === 0
        ? 'let listeners share pools'
        : 'those of the relay before this one go 10 s after this one has started; until then both may have so many in ' +
          'all: start with fewer, and add the rest by a reload after that';
    return new RelayError(
      'TICKRELAY_ERR_LIMIT',
      `engine kernel has room for ${maxPools} pools that listeners use, and "${name}" is one more; ${why}`,
    );
  }
}
