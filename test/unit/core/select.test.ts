import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { MAGLEV_SLOTS, MAX_BACKENDS } from '../../../relay/core/limits.ts';
import type { PoolSnapshot } from '../../../relay/core/pool-snapshot.ts';
import { ALGORITHMS, Selector } from '../../../relay/core/select.ts';
import { naiveIpHash, naiveLeastConnections, NaiveRoundRobin } from '../../support/naive-select.ts';

/** A pool with a ready backend of each weight in slots 0, 1, ...; a weight of 0 leaves the slot's backend unhealthy. */
function poolOf(...weights: number[]): PoolSnapshot {
  const pool = new BackendPool('p');
  for (const [i, weight] of weights.entries()) {
    const endpoint = Endpoint.parse(`10.0.0.${i + 1}:7777`);
    pool.add({ id: `b${i}`, endpoint, weight: Math.max(1, weight), healthy: weight > 0 });
  }
  return pool.snapshot();
}

function liveSessions(...counts: number[]): Uint32Array {
  const live = new Uint32Array(MAX_BACKENDS);
  live.set(counts);
  return live;
}

/** A hash whose Maglev entry is this slot. */
function hashPreferring(snapshot: PoolSnapshot, slot: number): number {
  return snapshot.maglev.indexOf(slot);
}

const nobody = liveSessions();

test.each(ALGORITHMS)('%s finds no backend in a pool without a ready one', (algorithm) => {
  const selector = new Selector();
  expect(selector.choose(algorithm, poolOf(), 5, nobody)).toBe(-1);
  expect(selector.choose(algorithm, poolOf(0, 0), 5, nobody)).toBe(-1);
});

describe('ip-hash', () => {
  test('takes what the Maglev table says for any 32-bit hash', () => {
    const snapshot = poolOf(1, 2, 3);
    const selector = new Selector();
    for (const hash of [0, 1, MAGLEV_SLOTS - 1, MAGLEV_SLOTS, 0x7fffffff, 0x80000000, 0xffffffff]) {
      for (const same of [hash, hash | 0])
        expect(selector.choose('ip-hash', snapshot, same, nobody)).toBe(naiveIpHash(snapshot, hash));
    }
  });
});

describe('least-connections', () => {
  test('takes other weights where they are given, and one of weight 0 only where all have it', () => {
    const snapshot = poolOf(1, 1, 1);
    const selector = new Selector();
    const live = liveSessions(10, 12, 30);
    for (const preferred of [0, 1, 2]) {
      const choose = (...weights: number[]): number => {
        const hash = hashPreferring(snapshot, preferred);
        return selector.choose('least-connections', snapshot, hash, live, Float64Array.from(weights));
      };
      expect(choose(1, 1, 1)).toBe(0);
      expect(choose(0, 1, 1)).toBe(1);
      expect(choose(0, 0, 1)).toBe(2);
      expect(choose(1, 1, 3.5)).toBe(2);
      expect(choose(1, 0, 2.9)).toBe(0);
      expect(choose(0, 0, 0)).toBe(preferred);
    }
  });

  test('takes the fewest live sessions per weight', () => {
    const snapshot = poolOf(1, 2, 4);
    const choose = (...counts: number[]): number =>
      new Selector().choose('least-connections', snapshot, 0, liveSessions(...counts));
    expect(choose(5, 9, 21)).toBe(1);
    expect(choose(5, 11, 19)).toBe(2);
    expect(choose(4, 9, 17)).toBe(0);
  });

  test('ties go to the backend that the hash prefers, else to the next ready one after it', () => {
    const snapshot = poolOf(1, 1, 0, 1);
    const choose = (preferred: number, live: Uint32Array): number =>
      new Selector().choose('least-connections', snapshot, hashPreferring(snapshot, preferred), live);
    for (const slot of [0, 1, 3]) expect(choose(slot, nobody)).toBe(slot);
    expect(choose(0, liveSessions(1, 0, 0, 0))).toBe(1);
    expect(choose(1, liveSessions(0, 1, 0, 0))).toBe(3);
    expect(choose(3, liveSessions(0, 0, 0, 1))).toBe(0);
  });

  test('agrees with the naive twin for any weights, loads and hash', () => {
    // Small numbers make ties, large ones would show a rounded comparison.
    const load = fc.oneof(fc.nat({ max: 6 }), fc.integer({ min: 0xfffffff0, max: 0xffffffff }));
    const backend = fc.tuple(fc.oneof(fc.nat({ max: 3 }), fc.integer({ min: 250, max: 256 })), load);
    fc.assert(
      fc.property(fc.array(backend, { maxLength: 6 }), fc.nat({ max: 0xffffffff }), (backends, hash) => {
        const snapshot = poolOf(...backends.map(([weight]) => weight));
        const live = liveSessions(...backends.map(([, count]) => count));
        expect(new Selector().choose('least-connections', snapshot, hash, live)).toBe(
          naiveLeastConnections(snapshot, hash, live),
        );
      }),
    );
  });
});

describe('round-robin', () => {
  test('takes backends in turn, and each Selector has its own turn', () => {
    const snapshot = poolOf(1, 0, 1, 2);
    const [one, other] = [new Selector(), new Selector()];
    const turns = (selector: Selector, count: number): number[] =>
      Array.from({ length: count }, () => selector.choose('round-robin', snapshot, 0, nobody));
    expect(turns(one, 5)).toEqual([3, 0, 2, 3, 3]);
    expect(turns(other, 4)).toEqual([3, 0, 2, 3]);
  });

  test('goes on from the start when the pool has shrunk below its turn', () => {
    const selector = new Selector();
    const large = poolOf(1, 1, 1);
    for (let i = 0; i < 3; i++) selector.choose('round-robin', large, 0, nobody);
    expect(selector.choose('round-robin', poolOf(1, 1), 0, nobody)).toBe(0);
  });

  test('agrees with the naive twin over two whole rounds of any weights', () => {
    const weights = fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(weights, fc.constantFrom(1, 3, 20), (reduced, factor) => {
        const snapshot = poolOf(...reduced.map((weight) => weight * factor));
        const selector = new Selector();
        const naive = new NaiveRoundRobin(reduced.map((weight, slot) => ({ slot, weight })));
        for (let turn = 0; turn < 2 * reduced.reduce((a, b) => a + b); turn++)
          expect(selector.choose('round-robin', snapshot, 0, nobody)).toBe(naive.next());
      }),
      { numRuns: 50 },
    );
  });
});
