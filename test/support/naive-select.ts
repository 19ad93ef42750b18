/** The choices in their plainest form: lists, fractions in BigInt, one object for each backend. */
import { MAGLEV_SLOTS } from '../../relay/core/limits.ts';
import type { PoolSnapshot } from '../../relay/core/pool-snapshot.ts';

export function naiveIpHash(snapshot: PoolSnapshot, hash: number): number {
  return snapshot.maglev[hash % MAGLEV_SLOTS] ?? -1;
}

export function naiveLeastConnections(snapshot: PoolSnapshot, hash: number, live: Uint32Array): number {
  const ready = snapshot.backends.filter((backend) => backend?.state === 'ready').map((backend) => backend!);
  if (ready.length === 0) return -1;
  const start = ready.findIndex(({ slot }) => slot === naiveIpHash(snapshot, hash));
  const fromPreferred = [...ready.slice(start), ...ready.slice(0, start)];
  // A common denominator makes the loads whole numbers.
  const denominator = ready.reduce((product, { weight }) => product * BigInt(weight), 1n);
  const load = fromPreferred.map(({ slot, weight }) => (BigInt(live[slot]!) * denominator) / BigInt(weight));
  const least = load.reduce((a, b) => (b < a ? b : a));
  return fromPreferred[load.indexOf(least)]!.slot;
}

/** Smooth weighted round-robin, one turn at a time, on objects. */
export class NaiveRoundRobin {
  readonly #backends: { slot: number; weight: number; credit: number }[];

  constructor(backends: readonly { slot: number; weight: number }[]) {
    this.#backends = backends.map(({ slot, weight }) => ({ slot, weight, credit: 0 }));
  }

  next(): number {
    for (const backend of this.#backends) backend.credit += backend.weight;
    const richest = Math.max(...this.#backends.map(({ credit }) => credit));
    const chosen = this.#backends.find(({ credit }) => credit === richest)!;
    chosen.credit -= this.#backends.reduce((sum, { weight }) => sum + weight, 0);
    return chosen.slot;
  }
}
