/**
 * With sourceAddress `relay`: which of `kernel.relayPorts` a listener has, in arithmetic.
 *
 * A listener that is new gets a quarter of the largest stretch that nobody has. So the first has a quarter of all, and there is
 * something left for whoever comes next, however many they are. What it has it keeps while it is there; when a relay takes it over
 * there may be more room around it than there was, and it gets the quarter of that.
 */

/** Ports from `first` to `last`, both included. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** The part of a stretch that one listener gets: a quarter. */
const PARTS = 4;

export interface Surroundings {
  /** All relay ports. */
  readonly whole: PortRange;
  /** What other listeners have. */
  readonly taken: readonly PortRange[];
  /** What one may have, however much there is. */
  readonly most: number;
}

/** Ports for a listener that has none yet; undefined when nothing is left. */
export function newRange({ whole, taken, most }: Surroundings): PortRange | undefined {
  const stretches = stretchesOf(whole, taken);
  const largest = Math.max(0, ...stretches.map(sizeOf));
  const stretch = stretches.find((one) => sizeOf(one) === largest);
  return stretch && { first: stretch.first, last: stretch.first + partOf(stretch, most) - 1 };
}

/** The ports of a listener that has `own`: these, and maybe more around them. Undefined when it may not have them any more. */
export function keptRange(own: PortRange, { whole, taken, most }: Surroundings): PortRange | undefined {
  if (sizeOf(own) > most) return undefined;
  const stretch = stretchesOf(whole, taken).find(({ first, last }) => first <= own.first && own.last <= last);
  if (stretch === undefined) return undefined;
  const size = Math.max(sizeOf(own), partOf(stretch, most));
  const first = Math.min(own.first, stretch.last - size + 1);
  return { first, last: first + size - 1 };
}

export function sizeOf({ first, last }: PortRange): number {
  return last - first + 1;
}

function partOf(stretch: PortRange, most: number): number {
  return Math.min(most, Math.ceil(sizeOf(stretch) / PARTS));
}

/** What is left of the whole between those that are taken, in order. */
function stretchesOf(whole: PortRange, taken: readonly PortRange[]): PortRange[] {
  const stretches: PortRange[] = [];
  let { first } = whole;
  for (const range of taken.toSorted((a, b) => a.first - b.first)) {
    if (range.first > first) stretches.push({ first, last: Math.min(range.first - 1, whole.last) });
    first = Math.max(first, range.last + 1);
  }
  stretches.push({ first, last: whole.last });
  return stretches.filter((stretch) => sizeOf(stretch) > 0);
}
