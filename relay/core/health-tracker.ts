/**
 * Turns single checks of one backend into a steady verdict: `fall` failures in a row take it down, `rise` successes in
 * a row bring it back. One lost probe moves nobody.
 */
import assert from 'node:assert/strict';

export interface HealthTrackerOptions {
  /** Successes in a row that bring an unhealthy backend up, at least 1. */
  readonly rise: number;
  /** Failures in a row that take a healthy backend down, at least 1. */
  readonly fall: number;
  /** The verdict before the first check; true by default. */
  readonly healthy?: boolean;
}

export type HealthTransition = 'up' | 'down';

export class HealthTracker {
  readonly #rise: number;
  readonly #fall: number;
  #healthy: boolean;
  /** Checks in a row that spoke against the verdict; at `fall` or `rise` it turns. */
  #consecutive = 0;

  constructor({ rise, fall, healthy = true }: HealthTrackerOptions) {
    assert(Number.isInteger(rise) && rise >= 1);
    assert(Number.isInteger(fall) && fall >= 1);
    this.#rise = rise;
    this.#fall = fall;
    this.#healthy = healthy;
  }

  get healthy(): boolean {
    return this.#healthy;
  }

  /** Takes the backend down at once: what is known is worse than a failed check. Returns whether it was up. */
  fail(): boolean {
    const wasHealthy = this.#healthy;
    this.#healthy = false;
    this.#consecutive = 0;
    return wasHealthy;
  }

  /** Takes the outcome of one check. Returns the change of verdict, if this check made one. */
  record(success: boolean): HealthTransition | undefined {
    if (success === this.#healthy) {
      this.#consecutive = 0;
      return undefined;
    }
    this.#consecutive++;
    if (this.#consecutive < (success ? this.#rise : this.#fall)) return undefined;
    this.#healthy = success;
    this.#consecutive = 0;
    return success ? 'up' : 'down';
  }
}
