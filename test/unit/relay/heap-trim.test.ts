import { getHeapSpaceStatistics } from 'node:v8';
import { expect, it } from 'vitest';
import { trimHeap } from '../../../relay/heap-trim.ts';

function newSpaceBytes(): number {
  return getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space')!.space_size;
}

it('gives back the space for new objects that loading code has made large', async () => {
  // What outlives collections of the new space enlarges it.
  const kept = Array.from({ length: 500_000 }, (_, i) => ({ i }));
  const grown = newSpaceBytes();
  kept.length = 0;
  await trimHeap();
  expect(newSpaceBytes()).toBeLessThan(grown);
});

it('may be called again, and while it is under way', async () => {
  await Promise.all([trimHeap(), trimHeap()]);
  await expect(trimHeap()).resolves.toBeUndefined();
});
