/**
 * Which outcomes of attempts to connect are worth a message to another thread. Every failure is; a success only after a failure,
 * since all that it does is to end a row of them (`connectFailures`).
 */
export class OutcomeFilter {
  /** Pool and id of backends whose last attempt failed. */
  readonly #failing = new Set<string>();

  isNews(pool: string, backend: string, failure: string | undefined): boolean {
    if (failure === undefined) return this.#failing.size > 0 && this.#failing.delete(`${pool} ${backend}`);
    this.#failing.add(`${pool} ${backend}`);
    return true;
  }
}
