import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ANSWERED, AWAITED, RING_UPDATES, SentRecords, SentRing } from '../../../botclient/sent-ring.ts';

const at = (n: number) => ({ playerId: 0, x: n, y: -n, z: n * 2 });

test('finds each of the last 1,024 updates and none before, as a plain list does', () => {
  fc.assert(
    fc.property(fc.nat(3 * RING_UPDATES), fc.array(fc.nat(3 * RING_UPDATES)), (count, asked) => {
      const ring = new SentRing();
      const list: number[] = [];
      for (let n = 0; n < count; n++) list[ring.push(at(n), n * 8, AWAITED)] = n;
      for (const n of asked) {
        const kept = list.slice(-RING_UPDATES).includes(n) ? list.indexOf(n) : -1;
        expect(ring.find(at(n))).toBe(kept);
        if (kept !== -1) expect(ring.intendedMs(kept)).toBe(n * 8);
      }
    }),
    { numRuns: 50 },
  );
});

test('the newest of two equal positions is found', () => {
  const ring = new SentRing();
  ring.push(at(5), 0, AWAITED);
  expect(ring.find(at(5))).toBe(0);
  ring.push(at(5), 8, AWAITED);
  expect(ring.find(at(5))).toBe(1);
});

test('a slot that is used again starts afresh', () => {
  const ring = new SentRing();
  ring.push(at(0), 0, AWAITED);
  ring.setState(0, ANSWERED);
  for (let n = 1; n <= RING_UPDATES; n++) ring.push(at(n), n, AWAITED);
  expect(ring.state(RING_UPDATES)).toBe(AWAITED);
  expect(ring.first).toBe(1);
});

test('rings that share their records do not touch each other', () => {
  const records = new SentRecords(3);
  const rings = [0, 1, 2].map((number) => new SentRing(records, number));
  for (let n = 0; n < 2 * RING_UPDATES; n++)
    for (const [i, ring] of rings.entries()) ring.push(at(3 * n + i), n * 8 + i, AWAITED);
  for (let n = RING_UPDATES; n < 2 * RING_UPDATES; n++) {
    for (const [i, ring] of rings.entries()) {
      expect(rings.map((other) => other.find(at(3 * n + i)))).toEqual(
        rings.map((other) => (other === ring ? n : -1)),
      );
      expect(ring.intendedMs(n)).toBe(n * 8 + i);
    }
  }
});
