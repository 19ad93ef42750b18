/**
 * Timers for a loop that waits in the kernel. Those of one delay fall due in the order in which they were set, so each delay has
 * a list of its own, and setting or cancelling one touches its neighbours only. Time is passed in.
 */

interface Timer {
  readonly run: () => void;
  readonly dueMs: number;
  before: Timer | undefined;
  after: Timer | undefined;
}

interface TimerList {
  first: Timer | undefined;
  last: Timer | undefined;
}

export class TimerQueue {
  readonly #lists = new Map<number, TimerList>();
  /** No timer is due before, in ms. Cancelling one does not put it off, so it may come and find nothing. */
  nextDueMs = Number.POSITIVE_INFINITY;

  /** Calls `run` once, from the `runDue` that `delayMs` have passed for. @returns what prevents it */
  add(nowMs: number, delayMs: number, run: () => void): () => void {
    const list = this.#listOf(delayMs);
    const timer: Timer = { run, dueMs: nowMs + delayMs, before: list.last, after: undefined };
    if (list.last === undefined) list.first = timer;
    else list.last.after = timer;
    list.last = timer;
    if (timer.dueMs < this.nextDueMs) this.nextDueMs = timer.dueMs;
    return () => remove(list, timer);
  }

  #listOf(delayMs: number): TimerList {
    let list = this.#lists.get(delayMs);
    if (list === undefined) this.#lists.set(delayMs, (list = { first: undefined, last: undefined }));
    return list;
  }

  /** Runs what is due. */
  runDue(nowMs: number): void {
    if (nowMs < this.nextDueMs) return;
    // What a timer sets anew meanwhile lowers it again.
    this.nextDueMs = Number.POSITIVE_INFINITY;
    for (const list of this.#lists.values()) {
      while (list.first !== undefined && list.first.dueMs <= nowMs) {
        const timer = list.first;
        remove(list, timer);
        timer.run();
      }
      if (list.first !== undefined && list.first.dueMs < this.nextDueMs) this.nextDueMs = list.first.dueMs;
    }
  }
}

/** Of no effect for one that is not in the list any more. */
function remove(list: TimerList, timer: Timer): void {
  const { before, after } = timer;
  const isIn = before !== undefined || list.first === timer;
  if (!isIn) return;
  if (before === undefined) list.first = after;
  else before.after = after;
  if (after === undefined) list.last = before;
  else after.before = before;
  timer.before = timer.after = undefined;
}
