import fc from 'fast-check';
import { expect, test } from 'vitest';
import { HealthTracker } from '../../../relay/core/health-tracker.ts';
import { naiveVerdict } from '../../support/naive-health.ts';

/** Records checks written as `+` and `-`; returns the transitions that they made. */
function record(tracker: HealthTracker, checks: string): (string | undefined)[] {
  return Array.from(checks, (check) => tracker.record(check === '+'));
}

test('fall failures in a row take a backend down, once', () => {
  const tracker = new HealthTracker({ rise: 2, fall: 3 });
  expect(tracker.healthy).toBe(true);
  expect(record(tracker, '--')).toEqual([undefined, undefined]);
  expect(tracker.healthy).toBe(true);
  expect(record(tracker, '---')).toEqual(['down', undefined, undefined]);
  expect(tracker.healthy).toBe(false);
});

test('rise successes in a row bring it back, once', () => {
  const tracker = new HealthTracker({ rise: 2, fall: 3, healthy: false });
  expect(record(tracker, '+-++++')).toEqual([undefined, undefined, undefined, 'up', undefined, undefined]);
  expect(tracker.healthy).toBe(true);
});

test('a check that agrees with the verdict starts the count again', () => {
  const tracker = new HealthTracker({ rise: 2, fall: 3 });
  record(tracker, '--+');
  expect(record(tracker, '--')).toEqual([undefined, undefined]);
  expect(tracker.healthy).toBe(true);
});

test('with rise and fall of 1 every check decides', () => {
  const tracker = new HealthTracker({ rise: 1, fall: 1 });
  expect(record(tracker, '-+-')).toEqual(['down', 'up', 'down']);
});

test.each([true, false])(
  'a backend that flaps with each check never changes from healthy = %s',
  (healthy) => {
    const tracker = new HealthTracker({ rise: 2, fall: 2, healthy });
    expect(record(tracker, '-+'.repeat(500)).every((transition) => transition === undefined)).toBe(true);
    expect(tracker.healthy).toBe(healthy);
  },
);

test('rise and fall below 1 are programmer errors', () => {
  expect(() => new HealthTracker({ rise: 0, fall: 3 })).toThrow();
  expect(() => new HealthTracker({ rise: 2, fall: 0.5 })).toThrow();
});

test('agrees with the naive twin after every check of any history', () => {
  const runs = fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 6 })), { maxLength: 15 });
  const options = fc.record({
    rise: fc.integer({ min: 1, max: 4 }),
    fall: fc.integer({ min: 1, max: 4 }),
    healthy: fc.boolean(),
  });
  fc.assert(
    fc.property(options, runs, (options, runs) => {
      const tracker = new HealthTracker(options);
      const history: boolean[] = [];
      for (const [success, length] of runs) {
        for (let i = 0; i < length; i++) {
          const before = tracker.healthy;
          const transition = tracker.record(success);
          history.push(success);
          expect(tracker.healthy).toBe(naiveVerdict(history, options));
          expect(transition).toBe(tracker.healthy === before ? undefined : tracker.healthy ? 'up' : 'down');
        }
      }
    }),
  );
});

test('takes a backend down at once where more is known than a check says, and brings it back as ever', () => {
  const tracker = new HealthTracker({ rise: 2, fall: 3 });
  tracker.record(false);
  expect([tracker.fail(), tracker.fail()]).toEqual([true, false]);
  expect(tracker.healthy).toBe(false);
  expect(tracker.record(true)).toBeUndefined();
  expect(tracker.fail()).toBe(false);
  expect(tracker.record(true)).toBeUndefined();
  expect(tracker.record(true)).toBe('up');
});
