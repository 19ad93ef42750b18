/** Sessions, pins, limits and replies as the packet programs keep them, case by case. */
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { PORT, PORT_RELAY, RULES, SOURCE_RELAY } from '../../relay/engines/kernel/maps.ts';
import { Endpoint } from '../../net/address.ts';
import { DROP, type ListenerRules, MS, NEXT, type Outcome, PacketRig, unavailable } from './packet-rig.ts';

const LISTENER = '198.51.100.1:7777';
const A = '10.9.0.1:9000';
const B = '10.9.0.2:9000';
const CLIENT = '10.0.0.1:5000';

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const rig = new PacketRig();
  afterAll(() => rig.close());
  beforeEach(() => rig.reset());

  const payload = (length: number): Uint8Array => new Uint8Array(length);
  const send = (client: string, { length = 14, to = LISTENER, on = rig } = {}): Outcome =>
    on.ingress({ source: client, destination: to, payload: payload(length) });
  const answer = (backend: string, { to = CLIENT, length = 14, on = rig } = {}): Outcome =>
    on.egress({ source: backend, destination: to, payload: payload(length) });
  const listen = async (
    backends: readonly string[],
    options: ListenerRules = {},
    on = rig,
  ): Promise<void> => {
    on.listen(LISTENER, options);
    await on.backends(...backends);
  };

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
      expect(rig.gauges()).toEqual({ sessions: 1, pins: 1, reverses: 1, resting: 0 });
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
      const { counts, sum } = rig.replyTimes('a');
      expect(counts.flatMap((count, i) => (count > 0 ? [[i, count]] : []))).toEqual([
        [1, 1], // below 4.1 us
        [9, 1], // below 1.05 ms
      ]);
      expect(sum).toBeCloseTo(0.001_003, 9);
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

  describe('a reply', () => {
    test('of a backend that was removed is a stranger’s', async () => {
      await listen([A]);
      send(CLIENT);
      rig.pool.remove('a');
      await rig.backends(B);
      expect(answer(A).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'unknown-upstream': 1 });
    });

    test('to a half-open session is bounded, and to an established one is not', async () => {
      await listen([A], { rules: { amplification: 3 } });
      send(CLIENT, { length: 10 });
      expect(answer(A, { length: 30 }).verdict).toBe(NEXT);
      expect(answer(A, { length: 1 }).verdict).toBe(DROP);
      send(CLIENT, { length: 10 });
      expect(answer(A, { length: 1_000 }).verdict).toBe(NEXT);
      expect(rig.drops()).toEqual({ 'amplification-limit': 1 });
    });

    test('that is a fragment is a counted drop', async () => {
      await listen([A]);
      send(CLIENT);
      expect(rig.egress({ source: A, destination: CLIENT, fragment: 0x2000 }).verdict).toBe(DROP);
      expect(rig.counts().upstream.dropped).toMatchObject({ fragment: 1 });
    });

    test('is late until its rest is over, then none of the relay’s business', async () => {
      await listen([A]);
      send(CLIENT);
      rig.steward.add('endSession', rig.sessionKey(CLIENT));
      rig.steward.flush();
      expect(rig.gauges()).toMatchObject({ sessions: 0, reverses: 1, resting: 1 });
      expect(answer(A).verdict).toBe(DROP);
      rig.steward.add('endRest', rig.reverseKey(A, CLIENT));
      expect(rig.steward.flush()).toBe(0);
      rig.advance(30_000 * MS);
      rig.steward.add('endRest', rig.reverseKey(A, CLIENT));
      expect(rig.steward.flush()).toBe(1);
      expect(rig.gauges()).toMatchObject({ reverses: 0, resting: 0 });
      expect(answer(A).packet.source).toBe(A);
      expect(rig.drops()).toEqual({ 'late-reply': 1 });
    });

    test('rests no more than may rest', async () => {
      await listen([A]);
      rig.set('maxResting', 0);
      send(CLIENT);
      rig.steward.add('endSession', rig.sessionKey(CLIENT));
      rig.steward.flush();
      expect(rig.gauges()).toMatchObject({ reverses: 0, resting: 0 });
      rig.set('maxResting', 64);
    });
  });

  describe('whose flow it is', () => {
    test('a client that speaks to a backend directly, from the port it used through the relay, is not rewritten', async () => {
      await listen([A]);
      send(CLIENT);
      const direct = send(CLIENT, { to: A });
      expect(direct).toMatchObject({ verdict: NEXT, packet: { destination: A } });
      expect(answer(A).packet.source).toBe(A);
      expect(rig.counts().upstream.received).toBe(0);
      expect(send(CLIENT).packet.destination).toBe(A);
      expect(answer(A).packet.source).toBe(LISTENER);
      expect(rig.gauges()).toEqual({ sessions: 1, pins: 1, reverses: 1, resting: 0 });
    });

    test('two listeners with one backend: the replies are for the one the client spoke to last', async () => {
      const second = '198.51.100.1:8888';
      await listen([A]);
      rig.listen(second, {}, 1);
      send(CLIENT);
      expect(answer(A).packet.source).toBe(LISTENER);
      send(CLIENT, { to: second });
      expect(answer(A).packet.source).toBe(second);
      send(CLIENT);
      expect(answer(A).packet.source).toBe(LISTENER);
      expect(rig.gauges()).toEqual({ sessions: 2, pins: 2, reverses: 1, resting: 0 });
    });

    test('a direct datagram ends a rest', async () => {
      await listen([A]);
      send(CLIENT);
      rig.steward.add('endSession', rig.sessionKey(CLIENT));
      rig.steward.flush();
      send(CLIENT, { to: A });
      expect(answer(A).packet.source).toBe(A);
      expect(rig.gauges()).toMatchObject({ reverses: 0, resting: 0 });
    });
  });

  describe('a listener on any address', () => {
    test.each([
      ['0.0.0.0:7777', '127.0.0.1:7777', '127.0.0.9:5000', '127.0.0.2:9000'],
      ['[::]:7777', '127.0.0.3:7777', '127.0.0.9:5000', '127.0.0.2:9000'],
      ['[::]:7777', '[::1]:7777', '[::1]:5000', '[::1]:9000'],
    ])('%s takes %s, and answers from there', async (any, contacted, client, backend) => {
      rig.listen(any);
      await rig.backends(backend);
      expect(send(client, { to: contacted }).packet.destination).toBe(backend);
      expect(answer(backend, { to: client }).packet.source).toBe(contacted);
    });

    test('leaves what is for others alone', async () => {
      rig.listen('0.0.0.0:7777');
      await rig.backends('127.0.0.2:9000');
      // Where loopback does not forward, all that it lets in is this host's; so only its own is told apart for sure.
      expect(send('[::1]:5000', { to: '[::1]:7777' }).packet.destination).toBe('[::1]:7777');
      expect(rig.counts().downstream.received).toBe(0);
    });
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
    const client = (i: number): string => `10.0.${i >> 8}.${i & 255}:5000`;

    test('gives up the oldest half-open session, and no established one', async () => {
      await listen([A], {}, small);
      for (const i of [1, 2, 3, 4]) {
        send(client(i), { on: small });
        send(client(i), { on: small });
      }
      for (let i = 10; i < 40; i++) {
        small.advance(MS);
        expect(send(client(i), { on: small }).verdict).toBe(NEXT);
      }
      expect(small.counts()).toMatchObject({ sessionsOpened: 34, sessionsEvicted: 26 });
      for (const i of [1, 2, 3, 4, 36, 37, 38, 39]) expect(small.session(client(i))).toBeDefined();
      expect(small.gauges()).toMatchObject({ sessions: 8, reverses: 8, resting: 0 });
      expect(small.live('a')).toBe(8);
    });

    test('of established sessions refuses new ones', async () => {
      await listen([A], {}, small);
      for (let i = 1; i <= 8; i++) {
        send(client(i), { on: small });
        send(client(i), { on: small });
      }
      expect(send(client(9), { on: small }).verdict).toBe(DROP);
      expect(small.drops()).toEqual({ 'session-table-full': 1 });
      expect(small.gauges()).toMatchObject({ sessions: 8, pins: 8 });
    });

    test('of pins gives up one without sessions, an unconfirmed one first', async () => {
      await listen([A], {}, small);
      send(client(1), { on: small });
      send(client(1), { on: small });
      small.steward.add('endSession', small.sessionKey(client(1)));
      small.steward.flush();
      for (let i = 10; i < 60; i++) send(client(i), { on: small });
      expect(small.gauges()).toMatchObject({ sessions: 8, pins: 16 });
      expect(small.pin('10.0.0.1')).toMatchObject({ confirmed: 1, live: 0 });
      expect(small.drops()).toEqual({});
    });

    test('of confirmed pins gives up the oldest without sessions', async () => {
      await listen([A], {}, small);
      for (let i = 1; i <= 16; i++) {
        send(client(i), { on: small });
        send(client(i), { on: small });
        small.steward.add('endSession', small.sessionKey(client(i)));
        small.steward.flush();
      }
      expect(small.gauges()).toMatchObject({ sessions: 0, pins: 16 });
      expect(send(client(17), { on: small }).verdict).toBe(NEXT);
      expect(small.gauges()).toMatchObject({ sessions: 1, pins: 16 });
      const kept = Array.from({ length: 17 }, (_, i) => small.pin(`10.0.0.${i + 1}`) !== undefined);
      expect(kept.filter((isKept) => !isKept)).toHaveLength(1);
      expect(kept[16]).toBe(true);
    });
  });

  describe('with the relay’s own address as source', () => {
    const RELAY = '198.51.100.1';
    const FIRST = 40_000;

    async function listenAsRelay(ports: number, backends = [A]): Promise<void> {
      await listen(backends, {
        rules: { sourceAddress: SOURCE_RELAY, firstRelayPort: FIRST, relayPorts: ports },
      });
      const { rules, ports: flags } = rig.maps.mapped;
      rules.bytes.set(Endpoint.parse(`${RELAY}:1`).ip.bytes, rules.at(0, RULES.at.relayV4));
      for (let port = FIRST; port < FIRST + ports; port++)
        flags.setU16(flags.at(port, PORT.at.flags), PORT_RELAY);
    }
    const reply = (backend: string, to: string): Outcome =>
      rig.ingress({ source: backend, destination: to, payload: payload(14) });

    test('both addresses are rewritten, there and back', async () => {
      await listenAsRelay(16);
      const { packet } = send(CLIENT);
      const seen = Endpoint.parse(packet.source);
      expect(seen.ip.toString()).toBe(RELAY);
      expect(seen.port).toBeGreaterThanOrEqual(FIRST);
      expect(seen.port).toBeLessThan(FIRST + 16);
      expect(packet).toMatchObject({ destination: A, isHeaderRight: true });
      expect(packet.checksum).toBe(packet.rightChecksum);
      const back = reply(A, packet.source).packet;
      expect(back).toMatchObject({ source: LISTENER, destination: CLIENT, isHeaderRight: true });
      expect(back.checksum).toBe(back.rightChecksum);
      expect(rig.counts()).toMatchObject({
        downstream: { forwarded: 1 },
        upstream: { received: 1, forwarded: 1 },
      });
      expect(rig.session(CLIENT)).toMatchObject({ seenPort: seen.port, datagramsUpstream: 1 });
    });

    test('each session has a port of its own towards its backend', async () => {
      await listenAsRelay(16);
      const seen = Array.from({ length: 16 }, (_, i) => send(`10.0.0.${i + 1}:5000`).packet.source);
      expect(new Set(seen).size).toBe(16);
      seen.forEach((port, i) => {
        expect(reply(A, port).packet.destination).toBe(`10.0.0.${i + 1}:5000`);
      });
    });

    test('a stranger’s reply and another backend’s are counted drops', async () => {
      await listenAsRelay(16, [A, B]);
      const { source, destination } = send(CLIENT).packet;
      expect(reply('10.66.0.1:9000', source).verdict).toBe(DROP);
      expect(reply(destination === A ? B : A, source).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'unknown-upstream': 1, 'late-reply': 1 });
    });

    test('the reply on its way out of a local backend is left to where it comes in', async () => {
      await listenAsRelay(16);
      const { source } = send(CLIENT).packet;
      expect(answer(A, { to: source })).toMatchObject({ verdict: NEXT, packet: { source: A } });
      expect(rig.counts().upstream.received).toBe(0);
    });

    test('a relay port rests before another session has it', async () => {
      await listenAsRelay(1);
      const { source } = send(CLIENT).packet;
      rig.advance(120_000 * MS);
      rig.steward.add('expireSession', rig.sessionKey(CLIENT));
      rig.steward.flush();
      expect(send('10.0.0.2:5000').verdict).toBe(DROP);
      expect(reply(A, source).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'no-upstream-socket': 1, 'late-reply': 1 });
      rig.advance(30_000 * MS);
      rig.steward.add('endRest', rig.reverseKey(A, source));
      rig.steward.flush();
      expect(send('10.0.0.2:5000').packet.source).toBe(source);
      expect(reply(A, source).packet.destination).toBe('10.0.0.2:5000');
    });

    test('when ports run short the oldest half-open session gives up its own, an established one none', async () => {
      await listenAsRelay(3);
      send('10.0.0.1:5000');
      send('10.0.0.1:5000');
      send('10.0.0.2:5000');
      rig.advance(MS);
      send('10.0.0.3:5000');
      rig.advance(MS);
      expect(send('10.0.0.4:5000').verdict).toBe(NEXT);
      expect(rig.session('10.0.0.2:5000')).toBeUndefined();
      expect(rig.counts().sessionsEvicted).toBe(1);
      for (const i of [3, 4]) send(`10.0.0.${i}:5000`);
      expect(send('10.0.0.5:5000').verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'no-upstream-socket': 1 });
      expect(rig.gauges()).toMatchObject({ reverses: 3, resting: 0 });
    });

    test('what is sent to a relay port of another address is passed on', async () => {
      await listenAsRelay(16);
      const other = reply(A, '203.0.113.5:40000');
      expect(other).toMatchObject({ verdict: NEXT, packet: { destination: '203.0.113.5:40000' } });
      expect(rig.counts().upstream.received).toBe(0);
    });
  });
}
