/**
 * The decisions about pins that listeners share, straight from their description, on Maps and objects: which backend a
 * client gets, where a pin decides it. Where the algorithm does, the test says what it chose.
 */
import type { BackendPool } from '../../relay/core/backend-pool.ts';

/** One stay of a backend, in a pool or in the group, from becoming usable until it fails or leaves. */
interface Stay {
  readonly id: string;
  isOver: boolean;
}

const isUsable = (pool: BackendPool, id: string): boolean => {
  const state = pool.get(id)?.state;
  return state === 'ready' || state === 'draining';
};

export class NaivePinGroup {
  readonly #pools: readonly BackendPool[];
  /** By `pool id`. */
  readonly #stays = new Map<string, Stay>();
  /** By id. */
  readonly #ofGroup = new Map<string, Stay>();
  /** By client. */
  readonly #pins = new Map<string, Stay>();
  /** By `listener client`. */
  readonly #own = new Map<string, Stay>();

  constructor(pools: readonly BackendPool[]) {
    this.#pools = pools;
  }

  /** A pool has changed: a backend that is no longer usable in one of them has ended its stay in the group, too. */
  publish(): void {
    for (const pool of this.#pools) {
      for (const [key, stay] of [...this.#stays]) {
        if (!key.startsWith(`${pool.name} `) || isUsable(pool, stay.id)) continue;
        this.#stays.delete(key);
        stay.isOver = true;
        this.#endInGroup(stay.id);
      }
      for (const { id } of pool.list()) {
        const key = `${pool.name} ${id}`;
        if (isUsable(pool, id) && !this.#stays.has(key)) this.#stays.set(key, { id, isOver: false });
      }
    }
    for (const id of [...this.#ofGroup.keys()]) {
      if (this.#pools.every((pool) => pool.get(id) === undefined)) this.#endInGroup(id);
    }
  }

  /** @param own name of the listener whose own pin counts, or of all listeners whose pins do */
  pinned(pool: BackendPool, client: string, own: readonly string[]): string | undefined {
    const shared = this.#pins.get(client);
    if (shared?.isOver === false && isUsable(pool, shared.id)) return shared.id;
    for (const listener of own) {
      const stay = this.#own.get(`${listener} ${client}`);
      if (stay?.isOver === false && isUsable(pool, stay.id)) return stay.id;
    }
    return undefined;
  }

  /** The client was given this backend. @param listener absent: by one that keeps no pins of its own */
  took(pool: BackendPool, client: string, { id, listener }: { id: string; listener?: string }): void {
    const stay = this.#ofGroup.get(id) ?? { id, isOver: false };
    this.#ofGroup.set(id, stay);
    this.#pins.set(client, stay);
    if (listener !== undefined)
      this.#own.set(`${listener} ${client}`, this.#stays.get(`${pool.name} ${id}`)!);
  }

  #endInGroup(id: string): void {
    const stay = this.#ofGroup.get(id);
    if (stay !== undefined) stay.isOver = true;
    this.#ofGroup.delete(id);
  }
}
