/**
 * Which backend takes a new player. A listener has one Selector; every engine asks it with the same inputs and gets the
 * same answer.
 */
import { MAGLEV_SLOTS } from './limits.ts';
import type { PoolSnapshot } from './pool-snapshot.ts';

/** The algorithms that choose a backend for a new player. */
export const ALGORITHMS = ['ip-hash', 'least-connections', 'round-robin'] as const;
export type Algorithm = (typeof ALGORITHMS)[number];

/** By slot. */
export type Weights = Uint16Array | Float64Array;

export class Selector {
  /** One word: turns taken. In shared memory where several workers take turns together. */
  readonly #turns: Int32Array;

  constructor(turns: Int32Array = new Int32Array(1)) {
    this.#turns = turns;
  }

  /**
   * The pool slot of a ready backend, or -1 when none is ready. Allocates nothing.
   * `hash` is the client IP's, as a u32 or an i32 of the same bits; `live` holds the live sessions by slot, `weights` what
   * least-connections divides them by: those of the snapshot, or others. A backend with weight 0 and a live session is
   * taken only where all have 0.
   */
  choose(
    algorithm: Algorithm,
    snapshot: PoolSnapshot,
    hash: number,
    live: Uint32Array,
    weights: Weights = snapshot.weights,
  ): number {
    if (snapshot.ready.length === 0) return -1;
    switch (algorithm) {
      case 'ip-hash':
        return preferred(snapshot, hash);
      case 'least-connections':
        return leastConnections(snapshot, hash, live, weights);
      case 'round-robin':
        return this.#nextInTurn(snapshot.rotation);
    }
  }

  #nextInTurn(rotation: Uint16Array): number {
    const turn = Atomics.add(this.#turns, 0, 1);
    if (turn < rotation.length) return rotation[turn]!;
    // The round is over, or the pool has shrunk below the turn.
    Atomics.store(this.#turns, 0, 1);
    return rotation[0]!;
  }
}

/** The backend that the hash prefers. */
function preferred(snapshot: PoolSnapshot, hash: number): number {
  return snapshot.maglev[(hash >>> 0) % MAGLEV_SLOTS]!;
}

/**
 * Fewest live sessions per weight. Starts at the backend that the hash prefers and takes another only for strictly fewer,
 * so that ties keep a player where the hash puts it.
 */
function leastConnections(snapshot: PoolSnapshot, hash: number, live: Uint32Array, weights: Weights): number {
  const { ready } = snapshot;
  let best = preferred(snapshot, hash);
  const start = ready.indexOf(best);
  for (let step = 1; step < ready.length; step++) {
    const slot = ready[(start + step) % ready.length]!;
    // live[slot] / weights[slot] < live[best] / weights[best], without dividing
    if (live[slot]! * weights[best]! < live[best]! * weights[slot]!) best = slot;
  }
  return best;
}
