import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TimerQueue } from '../../../net/linux/timer-queue.ts';

/** The same by looking at every timer. */
class NaiveTimers {
  readonly #timers = new Map<number, number>();

  add(id: number, dueMs: number): void {
    this.#timers.set(id, dueMs);
  }

  cancel(id: number): void {
    this.#timers.delete(id);
  }

  runDue(nowMs: number): number[] {
    const due = [...this.#timers].filter(([, dueMs]) => dueMs <= nowMs).map(([id]) => id);
    for (const id of due) this.#timers.delete(id);
    return due;
  }

  get firstDueMs(): number {
    return Math.min(...this.#timers.values());
  }
}

const step = fc.oneof(
  fc.record({ add: fc.constantFrom(5, 10, 100) }),
  fc.record({ cancel: fc.nat(40) }),
  fc.record({ pass: fc.nat(60) }),
);

describe('TimerQueue', () => {
  test('runs what a search through all timers would, and sleeps past none', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const [queue, naive] = [new TimerQueue(), new NaiveTimers()];
        const cancels: (() => void)[] = [];
        const ran: number[] = [];
        let nowMs = 1_000;
        for (const each of steps) {
          if ('add' in each) {
            const id = cancels.length;
            cancels.push(queue.add(nowMs, each.add, () => ran.push(id)));
            naive.add(id, nowMs + each.add);
          } else if ('cancel' in each) {
            cancels[each.cancel]?.();
            naive.cancel(each.cancel);
          } else {
            nowMs += each.pass;
            queue.runDue(nowMs);
            expect(ran.splice(0).sort()).toEqual(naive.runDue(nowMs).sort());
          }
          expect(queue.nextDueMs).toBeLessThanOrEqual(naive.firstDueMs);
        }
      }),
    );
  });

  test('those of one delay run in the order in which they were set', () => {
    const queue = new TimerQueue();
    const ran: string[] = [];
    for (const [nowMs, name] of [
      [0, 'a'],
      [1, 'b'],
      [1, 'c'],
    ] as const)
      queue.add(nowMs, 10, () => ran.push(name));
    queue.runDue(11);
    expect(ran).toEqual(['a', 'b', 'c']);
  });

  test('a timer may set itself again, and cancel another that is due', () => {
    const queue = new TimerQueue();
    let runs = 0;
    const again = (): void => {
      runs++;
      cancelOther();
      queue.add(10 * runs, 10, again);
    };
    queue.add(0, 10, again);
    const cancelOther = queue.add(0, 10, () => expect.unreachable('it was cancelled'));
    for (const nowMs of [5, 10, 15, 20, 30]) queue.runDue(nowMs);
    expect(runs).toBe(3);
    expect(queue.nextDueMs).toBe(40);
  });
});
