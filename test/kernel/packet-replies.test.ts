/** Replies, and whose they are, as the packet programs see them, case by case. */
import { beforeEach, describe, expect, test } from 'vitest';
import { A, B, CLIENT, LISTENER, conversation } from './conversation.ts';
import {
  GAUGES,
  PORT,
  REVERSE,
  SESSION,
  SEVERAL_LISTENERS,
  SOURCE_RELAY,
} from '../../relay/engines/kernel/records.ts';
import { closing, DROP, MS, NEXT, PacketRig, whereAvailable } from './packet-rig.ts';

whereAvailable(() => {
  const rig = closing(new PacketRig());
  beforeEach(() => rig.reset());
  const { send, answer, listen } = conversation(rig);

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

    test('finds its session whichever listeners have had sessions on its port', async () => {
      const other = '198.51.100.2:7777';
      await listen([A]);
      rig.listen(other, {}, 1);
      const repliesTo = (): number =>
        rig.maps.mapped.ports.u16[rig.maps.mapped.ports.at(9_000, PORT.at.repliesTo) >> 1]!;
      expect(repliesTo()).toBe(0);
      send(CLIENT);
      expect(repliesTo()).toBe(1);
      send('10.0.0.3:5000');
      expect(repliesTo()).toBe(1);
      expect(answer(A).packet).toMatchObject({ source: LISTENER, destination: CLIENT });
      send('10.0.0.2:5000', { to: other });
      expect(repliesTo()).toBe(SEVERAL_LISTENERS);
      expect(answer(A, { to: '10.0.0.2:5000' }).packet.source).toBe(other);
      expect(answer(A).packet.source).toBe(LISTENER);
      expect(rig.session(CLIENT)).toMatchObject({ datagramsUpstream: 2, awaitsReply: 0 });
      expect(rig.session('10.0.0.2:5000', 1)).toMatchObject({ datagramsUpstream: 1 });
      expect(rig.drops()).toEqual({});
    });

    test('of the session that took the backend over from another listener’s is that one’s', async () => {
      const other = '198.51.100.2:7777';
      await listen([A]);
      rig.listen(other, {}, 1);
      send(CLIENT);
      send(CLIENT, { to: other });
      // As if the first listener alone had been served: its session is not attached any more.
      rig.maps.mapped.ports.setU16(rig.maps.mapped.ports.at(9_000, PORT.at.repliesTo), 1);
      expect(answer(A).packet.source).toBe(other);
    });

    test('finds its session where its port names a listener that does not have it', async () => {
      const other = '198.51.100.2:7777';
      await listen([A]);
      rig.listen(other, {}, 1);
      send(CLIENT, { to: other });
      rig.maps.mapped.ports.setU16(rig.maps.mapped.ports.at(9_000, PORT.at.repliesTo), 1);
      expect(answer(A).packet.source).toBe(other);
      expect([rig.counts(0).upstream.received, rig.counts(1).upstream.received]).toEqual([0, 1]);
    });

    test('of a listener whose backends see the relay is for the way in', async () => {
      await listen([A]);
      send(CLIENT);
      rig.listen(LISTENER, { rules: { sourceAddress: SOURCE_RELAY } });
      expect(answer(A)).toMatchObject({ verdict: NEXT, packet: { source: A } });
      expect(rig.counts().upstream.received).toBe(0);
    });

    test('does not come to a session for whose reverse record there is no room: its datagrams are dropped', async () => {
      await listen([A]);
      const { reverse } = rig.maps.maps;
      const others = Array.from({ length: reverse.spec.maxEntries }, (_, i) =>
        rig.reverseKey(A, `10.7.0.1:${i + 1}`),
      );
      for (const key of others) reverse.update(key, new Uint8Array(REVERSE.size));
      expect(send(CLIENT).verdict).toBe(DROP);
      expect(rig.session(CLIENT)).toMatchObject({ attached: 0 });
      expect(rig.drops()).toEqual({ 'no-upstream-socket': 1 });
      for (const key of others) expect(reverse.delete(key)).toBe(true);
      expect(rig.gauges()).toMatchObject({ sessions: 1, reverses: 0 });
      expect(send(CLIENT).verdict).toBe(NEXT);
      expect(answer(A).packet.source).toBe(LISTENER);
      expect(rig.gauges()).toMatchObject({ sessions: 1, reverses: 1 });
    });

    test('of a stranger on a backend’s port is left alone, though its client has a session', async () => {
      await listen([A]);
      send(CLIENT);
      const { verdict, packet } = answer('10.9.0.7:9000');
      expect(verdict).toBe(NEXT);
      expect(packet.source).toBe('10.9.0.7:9000');
      expect(rig.counts().upstream.received).toBe(0);
    });

    test('of a backend in the place of one that is gone is a stranger’s to the sessions of that one', async () => {
      await listen([A]);
      send(CLIENT);
      rig.pool.remove('a');
      await rig.backends(B);
      expect(answer(B).packet.source).toBe(B);
      expect(rig.drops()).toEqual({});
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
      expect(rig.endRests()).toBe(0);
      rig.advance(30_000 * MS);
      expect(rig.endRests()).toBe(1);
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

    test.each([
      ['of the client that was back at once', [LISTENER]],
      ['that spoke through another listener at once', [LISTENER, '198.51.100.1:8888']],
    ])('the end of a session leaves the record to the session %s', async (_whose, addresses) => {
      await listen([A]);
      rig.listen('198.51.100.1:8888', {}, 1);
      for (const to of addresses) send(CLIENT, { to });
      // As it is when another CPU has done that between the two steps of the end: the one that ended had the record.
      const value = new Uint8Array(SESSION.size);
      const { sessions } = rig.maps.maps;
      sessions.lookup(rig.sessionKey(CLIENT), value);
      value[SESSION.at.attached] = 1;
      const other = rig.sessionKey('10.0.0.2:5000');
      sessions.update(other, value);
      const { gauges } = rig.maps.mapped;
      gauges.setU64(GAUGES.at.sessions, addresses.length + 1);
      rig.steward.add('endSession', other);
      expect(rig.steward.flush()).toBe(1);
      expect(rig.gauges()).toMatchObject({ sessions: addresses.length, reverses: 1 });
      expect(answer(A).packet.source).toBe(addresses.at(-1));
      rig.advance(30_000 * MS);
      expect(rig.endRests()).toBe(1);
      expect(rig.gauges()).toMatchObject({ sessions: addresses.length, reverses: 1, resting: 0 });
      expect(answer(A).packet.source).toBe(addresses.at(-1));
    });

    test('two listeners on one address: each has what comes to its own port, whichever its port names first', async () => {
      const second = '198.51.100.1:8888';
      await listen([A]);
      rig.listen(second, {}, 1);
      rig.maps.mapped.ports.setU16(rig.maps.mapped.ports.at(8_888, PORT.at.firstListener), 0);
      send(CLIENT, { to: second });
      expect([rig.counts(0).sessionsOpened, rig.counts(1).sessionsOpened]).toEqual([0, 1]);
      expect(answer(A).packet.source).toBe(second);
    });

    test('a direct datagram ends a rest', async () => {
      await listen([A]);
      send(CLIENT);
      rig.steward.add('endSession', rig.sessionKey(CLIENT));
      rig.steward.flush();
      send(CLIENT, { to: A });
      expect(answer(A).packet.source).toBe(A);
      expect(rig.gauges()).toMatchObject({ reverses: 0, resting: 1 });
      rig.advance(30_000 * MS);
      expect(rig.endRests()).toBe(1);
      expect(rig.gauges()).toMatchObject({ reverses: 0, resting: 0 });
    });

    test('the rest of a session whose client is back ends without that one’s record', async () => {
      await listen([A]);
      send(CLIENT);
      rig.advance(120_000 * MS);
      send(CLIENT);
      expect(rig.gauges()).toMatchObject({ sessions: 1, reverses: 1, resting: 1 });
      rig.advance(20_000 * MS);
      rig.steward.add('endSession', rig.sessionKey(CLIENT));
      rig.steward.flush();
      rig.advance(10_000 * MS);
      // The first rest is over, the second one of the same record is not.
      expect(rig.endRests()).toBe(1);
      expect(rig.gauges()).toMatchObject({ sessions: 0, reverses: 1, resting: 1 });
      expect(answer(A).verdict).toBe(DROP);
      rig.advance(20_000 * MS);
      expect(rig.endRests()).toBe(1);
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

    test.each([
      ['0.0.0.0:7777', '0.0.0.0:7777', '127.0.0.9:5000'],
      ['0.0.0.0:7777', '255.255.255.255:7777', '127.0.0.9:5000'],
      ['[::]:7777', '224.0.0.1:7777', '127.0.0.9:5000'],
      ['[::]:7777', '[::]:7777', '[::1]:5000'],
      ['[::]:7777', '[ff02::1]:7777', '[::1]:5000'],
    ])('%s leaves alone what is for %s, from which nobody can answer', async (any, contacted, client) => {
      rig.listen(any);
      await rig.backends(client.startsWith('[') ? '[::1]:9000' : '127.0.0.2:9000');
      expect(send(client, { to: contacted })).toMatchObject({
        verdict: NEXT,
        packet: { destination: contacted },
      });
      expect(rig.counts().downstream.received).toBe(0);
    });

    test('leaves what is for others alone', async () => {
      rig.listen('0.0.0.0:7777');
      await rig.backends('127.0.0.2:9000');
      // Where loopback does not forward, all that it lets in is this host's; so only its own is told apart for sure.
      expect(send('[::1]:5000', { to: '[::1]:7777' }).packet.destination).toBe('[::1]:7777');
      expect(rig.counts().downstream.received).toBe(0);
    });
  });
});
