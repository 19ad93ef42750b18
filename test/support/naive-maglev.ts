/**
 * The Maglev table as the paper's pseudocode has it (NSDI 2016, section 3.4): whole permutations written out first,
 * then backends in turn, one entry each. Equal weights only.
 */
import type { Endpoint } from '../../net/address.ts';
import { naiveJhash2 } from './naive-jhash2.ts';

/** The endpoint of each of the `size` entries. */
export function naiveMaglev(endpoints: readonly Endpoint[], size: number): string[] {
  const sorted = [...endpoints].sort((a, b) => {
    const [x, y] = [sortKey(a), sortKey(b)];
    return x < y ? -1 : x > y ? 1 : 0;
  });
  const permutations = sorted.map((endpoint) => {
    const identity = [...endpoint.ip.words, endpoint.port];
    const offset = naiveJhash2(identity, 1) % size;
    const skip = (naiveJhash2(identity, 2) % (size - 1)) + 1;
    return Array.from({ length: size }, (_, j) => (offset + j * skip) % size);
  });
  const names = sorted.map(String);
  const entry = new Map<number, string>();
  const next = sorted.map(() => 0);
  for (;;) {
    for (const [i, name] of names.entries()) {
      let c = permutations[i]![next[i]!]!;
      while (entry.has(c)) {
        next[i]!++;
        c = permutations[i]![next[i]!]!;
      }
      entry.set(c, name);
      next[i]!++;
      if (entry.size === size) return Array.from({ length: size }, (_, slot) => entry.get(slot)!);
    }
  }
}

function sortKey({ ip, port }: Endpoint): string {
  return Buffer.from(ip.bytes).toString('hex') + port.toString(16).padStart(4, '0');
}
