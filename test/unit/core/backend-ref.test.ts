import fc from 'fast-check';
import { expect, test } from 'vitest';
import { backendRef, nextIncarnation, NO_BACKEND_REF, slotOf } from '../../../relay/core/backend-ref.ts';
import { MAX_BACKENDS } from '../../../relay/core/limits.ts';

test('a reference has its layout: incarnation above, slot in the low 10 bits', () => {
  expect(backendRef(0, 1)).toBe(0x400);
  expect(backendRef(5, 3)).toBe(0xc05);
  expect(backendRef(1_023, 0x3fffff)).toBe(0xffffffff);
});

test('the next incarnation is another reference of the same slot', () => {
  fc.assert(
    fc.property(fc.nat(MAX_BACKENDS - 1), fc.integer({ min: 1, max: 0x3fffff }), (slot, incarnation) => {
      const ref = backendRef(slot, incarnation);
      const next = nextIncarnation(ref);
      expect([slotOf(ref), slotOf(next)]).toEqual([slot, slot]);
      expect(next).not.toBe(ref);
      expect(next).toBeGreaterThan(NO_BACKEND_REF);
    }),
  );
});

test('after the last incarnation comes the first, never none', () => {
  expect(nextIncarnation(backendRef(7, 0x3fffff))).toBe(backendRef(7, 1));
  expect(nextIncarnation(backendRef(0, 0x3fffff))).toBe(backendRef(0, 1));
});
