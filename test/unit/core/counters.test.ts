import fc from 'fast-check';
import { expect, test } from 'vitest';
import { COUNTER_COUNT, DIRECTIONS, ListenerCounters } from '../../../relay/core/counters.ts';
import { DROP_REASONS } from '../../../relay/core/drop-reason.ts';

test('counters begin at zero, with every reason present', () => {
  const { downstream, upstream, ...sessions } = new ListenerCounters().dump();
  for (const { dropped, ...traffic } of [downstream, upstream]) {
    expect(traffic).toEqual({ received: 0, receivedBytes: 0, forwarded: 0, forwardedBytes: 0 });
    expect(dropped).toEqual(Object.fromEntries(DROP_REASONS.map((name) => [name, 0])));
  }
  expect(new Set(Object.values(sessions))).toEqual(new Set([0]));
});

test('each thing is counted in one place and nowhere else', () => {
  const counted = fc.record({
    direction: fc.nat(1),
    reason: fc.nat(DROP_REASONS.length - 1),
    n: fc.nat(1e12),
  });
  fc.assert(
    fc.property(fc.array(counted, { maxLength: 20 }), (all) => {
      const counters = new ListenerCounters();
      for (const { direction, reason, n } of all) {
        counters.received(direction, n);
        counters.forwarded(direction, 2, n);
        counters.dropped(direction, reason, 3);
      }
      const dump = counters.dump();
      for (const [index, name] of DIRECTIONS.entries()) {
        const own = all.filter(({ direction }) => direction === index);
        const bytes = own.reduce((sum, { n }) => sum + n, 0);
        const { dropped, ...traffic } = dump[name];
        expect(traffic).toEqual({
          received: own.length,
          receivedBytes: bytes,
          forwarded: 2 * own.length,
          forwardedBytes: bytes,
        });
        for (const [reason, label] of DROP_REASONS.entries())
          expect(dropped[label]).toBe(3 * own.filter((each) => each.reason === reason).length);
      }
    }),
  );
});

test('sessions are counted apart', () => {
  const counters = new ListenerCounters();
  for (let i = 0; i < 4; i++) counters.sessionOpened();
  for (let i = 0; i < 3; i++) counters.sessionExpired();
  for (let i = 0; i < 2; i++) counters.sessionEvicted();
  counters.sessionRepinned();
  expect(counters.dump()).toMatchObject({
    sessionsOpened: 4,
    sessionsExpired: 3,
    sessionsEvicted: 2,
    sessionsRepinned: 1,
  });
});

test('counters may live in memory that another thread reads', () => {
  const shared = new SharedArrayBuffer(COUNTER_COUNT * 8);
  new ListenerCounters(new Float64Array(shared)).received(0, 14);
  expect(new ListenerCounters(new Float64Array(shared)).dump().downstream.receivedBytes).toBe(14);
});

test('a dump is a copy', () => {
  const counters = new ListenerCounters();
  const before = counters.dump();
  counters.received(0, 14);
  expect(before.downstream.received).toBe(0);
});
