/**
 * The most players that pass a rule, found by doubling and then by halving the gap between what passed and what failed. A load
 * that fails is tried once more, since the machine may have had a bad moment; the second failure counts.
 */

/** One trial of a load. */
export interface Trial {
  readonly players: number;
  readonly passed: boolean;
}

export interface SearchBounds {
  /** Where the search begins, and the most that is tried. */
  readonly first: number;
  readonly top: number;
}

/** The gap is halved until it is this share of what passed, or this many players. */
const GAP_SHARE = 0.05;
const LEAST_GAP = 10;

/** What is known: the most that passed, below the least that failed twice. */
export function bracket(trials: readonly Trial[]): { readonly passed: number; readonly failed: number } {
  const passes = (players: number): boolean =>
    trials.some((trial) => trial.players === players && trial.passed);
  const tried = trials.map(({ players }) => players);
  const failed = Math.min(
    Infinity,
    ...tried.filter((load) => !passes(load) && tried.filter((each) => each === load).length >= 2),
  );
  return { passed: Math.max(0, ...tried.filter((load) => load < failed && passes(load))), failed };
}

/** @returns the load to try next, or undefined when the search is over */
export function nextLoad(trials: readonly Trial[], { first, top }: SearchBounds): number | undefined {
  const { passed, failed } = bracket(trials);
  if (failed === Infinity) {
    if (passed >= top) return undefined;
    return passed === 0 ? first : Math.min(top, 2 * passed);
  }
  if (failed - passed <= Math.max(LEAST_GAP, GAP_SHARE * passed)) return undefined;
  const middle = LEAST_GAP * Math.round((passed + failed) / 2 / LEAST_GAP);
  return middle > passed && middle < failed ? middle : undefined;
}
