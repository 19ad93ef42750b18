/** Which relay ports a listener gets: something for everybody who comes, nothing twice, and nothing taken away. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { keptRange, newRange, type PortRange, sizeOf } from '../../../../relay/engines/kernel/relay-ports.ts';

const WHOLE: PortRange = { first: 61_000, last: 65_535 };
const NO_BOUND = Number.POSITIVE_INFINITY;

/** Listeners that come one after the other. */
function comings(count: number, whole = WHOLE, most = NO_BOUND): (PortRange | undefined)[] {
  const taken: PortRange[] = [];
  return Array.from({ length: count }, () => {
    const range = newRange({ whole, taken, most });
    if (range !== undefined) taken.push(range);
    return range;
  });
}

test('the first listener gets a quarter, each later one a quarter of what is left', () => {
  const [first, second, ...others] = comings(16);
  expect(first).toEqual({ first: 61_000, last: 62_133 });
  expect(second).toEqual({ first: 62_134, last: 62_984 });
  expect(others.map((range) => sizeOf(range!))).toEqual([
    638, 479, 359, 269, 202, 151, 114, 85, 64, 48, 36, 27, 20, 15,
  ]);
});

test('of few ports there is one for each, and then none', () => {
  expect(comings(4, { first: 7, last: 9 })).toEqual([
    { first: 7, last: 7 },
    { first: 8, last: 8 },
    { first: 9, last: 9 },
    undefined,
  ]);
});

test('no listener gets more than it may use', () => {
  expect(comings(2, WHOLE, 10).map((range) => sizeOf(range!))).toEqual([10, 10]);
});

test('what a listener gave back is there for the next', () => {
  const [, second, ...others] = comings(5) as PortRange[];
  const next = newRange({ whole: WHOLE, taken: others, most: NO_BOUND })!;
  // It and the first one are gone; their stretch is the largest.
  expect(next).toEqual({ first: 61_000, last: 61_000 + Math.ceil((1_134 + sizeOf(second!)) / 4) - 1 });
});

test('a listener that is taken over keeps its ports while nothing has changed', () => {
  const ranges = comings(9) as PortRange[];
  for (const own of ranges) {
    const taken = ranges.filter((range) => range !== own);
    expect(keptRange(own, { whole: WHOLE, taken, most: NO_BOUND })).toEqual(own);
  }
});

test('it gets more where there is room, behind its own and in front of them', () => {
  const wider = { first: 60_000, last: 65_535 };
  const own = { first: 65_500, last: 65_535 };
  const kept = keptRange(own, { whole: wider, taken: [{ first: 61_000, last: 62_000 }], most: NO_BOUND });
  expect(kept).toEqual({ first: 65_535 - Math.ceil(3_535 / 4) + 1, last: 65_535 });
  const before = { first: 60_000, last: 60_010 };
  expect(keptRange(before, { whole: wider, taken: [], most: NO_BOUND })).toEqual({
    first: 60_000,
    last: 61_383,
  });
});

test.each([
  ['are outside the range by now', { whole: { first: 50_000, last: 60_999 } }],
  ['are partly outside', { whole: { first: 61_050, last: 65_535 } }],
  ['are another’s', { taken: [{ first: 61_099, last: 61_200 }] }],
  ['are more than it may use', { most: 99 }],
])('it does not keep ports that %s', (_why, around) => {
  const own = { first: 61_000, last: 61_099 };
  expect(keptRange(own, { whole: WHOLE, taken: [], most: NO_BOUND, ...around })).toBeUndefined();
});

test('whoever comes, goes and comes again, nobody has a port of another or of nobody', () => {
  const step = fc.oneof(
    fc.constant('come' as const),
    fc.record({ goes: fc.nat(40) }),
    fc.record({ isTakenOver: fc.nat(40) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 3_000 }), (steps, size) => {
      const whole = { first: 1_000, last: 1_000 + size - 1 };
      let ranges: PortRange[] = [];
      for (const one of steps) {
        if (one === 'come') {
          const range = newRange({ whole, taken: ranges, most: NO_BOUND });
          const used = ranges.reduce((sum, other) => sum + sizeOf(other), 0);
          expect(range === undefined).toBe(used === size);
          if (range !== undefined) ranges.push(range);
        } else if (ranges.length > 0 && 'goes' in one) {
          ranges.splice(one.goes % ranges.length, 1);
        } else if (ranges.length > 0 && 'isTakenOver' in one) {
          const own = ranges[one.isTakenOver % ranges.length]!;
          const others = ranges.filter((range) => range !== own);
          const kept = keptRange(own, { whole, taken: others, most: NO_BOUND })!;
          expect(kept.first <= own.first && own.last <= kept.last).toBe(true);
          ranges = [...others, kept];
        }
        const ports = ranges.flatMap((range) =>
          Array.from({ length: sizeOf(range) }, (_, i) => range.first + i),
        );
        expect(new Set(ports).size).toBe(ports.length);
        expect(ports.every((port) => whole.first <= port && port <= whole.last)).toBe(true);
      }
    }),
    { numRuns: 100 },
  );
});
