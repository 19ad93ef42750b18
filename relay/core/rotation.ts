/**
 * The order in which round-robin takes backends: each as often as its weight says, and spread out, so that a heavy
 * backend does not get its players in bursts (smooth weighted round-robin, as in nginx).
 *
 * Each turn every backend earns its weight; the richest, the first of several, takes the turn and pays what all have
 * earned. Backends of one weight therefore take turns among themselves in order, and only the next one of each weight
 * needs a look: with 1,024 backends of any weights that is a fourth of the time, with a few weights next to none.
 */
export interface WeightedSlot {
  readonly slot: number;
  /** 1..MAX_WEIGHT. */
  readonly weight: number;
}

/** Backends of one weight. */
interface Tier {
  readonly weight: number;
  /** Positions in the list of backends. */
  readonly members: number[];
  /** Index of the member that is next. */
  next: number;
  /** What its members have paid, each, by the time the next one is up. */
  paid: number;
}

/** One full round as pool slots, with the weights reduced by their common divisor; empty when there are no backends. */
export function buildRotation(backends: readonly WeightedSlot[]): Uint16Array {
  const divisor = backends.reduce((gcd, { weight }) => greatestCommonDivisor(gcd, weight), 0);
  const tiers = tiersOf(backends, divisor);
  const total = tiers.reduce((sum, { weight, members }) => sum + weight * members.length, 0);

  const rotation = new Uint16Array(total);
  for (let turn = 0; turn < total; turn++) {
    const tier = richest(tiers, turn + 1);
    rotation[turn] = backends[tier.members[tier.next]!]!.slot;
    tier.next++;
    if (tier.next === tier.members.length) {
      tier.next = 0;
      tier.paid += total;
    }
  }
  return rotation;
}

/** The tier whose next member is richest after `turns` turns; of equals, the one whose member comes first. */
function richest(tiers: readonly Tier[], turns: number): Tier {
  let best = tiers[0]!;
  let most = turns * best.weight - best.paid;
  for (let i = 1; i < tiers.length; i++) {
    const tier = tiers[i]!;
    const left = turns * tier.weight - tier.paid;
    if (left > most || (left === most && tier.members[tier.next]! < best.members[best.next]!)) {
      best = tier;
      most = left;
    }
  }
  return best;
}

function tiersOf(backends: readonly WeightedSlot[], divisor: number): Tier[] {
  const tiers = new Map<number, Tier>();
  for (const [position, { weight }] of backends.entries()) {
    const tier = tiers.get(weight);
    if (tier === undefined)
      tiers.set(weight, { weight: weight / divisor, members: [position], next: 0, paid: 0 });
    else tier.members.push(position);
  }
  return [...tiers.values()];
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
