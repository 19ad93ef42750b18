/** What a datagram adds to the figures of its backend. Several CPUs do so at once, hence atomically. */
import { MAX_BACKENDS } from '../../core/limits.ts';
import { field, type Memory, r0, r1, r2, r8 } from './memory.ts';
import { type Code, local, lookupAt } from './program-frame.ts';
import { FIGURES, RULES } from './records.ts';

/** r0 = the figures of the backend with this reference in the listener's (r8) pool, or a jump, which is never. Loses r1 to r5. */
export function findFigures(a: Code, ref: Memory, otherwise: string): void {
  a.load(r1, field(r8, RULES, 'pool'));
  a.alu('mul', r1, MAX_BACKENDS);
  a.load(r2, ref);
  a.alu('and', r2, MAX_BACKENDS - 1);
  a.alu('add', r1, r2);
  lookupAt(a, 'figures', { index: r1, otherwise });
}

/** The packet at hand is one of those counted in these fields of the figures (r0). Loses r1. */
export function countTraffic(a: Code, direction: 'Downstream' | 'Upstream'): void {
  a.load(r1, local('datagrams'));
  a.atomicAdd(field(r0, FIGURES, `datagrams${direction}`), r1);
  a.load(r1, local('bytes'));
  a.atomicAdd(field(r0, FIGURES, `bytes${direction}`), r1);
}
