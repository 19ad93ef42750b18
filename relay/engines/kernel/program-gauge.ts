/** Counting what there is, whoever changes it. */
import { memory, r1, r2 } from './memory.ts';
import type { Code } from './program-frame.ts';
import { GAUGES } from './records.ts';
import { U64 } from './struct.ts';

/** A gauge += 1 or -1. Loses r1 and r2. */
export function changeGauge(a: Code, name: keyof typeof GAUGES.at, by: 1 | -1): void {
  a.loadMapValue(r1, 'gauges', GAUGES.at[name]);
  a.mov(r2, by);
  a.atomicAdd(memory(r1, 0, U64), r2);
}
