import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { LoopClock } from '../../../relay/control/loop-clock.ts';

let stalledMs = 0;
let clock: LoopClock;

beforeEach(() => {
  vi.useFakeTimers();
  stalledMs = 0;
  clock = new LoopClock(() => performance.now() + stalledMs);
});

afterEach(() => {
  clock.close();
  vi.useRealTimers();
});

test('follows the monotonic clock while the loop runs', () => {
  const start = clock.nowMs();
  vi.advanceTimersByTime(10_000);
  expect(clock.nowMs() - start).toBe(10_000);
  expect(clock.stalledSince(start)).toBe(false);
});

test('stands still while the loop is stalled, and says so from then on', () => {
  const start = clock.nowMs();
  vi.advanceTimersByTime(1_000);
  stalledMs += 600_000;
  expect(clock.stalledSince(start)).toBe(true);
  vi.advanceTimersByTime(1_000);
  expect(clock.nowMs() - start).toBeLessThanOrEqual(2_050);
  expect(clock.stalledSince(start)).toBe(true);
  const later = clock.nowMs();
  vi.advanceTimersByTime(1_000);
  expect(clock.stalledSince(later)).toBe(false);
});

test('a tick that is a little late is no stall', () => {
  const start = clock.nowMs();
  stalledMs += 90;
  vi.advanceTimersByTime(1_000);
  expect(clock.nowMs() - start).toBe(1_090);
  expect(clock.stalledSince(start)).toBe(false);
});

test('never goes backwards', () => {
  let last = clock.nowMs();
  for (let i = 0; i < 200; i++) {
    if (i % 40 === 7) stalledMs += 5_000;
    const atOnce = clock.nowMs();
    vi.advanceTimersByTime(11);
    expect(atOnce).toBeGreaterThanOrEqual(last);
    last = clock.nowMs();
    expect(last).toBeGreaterThanOrEqual(atOnce);
  }
});

test('the wall clock has no influence', () => {
  const start = clock.nowMs();
  vi.setSystemTime(new Date('2040-01-01'));
  vi.advanceTimersByTime(1_000);
  expect(clock.nowMs() - start).toBe(1_000);
  expect(clock.stalledSince(start)).toBe(false);
});
