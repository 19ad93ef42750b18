/** Timers of a loop that looks at the clock as seldom as it can. */
import { afterEach, beforeEach, expect, type MockInstance, test, vi } from 'vitest';
import { PeriodicTimers } from '../../../net/linux/periodic-timers.ts';

let nowMs: number;
let clock: MockInstance<() => number>;
let timers: PeriodicTimers;
let runs: number[];

beforeEach(() => {
  nowMs = 1_000;
  clock = vi.spyOn(performance, 'now').mockImplementation(() => nowMs);
  timers = new PeriodicTimers();
  runs = [];
});
afterEach(() => vi.restoreAllMocks());

/** A round at this time. @returns whether timers were looked at */
const round = (atMs: number): boolean => {
  nowMs = atMs;
  return timers.run(nowMs);
};

test('a timer runs at once and in its period; runs that fell due together are one, and the period goes on as it was', () => {
  timers.add(50, () => runs.push(nowMs));
  for (const atMs of [1_000, 1_030, 1_050, 1_170, 1_199, 1_200]) round(atMs);
  expect(runs).toEqual([1_000, 1_050, 1_170, 1_200]);
});

test('one that has ended, or was cleared, runs no more', () => {
  const end = timers.add(50, () => runs.push(1));
  timers.add(50, () => runs.push(2));
  round(1_000);
  end();
  round(1_050);
  timers.clear();
  round(1_100);
  expect(runs).toEqual([1, 2, 2]);
});

test('a wait ends no later than the first timer is due, though the round took time, and is whole while that is far', () => {
  expect(timers.waitMs(20, nowMs)).toBe(20);
  timers.add(50, () => undefined);
  round(1_000);
  nowMs = 1_001;
  expect(timers.waitMs(20, 1_000)).toBe(20);
  expect(timers.waitMs(100, 1_000.5)).toBe(47);
  nowMs = 1_047.25;
  expect(timers.waitMs(20, 1_047)).toBe(2.75);
  nowMs = 1_060;
  expect(timers.waitMs(20, 1_047)).toBe(0);
});

test('while nothing is due soon the clock is not asked', () => {
  timers.add(50, () => undefined);
  round(1_000);
  clock.mockClear();
  expect(round(1_020)).toBe(false);
  expect(timers.waitMs(20, 1_020)).toBe(20);
  expect(clock).not.toHaveBeenCalled();
});
