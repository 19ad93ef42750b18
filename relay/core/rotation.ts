/**
 * The order in which round-robin takes backends: each as often as its weight says, and as evenly spread as possible, so
 * that a heavy backend does not get its players in bursts (smooth weighted round-robin, as in nginx).
 */
export interface WeightedSlot {
  readonly slot: number;
  /** 1..MAX_WEIGHT. */
  readonly weight: number;
}

/** One full round as pool slots, with the weights reduced by their common divisor; empty when there are no backends. */
export function buildRotation(backends: readonly WeightedSlot[]): Uint16Array {
  const divisor = backends.reduce((gcd, { weight }) => greatestCommonDivisor(gcd, weight), 0);
  const weights = Int32Array.from(backends, ({ weight }) => weight / divisor);
  const total = weights.reduce((sum, weight) => sum + weight, 0);

  // Each turn every backend earns its weight; the richest takes the turn and pays what all have earned.
  const credit = new Int32Array(backends.length);
  const rotation = new Uint16Array(total);
  for (let turn = 0; turn < total; turn++) {
    let richest = 0;
    for (let i = 0; i < credit.length; i++) {
      credit[i]! += weights[i]!;
      if (credit[i]! > credit[richest]!) richest = i;
    }
    credit[richest]! -= total;
    rotation[turn] = backends[richest]!.slot;
  }
  return rotation;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
