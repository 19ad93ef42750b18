/**
 * A pool as the TCP side sees it: what the control plane published last, and how many connections each backend carries.
 * A connection counts from the moment its backend is chosen, not from when it opens: of two hundred that arrive in one
 * turn of the event loop, each sees those before it.
 *
 * A backend that has its cap of connections is passed over, whatever the algorithm. One that has just come up begins
 * with a small share of its weight (slow start), since least-connections would give it every new connection otherwise.
 */
import { MAX_BACKENDS } from '../core/limits.ts';
import type { BackendEntry, PoolSnapshot } from '../core/pool-snapshot.ts';
import { Selector, type Algorithm, type Weights } from '../core/select.ts';

/** The share of its weight that a backend begins with, so that some connection finds it at once. */
const SLOW_START_SHARE = 0.01;

const NOT_RAMPING = Number.NEGATIVE_INFINITY;

export interface TcpChoice {
  readonly algorithm: Algorithm;
  /** Of the client's address. */
  readonly hash: number;
  /** How long a backend takes from coming up to its whole weight; 0: none. */
  readonly slowStartMs: number;
  readonly nowMs: number;
}

/** Why there is no backend: none is ready, or all that are have their cap. */
export type NoBackend = 'no-backend' | 'backend-connection-limit';

export class TcpPool {
  readonly name: string;
  #snapshot: PoolSnapshot | undefined;
  #byId: ReadonlyMap<string, BackendEntry> = new Map();
  readonly #selector = new Selector();
  /** By slot. */
  readonly #live = new Uint32Array(MAX_BACKENDS);
  /** When the backend came up, in ms, by slot. */
  readonly #upAtMs = new Float64Array(MAX_BACKENDS).fill(NOT_RAMPING);
  readonly #weights = new Float64Array(MAX_BACKENDS);

  constructor(name: string) {
    this.name = name;
  }

  /** Backends of the first snapshot share the start, so that none of them is slow. */
  publish(snapshot: PoolSnapshot, nowMs: number): void {
    const before = this.#snapshot;
    this.#snapshot = snapshot;
    const present = snapshot.backends.filter((backend) => backend !== undefined);
    this.#byId = new Map(present.map((backend) => [backend.id, backend]));
    if (before === undefined || before.ready.length === 0) return;
    for (const slot of snapshot.ready) {
      const wasUsable = before.usable[slot] === snapshot.usable[slot];
      if (!wasUsable) this.#upAtMs[slot] = nowMs;
    }
  }

  /** By slot. */
  get backends(): PoolSnapshot['backends'] {
    return this.#snapshot?.backends ?? [];
  }

  /** Nothing was published, or no backend is left. */
  get isEmpty(): boolean {
    return this.backends.every((backend) => backend === undefined);
  }

  /** Whether the backend is still the one that was chosen, and ready or draining. */
  isUsable(backend: BackendEntry): boolean {
    return this.#snapshot?.usable[backend.slot] === backend.ref;
  }

  /** Chooses a ready backend that has not its cap, and counts one connection towards it. */
  acquire(choice: TcpChoice): BackendEntry | NoBackend {
    const snapshot = this.#snapshot;
    if (snapshot === undefined || snapshot.ready.length === 0) return 'no-backend';
    const { algorithm, hash } = choice;
    const weights = this.#weightsNow(snapshot, choice);
    let slot = this.#selector.choose(algorithm, snapshot, hash, this.#live, weights);
    if (this.#isFull(snapshot.backends[slot]!)) {
      slot = this.#selector.choose('least-connections', snapshot, hash, this.#live, weights);
    }
    const backend = snapshot.backends[slot]!;
    if (this.#isFull(backend)) return 'backend-connection-limit';
    this.#live[slot]!++;
    return backend;
  }

  /**
   * Takes the backend that a pin names instead of the one that was acquired, if it is ready or draining and has not its cap.
   *
   * @returns the backend that one connection is counted towards now, or `acquired` as it came
   */
  follow(id: string | undefined, acquired: BackendEntry | NoBackend): BackendEntry | NoBackend {
    const pinned = id === undefined ? undefined : this.#byId.get(id);
    const isSame = typeof acquired !== 'string' && acquired.ref === pinned?.ref;
    if (pinned === undefined || isSame || !this.isUsable(pinned) || this.#isFull(pinned)) return acquired;
    if (typeof acquired !== 'string') this.release(acquired);
    this.#live[pinned.slot]!++;
    return pinned;
  }

  /** Never `failed`: whatever the algorithm, of the others the one with the fewest connections per weight. */
  acquireOther(failed: BackendEntry, choice: TcpChoice): BackendEntry | undefined {
    const snapshot = this.#snapshot;
    if (snapshot === undefined || snapshot.ready.length === 0) return undefined;
    const weights = this.#weightsNow(snapshot, choice, failed.slot);
    const slot = this.#selector.choose('least-connections', snapshot, choice.hash, this.#live, weights);
    const backend = snapshot.backends[slot]!;
    if (slot === failed.slot || this.#isFull(backend)) return undefined;
    this.#live[slot]!++;
    return backend;
  }

  release(backend: BackendEntry): void {
    this.#live[backend.slot]!--;
  }

  #isFull({ slot, maxConnections }: BackendEntry): boolean {
    return maxConnections > 0 && this.#live[slot]! >= maxConnections;
  }

  /** Weights as they count now: none for backends at their cap and for `failed`, a part for those that just came up. */
  #weightsNow(snapshot: PoolSnapshot, { slowStartMs, nowMs }: TcpChoice, failed = -1): Weights {
    for (const slot of snapshot.ready) {
      const backend = snapshot.backends[slot]!;
      const share = slowStartMs === 0 ? 1 : (nowMs - this.#upAtMs[slot]!) / slowStartMs;
      const isOut = slot === failed || this.#isFull(backend);
      this.#weights[slot] = isOut ? 0 : backend.weight * Math.min(1, Math.max(SLOW_START_SHARE, share));
    }
    return this.#weights;
  }
}
