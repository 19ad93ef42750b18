/** The pools that listeners use, by name, each with its place in the maps; and what the control plane last said of every pool. */
import { RelayError } from '../../../net/relay-error.ts';
import { BackendPool } from '../../core/backend-pool.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import type { KernelMaps } from './kernel-maps.ts';
import { PoolWriter } from './pool-writer.ts';

/** Pools that listeners of one relay may use. */
export const MAX_POOLS = 32;

const INDEXES = Array.from({ length: MAX_POOLS }, (_, index) => index);

export class KernelPools {
  readonly #maps: KernelMaps;
  readonly #pools = new Map<string, PoolWriter>();
  readonly #snapshots = new Map<string, PoolSnapshot>();

  constructor(maps: KernelMaps) {
    this.#maps = maps;
  }

  /** Takes over the pools of a relay before this one. */
  adopt(): void {
    for (const index of INDEXES) {
      const name = this.#maps.names.pool(index);
      if (name === '') continue;
      const pool = new PoolWriter(this.#maps, index);
      pool.adopt();
      this.#pools.set(name, pool);
    }
  }

  get all(): Iterable<PoolWriter> {
    return this.#pools.values();
  }

  /** What was last published of a pool; one that was not is empty. */
  snapshotOf(name: string): PoolSnapshot {
    return this.#snapshots.get(name) ?? new BackendPool(name).snapshot();
  }

  /** @returns the pool's writer, if a listener uses it and it has not to settle first */
  async publish(snapshot: PoolSnapshot): Promise<PoolWriter | undefined> {
    this.#snapshots.set(snapshot.pool, snapshot);
    const pool = this.#pools.get(snapshot.pool);
    // What is known from a relay before this one holds until the pool has settled.
    if (pool === undefined || snapshot.isSettling === true) return undefined;
    await pool.publish(snapshot);
    return pool;
  }

  /** The pool's writer, for a listener. @throws RelayError TICKRELAY_ERR_LIMIT when there is no room for another pool */
  async of(name: string): Promise<PoolWriter> {
    let pool = this.#pools.get(name);
    if (pool !== undefined) return pool;
    const index = INDEXES.find((i) => this.#maps.names.pool(i) === '');
    if (index === undefined) {
      throw new RelayError(
        'TICKRELAY_ERR_LIMIT',
        `engine kernel has room for ${MAX_POOLS} pools, and "${name}" is one more`,
      );
    }
    pool = new PoolWriter(this.#maps, index);
    this.#maps.names.setPool(index, name);
    this.#pools.set(name, pool);
    await pool.publish(this.snapshotOf(name));
    return pool;
  }

  /** When nothing is being published any more. */
  async idle(): Promise<void> {
    await Promise.all(Array.from(this.all, (pool) => pool.idle()));
  }
}
