import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RECORD_WORDS, RecordTable } from '../../../relay/core/record-table.ts';

/** A few addresses and keys, so that random operations meet each other. */
const record = fc.record({ address: fc.integer({ min: 0, max: 40 }), key: fc.integer({ min: 1, max: 3 }) });
type Key = { address: number; key: number };

const operation = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('insert' as const), of: record }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('remove' as const), of: record }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('find' as const), of: record }) },
);

function words({ address }: Key): Uint32Array {
  return Uint32Array.of(0, 0, 0xffff0000, address);
}

/** The field that a test hides in each record, to see that it travels with it. */
const FIELD = 7;

describe('a record table', () => {
  test('agrees with a Map under any sequence of operations, and tells of every move', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 300 }), fc.nat(), (operations, seed) => {
        const naive = new Map<string, number>();
        const ids = new Map<number, number>();
        const table = new RecordTable({
          capacity: 24,
          seed,
          onMove: (from, to) => {
            ids.set(to, ids.get(from)!);
            ids.delete(from);
          },
        });
        let nextField = 1;
        for (const { kind, of } of operations) {
          const name = `${of.address}/${of.key}`;
          const id = table.find(words(of), 0, of.key);
          expect(id === -1 ? undefined : table.words[id * RECORD_WORDS + FIELD]).toBe(naive.get(name));
          if (id !== -1) expect(ids.get(id)).toBe(naive.get(name));
          if (kind === 'insert' && id === -1) {
            const inserted = table.insert(words(of), 0, of.key);
            expect(inserted === -1).toBe(naive.size === 24);
            if (inserted === -1) continue;
            expect(table.words[inserted * RECORD_WORDS + FIELD]).toBe(0);
            table.words[inserted * RECORD_WORDS + FIELD] = nextField;
            ids.set(inserted, nextField);
            naive.set(name, nextField++);
          } else if (kind === 'remove' && id !== -1) {
            ids.delete(id);
            table.remove(id);
            naive.delete(name);
          }
          expect(table.size).toBe(naive.size);
        }
        for (const [name, field] of naive) {
          const [address, key] = name.split('/').map(Number) as [number, number];
          const id = table.find(words({ address, key }), 0, key);
          expect(table.words[id * RECORD_WORDS + FIELD]).toBe(field);
        }
      }),
    );
  });

  test('a walk that removes what it likes visits every other record, whatever moves meanwhile', () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 64 }), fc.nat(4), (seed, budget, remainder) => {
        const table = new RecordTable({ capacity: 50, seed });
        for (let i = 0; i < 50; i++) table.insert(words({ address: i, key: 1 }), 0, 1);
        const isDoomed = (address: number) => address % 5 === remainder;
        for (let walked = 0; walked < table.places + 50; walked += budget) {
          table.walk(
            budget,
            (id) => {
              if (isDoomed(table.words[id * RECORD_WORDS + 3]!)) table.remove(id);
            },
            0,
          );
        }
        for (let i = 0; i < 50; i++)
          expect(table.find(words({ address: i, key: 1 }), 0, 1) === -1).toBe(isDoomed(i));
        expect(table.size).toBe(40);
      }),
    );
  });

  test('a walk never takes more steps than its budget', () => {
    const table = new RecordTable({ capacity: 100, seed: 1 });
    for (let i = 0; i < 100; i++) table.insert(words({ address: i, key: 1 }), 0, 1);
    let visits = 0;
    table.walk(
      10,
      () => {
        visits++;
      },
      0,
    );
    expect(visits).toBeLessThanOrEqual(10);
  });

  test('filling, emptying and filling again leaves no trace', () => {
    const table = new RecordTable({ capacity: 1_000, seed: 7 });
    for (let round = 0; round < 50; round++) {
      for (let i = 0; i < 1_000; i++) table.insert(words({ address: round * 1_000 + i, key: 1 }), 0, 1);
      expect(table.isFull).toBe(true);
      for (let i = 0; i < 1_000; i++)
        table.remove(table.find(words({ address: round * 1_000 + i, key: 1 }), 0, 1));
      expect(table.size).toBe(0);
    }
    expect(Array.from({ length: table.places }, (_, id) => table.isLive(id))).not.toContain(true);
  });

  test('prefetching changes nothing', () => {
    const table = new RecordTable({ capacity: 10, seed: 7 });
    const id = table.insert(words({ address: 1, key: 0x10002 }), 0, 0x10002);
    table.prefetch(Uint32Array.of(0, 0, 0xffff0000, 1, 9, 9, 9, 9), 0x10000, Uint16Array.of(2, 3), 2);
    expect(table.find(words({ address: 1, key: 0x10002 }), 0, 0x10002)).toBe(id);
    expect(table.size).toBe(1);
  });
});
