import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { MAGLEV_SLOTS } from '../../../relay/core/limits.ts';
import { buildMaglev, type MaglevBackend } from '../../../relay/core/maglev.ts';
import { naiveMaglev } from '../../support/naive-maglev.ts';

/** Backends in slots 0, 1, ... from `[endpoint, weight]`. */
function backends(...specs: [endpoint: string, weight: number][]): MaglevBackend[] {
  return specs.map(([endpoint, weight], slot) => ({ slot, endpoint: Endpoint.parse(endpoint), weight }));
}

/** Equal backends 10.0.`net`.1, 10.0.`net`.2, ... */
function fleet(count: number, net = 0): MaglevBackend[] {
  return backends(
    ...Array.from({ length: count }, (_, i): [string, number] => [`10.0.${net}.${i + 1}:7777`, 1]),
  );
}

function sha256(table: Uint16Array): string {
  return createHash('sha256').update(table).digest('hex');
}

/** Table entries by pool slot. */
function shares(table: Uint16Array, slots: number): number[] {
  const counts = new Array<number>(slots).fill(0);
  for (const slot of table) counts[slot]!++;
  return counts;
}

describe('golden tables, made by a C program and listed in docs/hashing.md', () => {
  test('three equal backends', () => {
    const table = buildMaglev(backends(['10.0.0.3:7777', 1], ['10.0.0.5:7777', 1], ['10.0.0.7:7777', 1]));
    expect([...table.subarray(0, 16)]).toEqual([1, 0, 0, 2, 0, 0, 1, 2, 1, 2, 1, 1, 2, 0, 2, 0]);
    expect(shares(table, 3)).toEqual([21846, 21846, 21845]);
    expect(sha256(table)).toBe('8f90e3a63870816947006d2914d30279965af3ba13afeb5cbacba8956f9f1e1a');
  });

  test('four backends with weights, two on one address, one of IPv6', () => {
    const table = buildMaglev(
      backends(['[2001:db8::1]:7777', 4], ['10.0.0.3:7778', 1], ['10.0.0.3:7777', 2], ['10.0.0.20:7777', 3]),
    );
    expect([...table.subarray(0, 16)]).toEqual([0, 3, 2, 0, 2, 2, 3, 3, 0, 0, 2, 3, 0, 2, 0, 0]);
    expect(shares(table, 4)).toEqual([26214, 6554, 13108, 19661]);
    expect(sha256(table)).toBe('036cac57a05304bf8b1b36d693172f2d8e811bdf76886d7d248671143c5d8c59');
  });
});

test('no backends make an empty table', () => {
  expect(buildMaglev([])).toHaveLength(0);
});

test('one backend has every entry, whatever its weight', () => {
  const table = buildMaglev([{ slot: 1023, endpoint: Endpoint.parse('10.0.0.3:7777'), weight: 200 }]);
  expect(table).toHaveLength(MAGLEV_SLOTS);
  expect(table.every((slot) => slot === 1023)).toBe(true);
});

test('the load of ten equal backends differs by at most 1 %', () => {
  const counts = shares(buildMaglev(fleet(10)), 10);
  const fair = MAGLEV_SLOTS / 10;
  for (const count of counts) expect(Math.abs(count - fair) / fair).toBeLessThanOrEqual(0.01);
});

test.each([2, 3, 5, 10, 20])(
  'one of %i backends leaving or joining moves at most 1/N + 2 percent of the keys',
  (n) => {
    for (const net of [0, 1]) {
      const whole = fleet(n, net);
      const table = buildMaglev(whole);
      for (const gone of [0, n >> 1, n - 1]) {
        const rest = buildMaglev(whole.toSpliced(gone, 1));
        // Read backwards it is the same backend joining: the two tables differ in the same entries.
        const moved = table.reduce((count, slot, i) => count + Number(slot !== rest[i]), 0);
        expect(moved / MAGLEV_SLOTS).toBeLessThanOrEqual(1 / n + 0.02);
      }
    }
  },
);

test('each backend has its share by weight, within 2 %', () => {
  const weights = [1, 2, 3, 10, 100, 256];
  const total = weights.reduce((sum, weight) => sum + weight);
  const table = buildMaglev(
    backends(...weights.map((w, i): [string, number] => [`10.0.0.${i + 1}:7777`, w])),
  );
  for (const [slot, count] of shares(table, weights.length).entries()) {
    const fair = (MAGLEV_SLOTS * weights[slot]!) / total;
    expect(Math.abs(count - fair) / fair, `weight ${weights[slot]!}`).toBeLessThanOrEqual(0.02);
  }
});

test('equal weights are the same table, whatever the number', () => {
  const heavy = fleet(5).map((backend) => ({ ...backend, weight: 7 }));
  expect(buildMaglev(heavy)).toEqual(buildMaglev(fleet(5)));
});

const endpoint = fc
  .tuple(
    fc.oneof(
      fc.uint8Array({ minLength: 16, maxLength: 16 }),
      // Close together, so that order by address and by port both count.
      fc.integer({ min: 0, max: 3 }).map((last) => IpAddress.parse(`10.0.0.${last}`).bytes),
    ),
    fc.oneof(fc.nat({ max: 65535 }), fc.constantFrom(7777, 7778)),
  )
  .map(([bytes, port]) => new Endpoint(new IpAddress(bytes), port));

const endpoints = fc.uniqueArray(endpoint, { minLength: 1, maxLength: 6, selector: String });

test('the table is the one of the paper, for equal weights', () => {
  fc.assert(
    fc.property(endpoints, (all) => {
      const table = buildMaglev(all.map((endpoint, slot) => ({ slot, endpoint, weight: 1 })));
      const names = all.map(String);
      const named = Array.from(table, (slot) => names[slot]!);
      expect(named.join()).toBe(naiveMaglev(all, MAGLEV_SLOTS).join());
    }),
    { numRuns: 5 },
  );
});

test('two relays with the same backends in another order and other slots agree on every key', () => {
  const specs = fc.uniqueArray(fc.record({ endpoint, weight: fc.integer({ min: 1, max: 256 }) }), {
    minLength: 2,
    maxLength: 8,
    selector: (spec) => spec.endpoint.toString(),
  });
  fc.assert(
    fc.property(specs, (here) => {
      const there = here.toReversed();
      const ours = buildMaglev(here.map((spec, slot) => ({ ...spec, slot })));
      const theirs = buildMaglev(there.map((spec, i) => ({ ...spec, slot: 100 + i * 7 })));
      const disagreeing = ours.findIndex((slot, key) => here[slot] !== there[(theirs[key]! - 100) / 7]);
      expect(disagreeing).toBe(-1);
    }),
    { numRuns: 20 },
  );
});
