import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SendSchedule } from '../../../botclient/send-schedule.ts';

const base = { players: 100, tickHz: 128, rampMs: 1000, warmupMs: 500, durationMs: 10_000 };

test('128 Hz is cut into eight slots of a millisecond, with 12 or 13 of 100 players in each', () => {
  const schedule = new SendSchedule(base);
  expect(schedule.slotsPerTick).toBe(8);
  expect(schedule.slotMs).toBe(0.9765625);
  expect(Array.from({ length: 9 }, (_, slot) => schedule.firstPlayerOf(slot))).toEqual([
    0, 13, 25, 38, 50, 63, 75, 88, 100,
  ]);
});

test('a player is in one slot of a tick, and the slots hold as many players as each other, give or take one', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 3000 }), fc.integer({ min: 1, max: 1000 }), (players, tickHz) => {
      const schedule = new SendSchedule({ ...base, players, tickHz });
      const sizes = Array.from(
        { length: schedule.slotsPerTick },
        (_, slot) => schedule.firstPlayerOf(slot + 1) - schedule.firstPlayerOf(slot),
      );
      expect(schedule.firstPlayerOf(0)).toBe(0);
      expect(schedule.firstPlayerOf(schedule.slotsPerTick)).toBe(players);
      expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
      expect(Math.min(...sizes)).toBeGreaterThanOrEqual(1);
      expect(schedule.slotMs * schedule.slotsPerTick).toBeCloseTo(1000 / tickHz);
    }),
  );
});

test('players join evenly over the ramp, all of them before the first measured tick', () => {
  const schedule = new SendSchedule(base);
  expect([0, 1, 50, 99].map((player) => schedule.joinTick(player))).toEqual([0, 1, 64, 126]);
  expect(schedule.firstMeasuredTick).toBe(128 + 64);
  expect(schedule.endTick).toBe(192 + 1280);
  expect([191, 192, 1471, 1472].map((tick) => schedule.isMeasured(tick))).toEqual([false, true, true, false]);
});

test('without ramp and warm-up everyone sends and is measured from tick 0', () => {
  const schedule = new SendSchedule({ ...base, rampMs: 0, warmupMs: 0 });
  expect(schedule.joinTick(99)).toBe(0);
  expect(schedule.firstMeasuredTick).toBe(0);
});

test('a duration below a tick measures one tick, and an infinite one never ends', () => {
  const measuredTicks = (durationMs: number): number => {
    const schedule = new SendSchedule({ ...base, durationMs });
    return schedule.endTick - schedule.firstMeasuredTick;
  };
  expect(measuredTicks(0)).toBe(1);
  expect(measuredTicks(Infinity)).toBe(Infinity);
});
