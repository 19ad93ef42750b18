/** How much a call leaves on the heap, for tests of code that shall allocate nothing. */
import { collectGarbage } from './garbage.ts';

/** Calls that are counted, with 0 to CALLS - 1, and as many before them that warm the code up. */
export const CALLS = 200_000;
const CHUNKS = 20;

/** The smallest object takes 16 bytes, a boxed double as well. Engine and test runner have their own small needs. */
export const MOST_BYTES_EACH = 1;

/**
 * Bytes that the heap grows by for each call, once the code is warm and compiled: the median over chunks so short that
 * few of them meet a collection.
 */
export function bytesPerCall(call: (i: number) => void): number {
  for (let i = 0; i < CALLS; i++) call(i);
  collectGarbage();
  const growth = Array.from({ length: CHUNKS }, (_, chunk) => {
    const first = (chunk * CALLS) / CHUNKS;
    const before = process.memoryUsage().heapUsed;
    for (let i = first; i < first + CALLS / CHUNKS; i++) call(i);
    return ((process.memoryUsage().heapUsed - before) * CHUNKS) / CALLS;
  });
  return growth.sort((a, b) => a - b)[CHUNKS / 2]!;
}
