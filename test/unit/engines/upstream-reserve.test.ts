/** Upstream sockets that are open ahead of need. */
import { describe, expect, test } from 'vitest';
import { UPSTREAM_OPENS_PER_SWEEP } from '../../../relay/core/limits.ts';
import { QUARANTINE_MS, upstreamRig } from './upstream-rig.ts';

describe('the reserve of upstream sockets', () => {
  const RESERVE = { least: 4, most: 40 };
  const ready = (maxSockets = 1_000) => {
    const r = upstreamRig(maxSockets, ['a', 'b'], RESERVE);
    const open = (): number => r.opened.filter(({ closed }) => !closed).length;
    /** Sweeps once a window, which is how long a burst is remembered at its full size. */
    const rest = (fromMs: number, windows: number): void => {
      for (let i = 1; i <= windows; i++) r.sockets.sweep(fromMs + i * 1_000);
    };
    r.sockets.sweep(0);
    return { ...r, open, rest };
  };

  test('some are open before the first session comes, and it takes one of them', () => {
    const { sockets, open, refuse } = ready();
    expect(open()).toBe(RESERVE.least);
    sockets.acquire(0, 1, 0);
    expect(refuse.attempts).toBe(RESERVE.least);
    sockets.sweep(50);
    expect([open(), sockets.size]).toEqual([RESERVE.least + 1, RESERVE.least + 1]);
  });

  test('a slot takes what others have open before it takes from the reserve', () => {
    const { sockets } = ready();
    const [first, second] = [sockets.acquire(0, 1, 0), sockets.acquire(0, 2, 0)];
    sockets.sweep(50);
    expect([sockets.acquire(1, 3, 50), sockets.acquire(1, 4, 50)].toSorted()).toEqual(
      [first, second].toSorted(),
    );
  });

  test('it grows with what was taken in a second, a few in each step and up to its cap', () => {
    const { sockets, open } = ready();
    for (let session = 0; session < 30; session++) sockets.acquire(0, session, 10);
    const steps = [50, 100, 150, 200, 250].map((nowMs) => {
      sockets.sweep(nowMs);
      return open() - 30;
    });
    expect(steps).toEqual([1, 2, 3, 4, 4].map((step) => Math.min(30, step * UPSTREAM_OPENS_PER_SWEEP)));
    for (let session = 30; session < 1_030; session++) sockets.acquire(0, session, 300);
    for (let nowMs = 350; nowMs < 1_000; nowMs += 50) sockets.sweep(nowMs);
    expect(open()).toBeLessThanOrEqual(1_030 + RESERVE.most);
  });

  test('without need it shrinks to what it was at the start', () => {
    const { sockets, open, rest } = ready();
    const numbers = Array.from({ length: 40 }, (_, session) => sockets.acquire(0, session, 0));
    for (let nowMs = 50; nowMs < 400; nowMs += 50) sockets.sweep(nowMs);
    expect(open()).toBe(80);
    numbers.forEach((number, session) => sockets.release(number, 0, session, 500));
    rest(500, 60);
    expect([open(), sockets.size]).toEqual([RESERVE.least, RESERVE.least]);
  });

  test('a socket that was left and has rested is part of it, and serves again', () => {
    const { sockets, refuse } = ready();
    const numbers = [0, 1, 2, 3].map((session) => sockets.acquire(0, session, 0));
    numbers.forEach((number, session) => sockets.release(number, 0, session, 0));
    sockets.sweep(QUARANTINE_MS);
    const { attempts } = refuse;
    for (let session = 0; session < 4; session++) sockets.acquire(0, session, QUARANTINE_MS);
    expect(refuse.attempts).toBe(attempts);
  });

  test('it is at most an eighth of what may be opened, and gives way to sessions at the cap', () => {
    const { sockets, open } = ready(16);
    expect(open()).toBe(2);
    for (let session = 0; session < 14; session++) sockets.acquire(0, session, 0);
    sockets.sweep(50);
    expect(sockets.size).toBe(16);
    // A backend of the other family: the spare ones are of no use to it.
    expect([14, 15, 16].map((session) => sockets.acquire(0, session, 50) !== -1)).toEqual([
      true,
      true,
      false,
    ]);
    expect(sockets.size).toBe(16);
  });

  test('it gives way to a backend of the other address family', () => {
    const { sockets, add, publish, slot, open } = ready(8);
    for (let session = 0; session < 7; session++) sockets.acquire(0, session, 0);
    sockets.sweep(50);
    expect(open()).toBe(8);
    add('six', '[2001:db8::1]:7777');
    publish(50);
    expect(sockets.acquire(slot('six'), 7, 50)).not.toBe(-1);
    expect(open()).toBe(8);
  });

  test('a backend that is new to its slot needs no rest from a spare socket', () => {
    const { sockets, add, publish, slot } = ready();
    add('c');
    publish(10);
    expect(sockets.acquire(slot('c'), 1, 10)).not.toBe(-1);
    expect(sockets.acquire(0, 2, 10)).not.toBe(-1);
    expect(sockets.size).toBe(RESERVE.least);
  });

  test('without backends there is none', () => {
    const { sockets, pool, publish } = ready();
    pool.remove('a');
    pool.remove('b');
    publish(50);
    sockets.sweep(50);
    expect(sockets.size).toBe(0);
  });

  test('a refusal by the system ends the step, and the reserve is filled later', () => {
    const { sockets, refuse, open, failures } = ready();
    refuse.error = new Error('EMFILE');
    sockets.acquire(0, 1, 0);
    sockets.sweep(50);
    expect([open(), failures.length]).toEqual([RESERVE.least, 1]);
    refuse.error = undefined;
    sockets.sweep(100);
    expect(open()).toBe(RESERVE.least);
    sockets.sweep(150);
    expect(open()).toBe(RESERVE.least + 1);
  });
});
