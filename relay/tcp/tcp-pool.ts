/**
 * A pool as the TCP side sees it: what the control plane published last, and how many connections each backend carries.
 * A connection counts from the moment its backend is chosen, not from when it opens: of two hundred that arrive in one
 * turn of the event loop, each sees those before it.
 */
import { MAX_BACKENDS } from '../core/limits.ts';
import type { BackendEntry, PoolSnapshot } from '../core/pool-snapshot.ts';
import { Selector, type Algorithm } from '../core/select.ts';

/** Outweighs any number of live connections, so that least-connections takes every other backend first. */
const LAST_CHOICE = 0xffff_ffff;

export class TcpPool {
  readonly name: string;
  #snapshot: PoolSnapshot | undefined;
  readonly #selector = new Selector();
  /** By slot. */
  readonly #live = new Uint32Array(MAX_BACKENDS);

  constructor(name: string) {
    this.name = name;
  }

  publish(snapshot: PoolSnapshot): void {
    this.#snapshot = snapshot;
  }

  /** Whether the backend is still the one that was chosen, and ready or draining. */
  isUsable(backend: BackendEntry): boolean {
    return this.#snapshot?.usable[backend.slot] === backend.ref;
  }

  /**
   * Chooses a ready backend and counts one connection towards it.
   *
   * @param hash of the client's address
   * @returns undefined when none is ready
   */
  acquire(algorithm: Algorithm, hash: number): BackendEntry | undefined {
    if (this.#snapshot === undefined) return undefined;
    const slot = this.#selector.choose(algorithm, this.#snapshot, hash, this.#live);
    const backend = this.#snapshot.backends[slot];
    if (backend !== undefined) this.#live[slot]!++;
    return backend;
  }

  /** As `acquire`, but never `failed`: whatever the algorithm, the one with the fewest connections per weight. */
  acquireOther(failed: BackendEntry, hash: number): BackendEntry | undefined {
    const failedLive = this.#live[failed.slot]!;
    this.#live[failed.slot] = LAST_CHOICE;
    const backend = this.acquire('least-connections', hash);
    this.#live[failed.slot] = failedLive;
    return backend?.slot === failed.slot ? undefined : backend;
  }

  release(backend: BackendEntry): void {
    this.#live[backend.slot]!--;
  }
}
