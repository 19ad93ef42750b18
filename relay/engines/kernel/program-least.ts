/**
 * least-connections, for sessions and for connections: of the ready backends the one with the fewest per weight, and of several
 * the first one behind the one that the hash prefers. The same answers as core/select.ts.
 */
import { MAX_BACKENDS } from '../../core/limits.ts';
import { field, memory, part, r0, r1, r2, r3, r4, r5, r7, r8, type Register } from './memory.ts';
import { type Code, local, loop } from './program-frame.ts';
import { BACKEND, SNAPSHOT } from './records.ts';
import { U16, U64 } from './struct.ts';

/** What is compared, of the slot (below MAX_BACKENDS) that a register holds. Loses r1. */
export type Figures = (
  a: Code,
  registers: { readonly slot: Register; readonly count: Register; readonly weight: Register },
) => void;

/** The locals that the walk needs beside those that keep r6, r8 and r9: where it begins, and the best so far. */
const start = () => part(local('victim'), 0, U64);
const best = {
  slot: () => part(local('victim'), U64, U64),
  count: () => part(local('victim'), 2 * U64, U64),
  weight: () => part(local('victim'), 3 * U64, U64),
};
/** Where r8 is found. */
const figured = () => part(local('scratch'), local('scratch').bytes - U64, U64);

/**
 * r0 = the slot, r5 its weight as `figures` has it. From the slot in r0 on, with the snapshot in r7, which is the local too;
 * `figures` may need r8. Loses r1 to r4.
 */
export function fewestPerWeight(a: Code, figures: Figures): void {
  figures(a, { slot: r0, count: r4, weight: r5 });
  a.store(best.slot(), r0);
  a.store(best.count(), r4);
  a.store(best.weight(), r5);
  findSlot(a, r0);
  a.load(r1, field(r1, BACKEND, 'readyIndex'));
  a.store(start(), r1);
  a.store(figured(), r8);
  loop(a, { name: 'fewest per weight', most: MAX_BACKENDS - 1 }, ({ next, stop }) => {
    a.alu('add', r1, 1);
    a.mov(r2, r1);
    a.load(r7, local('snapshot'));
    a.load(r8, figured());
    a.load(r1, field(r7, SNAPSHOT, 'readyCount'));
    a.jumpIf(r2, '>=', r1, stop);
    a.load(r3, start());
    a.alu('add', r2, r3);
    a.alu('mod', r2, r1);
    a.alu('and', r2, MAX_BACKENDS - 1);
    loadSlot(a, r2, 'ready');
    figures(a, { slot: r2, count: r3, weight: r4 });
    // count / weight < best count / best weight, in whole numbers below 2^48
    a.load(r0, best.weight());
    a.alu('mul', r0, r3);
    a.load(r1, best.count());
    a.alu('mul', r1, r4);
    a.jumpIf(r0, '>=', r1, next);
    a.store(best.slot(), r2);
    a.store(best.count(), r3);
    a.store(best.weight(), r4);
  });
  a.load(r0, best.slot());
  a.load(r5, best.weight());
  a.alu('and', r0, MAX_BACKENDS - 1);
}

/** r1 = the backend in the slot, in the snapshot (r7). */
function findSlot(a: Code, slot: Register): void {
  a.mov(r1, slot);
  a.alu('mul', r1, BACKEND.size);
  a.alu('add', r1, r7);
  a.alu('add', r1, SNAPSHOT.at.backends);
}

/** index = the u16 there in the table of the snapshot (r7); its bound must be known. Loses r1. */
export function loadSlot(a: Code, index: Register, table: 'maglev' | 'ready' | 'rotation'): void {
  a.alu('shiftLeft', index, 1);
  a.mov(r1, r7);
  a.alu('add', r1, index);
  a.alu('add', r1, SNAPSHOT.at[table]);
  a.load(index, memory(r1, 0, U16));
  a.alu('and', index, MAX_BACKENDS - 1);
}

/**
 * count = the count in the slot's record at `live` (r8), { count, reference } with `size` bytes, or 0 if it is another
 * incarnation's; weight = the slot's. Without a fork. Loses r1.
 */
export function loadLive(
  a: Code,
  { slot, count, weight, size }: { slot: Register; count: Register; weight: Register; size: number },
): void {
  findSlot(a, slot);
  a.load(weight, field(r1, BACKEND, 'weight'));
  a.load(r1, field(r1, BACKEND, 'usable'));
  a.mov(count, slot);
  a.alu('mul', count, size);
  a.alu('add', count, r8);
  a.load(count, memory(count, 0, U64));
  // Less the reference it is beyond 32 bits if it is another one's: mask = (-beyond >> 63) - 1.
  a.alu('shiftLeft', r1, 32);
  a.alu('xor', count, r1);
  a.mov(r1, count);
  a.alu('shiftRight', r1, 32);
  a.alu('mul', r1, -1);
  a.alu('shiftRight', r1, 63);
  a.alu('sub', r1, 1);
  a.alu('and', count, r1);
}
