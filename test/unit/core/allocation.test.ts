/** Core allocates nothing for a datagram: the heap may not grow by a fraction of the smallest object each. */
import { describe, expect, test } from 'vitest';
import { IpAddress } from '../../../net/address.ts';
import { slotOf } from '../../../relay/core/backend-ref.ts';
import { DOWNSTREAM, UPSTREAM } from '../../../relay/core/counters.ts';
import type { ListenerState } from '../../../relay/core/listener-state.ts';
import { ALGORITHMS } from '../../../relay/core/select.ts';
import { bytesPerCall, CALLS, MOST_BYTES_EACH } from '../../support/heap-growth.ts';
import { NO_LIMITS, RouterRig } from './router-rig.ts';

const CLIENTS = 64;

/**
 * Moments with fractions of a ms, as a clock hands them out: boxed, once. A plain array of them would hold bare doubles,
 * and each load box one anew.
 */
const moments = (count: number, stepMs: number): readonly (number | string)[] => [
  'mixed',
  ...Array.from({ length: count }, (_, i) => 1_000_000.25 + i * stepMs),
];
const MOMENTS = moments(CLIENTS, 1);
const moment = (i: number): number => MOMENTS[1 + (i % CLIENTS)] as number;

/** A clock that moves on with every look at it, for as many calls as `bytesPerCall` makes. */
function movingClock(stepMs: number): () => number {
  const ahead = moments(2 * CALLS, stepMs);
  let looks = 0;
  return () => ahead[++looks] as number;
}

/** Sessions of 64 clients, their addresses side by side as in a batch. */
function rig(limits = NO_LIMITS, algorithm: (typeof ALGORITHMS)[number] = 'ip-hash', maxSessions = 1_000) {
  const bed = new RouterRig({ maxSessions });
  const game = bed.listen('game', { limits, algorithm, idleTimeoutMs: 1_000 });
  const words = new Uint32Array(CLIENTS * 4);
  for (let i = 0; i < CLIENTS; i++) words.set(IpAddress.parse(`10.1.0.${i + 1}`).words, i * 4);
  const ports = Uint16Array.from({ length: CLIENTS }, (_, i) => 1_000 + i);
  return { bed, game, words, ports, router: bed.router };
}

describe('no allocation', () => {
  test('the measure sees an object for each datagram', () => {
    const kept: unknown[] = new Array(CALLS);
    expect(bytesPerCall((i) => (kept[i % CLIENTS] = { i }))).toBeGreaterThan(8);
  });

  test('routing a datagram of a live session', () => {
    const { router, game, words, ports } = rig();
    const { counters } = game;
    const grown = bytesPerCall((i) => {
      const at = i % CLIENTS;
      counters.received(DOWNSTREAM, 14);
      const session = router.route(game, words, at * 4, ports[at]!, 14, moment(i));
      if (session < 0) counters.dropped(DOWNSTREAM, ~session);
      else counters.forwarded(DOWNSTREAM, 1, 14);
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
    expect(game.liveSessions).toBe(CLIENTS);
  });

  test('prefetching a batch', () => {
    const { router, words, ports } = rig();
    expect(bytesPerCall(() => router.sessions.prefetch(0, words, ports, 8))).toBeLessThan(MOST_BYTES_EACH);
  });

  test('passing a reply', () => {
    const { bed, router, game, words, ports } = rig();
    const { pool, counters } = game;
    const backends = Uint32Array.from(bed.pool.list().flatMap(({ endpoint }) => [...endpoint.ip.words]));
    const sessions = Array.from({ length: CLIENTS }, (_, i) =>
      router.route(game, words, i * 4, ports[i]!, 14, moment(0)),
    );
    const slots = sessions.map((session) => slotOf(router.sessions.backendRef(session)));
    let passed = 0;
    const grown = bytesPerCall((i) => {
      const session = sessions[i % CLIENTS]!;
      const slot = pool.snapshot.slotAt(backends, slots[i % CLIENTS]! * 4, 7_777);
      counters.received(UPSTREAM, 148);
      if (!router.mayReply(session, slot, moment(i))) return;
      router.sessions.replied(session, 148);
      counters.forwarded(UPSTREAM, 1, 148);
      passed++;
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
    expect(passed).toBe(2 * CALLS);
  });

  const RATES = {
    sessionsPerSource: 10,
    sessionRatePerSource: 1_000,
    sessionRate: 1_000_000,
    amplification: 0,
  };
  const CASES = ALGORITHMS.flatMap((algorithm) => [
    [algorithm, 'without limits', NO_LIMITS] as const,
    [algorithm, 'within limits', RATES] as const,
  ]);

  test.each(CASES)('opening and expiring sessions by %s, %s', (algorithm, _name, limits) => {
    const { router, game, words, ports } = rig(limits, algorithm);
    const now = movingClock(20.25); // each client is back after its session ended
    let opened = 0;
    const grown = bytesPerCall(() => {
      const at = opened % CLIENTS;
      if (router.route(game, words, at * 4, ports[at]!, 14, now()) >= 0) opened++;
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
    expect(opened).toBe(2 * CALLS);
    expect(game.counters.dump()).toMatchObject({ sessionsOpened: opened, sessionsExpired: opened - CLIENTS });
  });

  test.each(CASES)('opening and sweeping sessions and pins by %s, %s', (algorithm, _name, limits) => {
    const { router, game, words, ports } = rig(limits, algorithm, 100);
    const now = movingClock(100.25); // once round takes longer than a pin lives
    const grown = bytesPerCall((i) => {
      const at = i % CLIENTS;
      const nowMs = now();
      router.route(game, words, at * 4, ports[at]!, 14, nowMs);
      router.sweep(32, nowMs);
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
    expect(game.counters.dump().sessionsOpened).toBe(2 * CALLS);
    expect(router.pins.records.size).toBeLessThan(CLIENTS);
  });

  const withGroup = (bed: RouterRig, listener: ListenerState): void => {
    const { groupPins } = bed.router;
    groupPins.set([{ name: 'players', pools: ['game'], pinTimeoutMs: 1 }], () => bed.pool.snapshot(), 0);
    listener.group = groupPins.groups.get('players')!.view('game');
  };

  test('opening and expiring sessions in a pin group, whose pin is followed', () => {
    const { bed, router, game, words, ports } = rig(RATES);
    withGroup(bed, game);
    const now = movingClock(20.25);
    let opened = 0;
    const grown = bytesPerCall(() => {
      const at = opened % CLIENTS;
      if (router.route(game, words, at * 4, ports[at]!, 14, now()) >= 0) opened++;
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
    expect(opened).toBe(2 * CALLS);
    // One of the listener's and one of the group's for each client IP.
    expect(router.pins.records.size).toBe(2 * CLIENTS);
  });

  test('opening and sweeping sessions in a pin group, whose pins are made anew', () => {
    const { bed, router, game, words, ports } = rig(NO_LIMITS, 'ip-hash', 100);
    withGroup(bed, game);
    const now = movingClock(100.25);
    const grown = bytesPerCall((i) => {
      const at = i % CLIENTS;
      const nowMs = now();
      router.route(game, words, at * 4, ports[at]!, 14, nowMs);
      router.sweep(32, nowMs);
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
    expect(game.counters.dump().sessionsOpened).toBe(2 * CALLS);
    expect(router.pins.records.size).toBeLessThan(2 * CLIENTS);
  });

  test('opening sessions by evicting half-open ones, pins as well', () => {
    const { router, game, words } = rig(RATES, 'ip-hash', 100);
    const source = Uint32Array.from(words.subarray(0, 4));
    const now = movingClock(1.25);
    let opened = 0;
    const grown = bytesPerCall(() => {
      source[3] = (source[3]! & 0xff) | ((opened % 0xffffff) << 8);
      if (router.route(game, source, 0, 4_000, 14, now()) >= 0) opened++;
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
    expect(game.counters.dump()).toMatchObject({ sessionsOpened: opened });
    expect(game.counters.dump().sessionsEvicted).toBeGreaterThan(CALLS);
    expect(router.pins.records.isFull).toBe(true);
  });

  test('refusing sessions for the rates', () => {
    const { router, game, words } = rig({ ...NO_LIMITS, sessionRatePerSource: 1, sessionRate: 20 });
    const now = movingClock(0.25);
    let port = 1;
    const grown = bytesPerCall((i) => {
      port = (port % 65_535) + 1;
      const session = router.route(game, words, (i % CLIENTS) * 4, port, 14, now());
      if (session < 0) game.counters.dropped(DOWNSTREAM, ~session);
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
    const { dropped } = game.counters.dump().downstream;
    expect(Math.min(dropped['source-rate-limit']!, dropped['listener-rate-limit']!)).toBeGreaterThan(1_000);
  });

  test('dropping a flood', () => {
    const { router, game, words } = rig({ ...NO_LIMITS, sessionsPerSource: 1 });
    let port = 1;
    const grown = bytesPerCall((i) => {
      port = (port % 65_535) + 1;
      const session = router.route(game, words, (i % CLIENTS) * 4, port, 14, moment(i));
      if (session < 0) game.counters.dropped(DOWNSTREAM, ~session);
    });
    expect(grown).toBeLessThan(MOST_BYTES_EACH);
  });

  test('sweeping', () => {
    const { router, game, words, ports } = rig();
    for (let i = 0; i < CLIENTS; i++) router.route(game, words, i * 4, ports[i]!, 14, moment(0));
    expect(bytesPerCall(() => router.sweep(16, moment(CLIENTS - 1)))).toBeLessThan(MOST_BYTES_EACH);
  });
});
