/**
 * The Maglev table: which backend a hash belongs to, evenly, and with few changes when backends come and go
 * (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
 *
 * Every backend has its own permutation of the table's entries, from two hashes of its address and port. Backends take
 * turns, each claiming the next entry of its permutation that is still free, until the table is full. A backend of half
 * the largest weight takes every other turn (the rule is Envoy's). The table depends on nothing but the addresses, ports
 * and weights, so two relays with the same backends agree on each player's backend. Golden tables: docs/hashing.md.
 */
import type { Endpoint } from '../../net/address.ts';
import { hashKey } from './hash.ts';
import { MAGLEV_SLOTS } from './limits.ts';

/** Seeds of the two hashes that make a backend's permutation. Changing one moves every player. */
const OFFSET_SEED = 1;
const SKIP_SEED = 2;

/** A table entry that no backend has claimed yet; pool slots end far below. */
const FREE = 0xffff;

export interface MaglevBackend {
  readonly slot: number;
  readonly endpoint: Endpoint;
  /** 1..MAX_WEIGHT. */
  readonly weight: number;
}

/**
 * Pool slots by `hash % MAGLEV_SLOTS`; empty when there are no backends. No two backends may have the same endpoint.
 */
export function buildMaglev(backends: readonly MaglevBackend[]): Uint16Array {
  if (backends.length === 0) return new Uint16Array(0);
  const ordered = backends.toSorted((a, b) => compareEndpoints(a.endpoint, b.endpoint));
  const count = ordered.length;
  const heaviest = Math.max(...ordered.map(({ weight }) => weight));

  /** The next entry that each backend would claim, and how far its permutation steps. */
  const next = Uint32Array.from(ordered, ({ endpoint }) => identity(endpoint, OFFSET_SEED) % MAGLEV_SLOTS);
  const skip = Uint32Array.from(
    ordered,
    ({ endpoint }) => (identity(endpoint, SKIP_SEED) % (MAGLEV_SLOTS - 1)) + 1,
  );
  /** A backend's turn comes in the round where round x weight has reached this. */
  const target = new Uint32Array(count);

  const table = new Uint16Array(MAGLEV_SLOTS).fill(FREE);
  let free = MAGLEV_SLOTS;
  for (let round = 1; free > 0; round++) {
    for (let i = 0; i < count && free > 0; i++) {
      const backend = ordered[i]!;
      if (round * backend.weight < target[i]!) continue;
      target[i]! += heaviest;
      let at = next[i]!;
      while (table[at] !== FREE) at = (at + skip[i]!) % MAGLEV_SLOTS;
      table[at] = backend.slot;
      next[i] = at;
      free--;
    }
  }
  return table;
}

function identity(endpoint: Endpoint, seed: number): number {
  return hashKey(endpoint.ip.words, 0, endpoint.port, seed) >>> 0;
}

/** By address bytes, then port. */
function compareEndpoints(a: Endpoint, b: Endpoint): number {
  return Buffer.compare(a.ip.bytes, b.ip.bytes) || a.port - b.port;
}
