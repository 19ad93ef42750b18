import { expect, test } from 'vitest';
import { IpAddress } from '../../../net/address.ts';
import { PinTable } from '../../../relay/core/pin-table.ts';

const words = (i: number): Uint32Array => IpAddress.parse(`10.1.0.${i}`).words;

test('a listener has pins of its own', () => {
  const pins = new PinTable({ capacity: 4, seed: 1 });
  const id = pins.add(0, words(1), 0, 0);
  pins.setBackendRef(id, 0xffffffff);
  expect([pins.find(0, words(1), 0), pins.find(1, words(1), 0), pins.find(0, words(2), 0)]).toEqual([
    id,
    -1,
    -1,
  ]);
  expect([pins.scope(id), pins.backendRef(id)]).toEqual([0, 0xffffffff]);
});

test('a pin outlives its last session by the timeout, counted from its end', () => {
  const pins = new PinTable({ capacity: 4, seed: 1 });
  const id = pins.add(0, words(1), 0, 0);
  pins.sessionOpened(id, 100);
  pins.sessionOpened(id, 200);
  pins.sessionEnded(id, 300);
  expect(pins.isExpired(id, 1e9, 1_000)).toBe(false);
  pins.sessionEnded(id, 5_000.5);
  expect([pins.isExpired(id, 6_000.25, 1_000), pins.isExpired(id, 6_000.5, 1_000)]).toEqual([false, true]);
  expect(() => pins.sessionEnded(id, 6_000)).toThrow();
});

test('a client IP has a second’s worth of tokens and gets more with time, whatever the clock does', () => {
  const pins = new PinTable({ capacity: 4, seed: 1 });
  const id = pins.add(0, words(1), 0, 0);
  const take = (nowMs: number): boolean => pins.takeToken(id, nowMs, 2);
  expect([1_000, 1_000, 1_000, 1_250, 1_500, 500, 1_500, 2_000].map(take)).toEqual([
    ...[true, true, false, false, true],
    ...[false, false, true],
  ]);
});

test('a full table lets the least valuable go: unconfirmed first, then the oldest, never one with a session', () => {
  const pins = new PinTable({ capacity: 4, seed: 1 });
  const ids = [1, 2, 3, 4].map((i) => pins.add(0, words(i), 0, i * 10));
  pins.sessionOpened(ids[0]!, 0);
  pins.confirm(ids[1]!);
  const here = (): number[] => [1, 2, 3, 4, 5, 6, 7, 8].filter((i) => pins.find(0, words(i), 0) !== -1);
  pins.add(0, words(5), 0, 50);
  expect(here()).toEqual([1, 2, 4, 5]);
  pins.sessionOpened(pins.find(0, words(4), 0), 60);
  pins.sessionOpened(pins.find(0, words(5), 0), 60);
  pins.add(0, words(6), 0, 70);
  expect(here()).toEqual([1, 4, 5, 6]);
  pins.sessionOpened(pins.find(0, words(6), 0), 80);
  expect(pins.add(0, words(7), 0, 90)).toBe(-1);
  expect(here()).toEqual([1, 4, 5, 6]);
});
