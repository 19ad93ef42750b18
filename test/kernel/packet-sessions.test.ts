/** Sessions, pins and limits as the packet programs keep them, case by case. */
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { A, B, CLIENT, LISTENER, conversation } from './conversation.ts';
import { closing, DROP, MS, NEXT, PacketRig, whereAvailable } from './packet-rig.ts';

whereAvailable(() => {
  const rig = closing(new PacketRig());
  beforeEach(() => rig.reset());
  const { send, answer, listen } = conversation(rig);

  describe('a session', () => {
    test('is half-open with the first datagram and established with the second', async () => {
      await listen([A]);
      send(CLIENT, { length: 10 });
      expect(rig.session(CLIENT)).toMatchObject({ datagramsDownstream: 1, bytesDownstream: 10, attached: 1 });
      expect(rig.pin('10.0.0.1')).toMatchObject({ live: 1, confirmed: 0 });
      send(CLIENT, { length: 20 });
      expect(rig.session(CLIENT)).toMatchObject({ datagramsDownstream: 2, bytesDownstream: 30 });
      expect(rig.pin('10.0.0.1')).toMatchObject({ live: 1, confirmed: 1 });
      expect(rig.gauges()).toEqual({ sessions: 1, pins: 1, reverses: 1, resting: 0 });
      expect(rig.counts()).toMatchObject({ sessionsOpened: 1, downstream: { received: 2, forwarded: 2 } });
    });

    test('lives until its idle timeout, and the next datagram opens another', async () => {
      await listen([A]);
      send(CLIENT);
      rig.advance(120_000 * MS - 1);
      send(CLIENT);
      expect(rig.counts()).toMatchObject({ sessionsOpened: 1, sessionsExpired: 0 });
      rig.advance(120_000 * MS);
      send(CLIENT);
      expect(rig.counts()).toMatchObject({ sessionsOpened: 2, sessionsExpired: 1 });
      expect(rig.session(CLIENT)).toMatchObject({ datagramsDownstream: 1 });
      expect(answer(A).packet.source).toBe(LISTENER);
      rig.advance(30_000 * MS);
      expect(rig.endRests()).toBe(1);
      expect(rig.gauges()).toEqual({ sessions: 1, pins: 1, reverses: 1, resting: 0 });
      expect(answer(A).packet.source).toBe(LISTENER);
      expect(rig.live('a')).toBe(1);
    });

    test('is not renewed by replies', async () => {
      await listen([A]);
      send(CLIENT);
      rig.advance(100_000 * MS);
      expect(answer(A).verdict).toBe(NEXT);
      rig.advance(20_000 * MS);
      expect(answer(A).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'late-reply': 1 });
    });

    test('moves when its backend fails, and the reply of the old one is late', async () => {
      await listen([A, B]);
      const first = send(CLIENT).packet.destination;
      const [failing, other] = first === A ? ['a', B] : ['b', A];
      rig.pool.setHealthy(failing, false);
      await rig.publish();
      expect(send(CLIENT).packet.destination).toBe(other);
      expect(rig.counts()).toMatchObject({ sessionsRepinned: 1, sessionsOpened: 1 });
      expect(answer(first).verdict).toBe(DROP);
      expect(answer(other).packet.source).toBe(LISTENER);
      expect(rig.drops()).toEqual({ 'late-reply': 1 });
      expect(rig.live(failing)).toBe(0);
      expect(rig.gauges()).toMatchObject({ sessions: 1, reverses: 2, resting: 1 });
    });

    test('stays where it is while its backend drains', async () => {
      await listen([A]);
      send(CLIENT);
      rig.pool.setDraining('a', true);
      await rig.publish();
      expect(send(CLIENT).verdict).toBe(NEXT);
      expect(send('10.0.0.1:5001').verdict).toBe(NEXT);
      expect(send('10.0.0.2:5000').verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'no-backend': 1 });
    });

    test('tells the gaps and the pace of its client', async () => {
      await listen([A]);
      send(CLIENT);
      // Intervals in ticks of 8 ms, and the bucket each belongs to.
      for (const ticks of [1, 1, 1, 2, 0.5, 0.01, 30, 1.4, 1.42]) {
        rig.advance(ticks * 8 * MS);
        send(CLIENT);
      }
      expect(rig.interArrival(CLIENT)).toEqual([1, 0, 0, 1, 4, 2, 0, 1]);
      expect(rig.session(CLIENT)).toMatchObject({ gaps: 1 });
      // Another player of the same backend, in whose figures both are.
      send('10.0.0.2:5000');
      rig.advance(8 * MS);
      send('10.0.0.2:5000');
      const { gaps, intervals } = rig.figures('a');
      expect(gaps).toBe(1);
      expect(intervals.counts).toEqual([1, 0, 0, 1, 5, 2, 0, 1]);
      expect(intervals.boundsSeconds[4]).toBeCloseTo(Math.SQRT2 / 128, 12);
    });

    test('adds to the traffic of the backend that gets its datagrams', async () => {
      await listen([A, B]);
      const first = send(CLIENT, { length: 10 }).packet.destination;
      const [failing, other] = first === A ? ['a', 'b'] : ['b', 'a'];
      send(CLIENT, { length: 20 });
      answer(first, { length: 100 });
      const figures = { downstream: { datagrams: 2, bytes: 30 }, upstream: { datagrams: 1, bytes: 100 } };
      expect(rig.figures(failing)).toMatchObject(figures);
      rig.pool.setHealthy(failing, false);
      await rig.publish();
      send(CLIENT, { length: 40 });
      expect(rig.figures(failing)).toMatchObject(figures);
      expect(rig.figures(other)).toMatchObject({
        downstream: { datagrams: 1, bytes: 40 },
        upstream: { datagrams: 0, bytes: 0 },
      });
    });

    test('times the first reply after each datagram of its client', async () => {
      await listen([A]);
      send(CLIENT);
      rig.advance(3_000);
      answer(A);
      rig.advance(50_000);
      answer(A); // not the first
      send(CLIENT);
      rig.advance(1 * MS);
      answer(A);
      const { counts, sumSeconds } = rig.figures('a').replyTimes;
      expect(counts.flatMap((count, i) => (count > 0 ? [[i, count]] : []))).toEqual([
        [1, 1], // below 4.1 us
        [9, 1], // below 1.05 ms
      ]);
      expect(sumSeconds).toBeCloseTo(0.001_003, 9);
    });
  });

  describe('a source', () => {
    test.each(['0.0.0.1:5000', '224.0.0.5:5000', '255.255.255.255:5000', '10.0.0.1:0'])(
      '%s can’t be answered',
      async (client) => {
        await listen([A]);
        expect(send(client).verdict).toBe(DROP);
        expect(rig.drops()).toEqual({ 'bad-source': 1 });
        expect(rig.gauges()).toMatchObject({ sessions: 0, pins: 0 });
      },
    );

    test.each(['[::]:5000', '[ff02::1]:5000', '[2001:db8::1]:0'])('%s can’t be answered', async (client) => {
      rig.listen('[2001:db8::99]:7777');
      await rig.backends('[fd00::1]:9000');
      expect(send(client, { to: '[2001:db8::99]:7777' }).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'bad-source': 1 });
    });

    test('has its cap of sessions', async () => {
      await listen([A], { rules: { sessionsPerSource: 2 } });
      send('10.0.0.1:1');
      send('10.0.0.1:2');
      expect(send('10.0.0.1:3').verdict).toBe(DROP);
      expect(send('10.0.0.2:3').verdict).toBe(NEXT);
      rig.steward.add('endSession', rig.sessionKey('10.0.0.1:1'));
      expect(rig.steward.flush()).toBe(1);
      expect(send('10.0.0.1:3').verdict).toBe(NEXT);
      expect(rig.drops()).toEqual({ 'source-session-limit': 1 });
    });

    test('gets tokens back with time', async () => {
      await listen([A], { rules: { sourceTokenNs: 500 * MS, sourceBurstNs: 500 * MS } });
      expect([1, 2, 3].map((port) => send(`10.0.0.1:${port}`).verdict)).toEqual([NEXT, NEXT, DROP]);
      rig.advance(499 * MS);
      expect(send('10.0.0.1:3').verdict).toBe(DROP);
      rig.advance(1 * MS);
      expect(send('10.0.0.1:3').verdict).toBe(NEXT);
      expect(rig.drops()).toEqual({ 'source-rate-limit': 2 });
    });
  });

  test('a listener gets tokens back with time', async () => {
    await listen([A], { rules: { listenerTokenNs: 500 * MS, listenerBurstNs: 500 * MS } });
    expect([1, 2, 3].map((i) => send(`10.0.0.${i}:1`).verdict)).toEqual([NEXT, NEXT, DROP]);
    rig.advance(500 * MS);
    expect(send('10.0.0.3:1').verdict).toBe(NEXT);
    expect(rig.drops()).toEqual({ 'listener-rate-limit': 1 });
  });

  test('a draining relay keeps its sessions and takes no new ones', async () => {
    await listen([A]);
    send(CLIENT);
    rig.set('draining', 1);
    expect(send(CLIENT).verdict).toBe(NEXT);
    expect(send('10.0.0.2:1').verdict).toBe(DROP);
    expect(rig.drops()).toEqual({ draining: 1 });
  });

  test('without a ready backend datagrams are counted drops, and sessions wait for one', async () => {
    await listen([A]);
    send(CLIENT);
    rig.pool.setHealthy('a', false);
    await rig.publish();
    expect(send(CLIENT).verdict).toBe(DROP);
    rig.pool.setHealthy('a', true);
    await rig.publish();
    expect(send(CLIENT).verdict).toBe(NEXT);
    expect(rig.drops()).toEqual({ 'no-backend': 1 });
    expect(rig.counts()).toMatchObject({ sessionsRepinned: 1, sessionsOpened: 1 });
  });

  test('a client of the other address family is a counted drop', async () => {
    rig.listen('[2001:db8::99]:7777');
    await rig.backends(A);
    expect(send('[2001:db8::1]:5000', { to: '[2001:db8::99]:7777' }).verdict).toBe(DROP);
    expect(rig.drops()).toEqual({ 'address-family': 1 });
  });

  describe('a full table', () => {
    const small = new PacketRig({ maxSessions: 8 });
    afterAll(() => small.close());
    beforeEach(() => small.reset());
    const { listen, send } = conversation(small);
    const client = (i: number): string => `10.0.${i >> 8}.${i & 255}:5000`;

    test('gives up the oldest half-open session, and no established one', async () => {
      await listen([A]);
      for (const i of [1, 2, 3, 4]) {
        send(client(i));
        send(client(i));
      }
      for (let i = 10; i < 40; i++) {
        small.advance(MS);
        expect(send(client(i)).verdict).toBe(NEXT);
      }
      expect(small.counts()).toMatchObject({ sessionsOpened: 34, sessionsEvicted: 26 });
      for (const i of [1, 2, 3, 4, 36, 37, 38, 39]) expect(small.session(client(i))).toBeDefined();
      expect(small.gauges()).toMatchObject({ sessions: 8, reverses: 8, resting: 0 });
      expect(small.live('a')).toBe(8);
    });

    test('of established sessions refuses new ones', async () => {
      await listen([A]);
      for (let i = 1; i <= 8; i++) {
        send(client(i));
        send(client(i));
      }
      expect(send(client(9)).verdict).toBe(DROP);
      expect(small.drops()).toEqual({ 'session-table-full': 1 });
      expect(small.gauges()).toMatchObject({ sessions: 8, pins: 8 });
    });

    test('of pins gives up one without sessions, an unconfirmed one first', async () => {
      await listen([A]);
      send(client(1));
      send(client(1));
      small.steward.add('endSession', small.sessionKey(client(1)));
      small.steward.flush();
      for (let i = 10; i < 60; i++) send(client(i));
      expect(small.gauges()).toMatchObject({ sessions: 8, pins: 16 });
      expect(small.pin('10.0.0.1')).toMatchObject({ confirmed: 1, live: 0 });
      expect(small.drops()).toEqual({});
    });

    test('of confirmed pins gives up the oldest without sessions', async () => {
      await listen([A]);
      for (let i = 1; i <= 16; i++) {
        send(client(i));
        send(client(i));
        small.steward.add('endSession', small.sessionKey(client(i)));
        small.steward.flush();
      }
      expect(small.gauges()).toMatchObject({ sessions: 0, pins: 16 });
      expect(send(client(17)).verdict).toBe(NEXT);
      expect(small.gauges()).toMatchObject({ sessions: 1, pins: 16 });
      const kept = Array.from({ length: 17 }, (_, i) => small.pin(`10.0.0.${i + 1}`) !== undefined);
      expect(kept.filter((isKept) => !isKept)).toHaveLength(1);
      expect(kept[16]).toBe(true);
    });
  });
});
