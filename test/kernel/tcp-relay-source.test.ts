/** TCP with sourceAddress `relay`: backends see the relay, each connection from a port of its own. */
import { beforeEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { closing, MS, NEXT, whereAvailable } from './packet-rig.ts';
import { ACK, FIN, RST, SYN } from './segment.ts';
import {
  A,
  B,
  CLIENT,
  type Conversation,
  conversations,
  LISTENER,
  MINUTE,
  OTHER_LISTENER,
} from './tcp-conversation.ts';
import { FIRST_RELAY_PORT, REDIRECT, RELAY_V4, RELAY_V6, TcpRig } from './tcp-rig.ts';

whereAvailable(() => {
  const rig = closing(new TcpRig());

  const start = async (relayPorts = 16, backends = [A]): Promise<void> => {
    await rig.reset();
    rig.listen(LISTENER, { relayPorts });
    rig.listen(OTHER_LISTENER, { relayPorts }, 1);
    await rig.backends(...backends);
  };
  beforeEach(() => start());

  const { talk, expire, cut } = conversations(rig);
  const nth = (i: number): Conversation => talk(`10.0.0.${i + 1}:5000`);
  const portOf = (one: Conversation): number => Endpoint.parse(one.seen).port;

  test('both addresses are rewritten, there and back, through the whole of a connection', () => {
    const one = talk();
    const syn = one.syn();
    expect(syn).toMatchObject({ verdict: NEXT, segment: { destination: A, flags: SYN, isRight: true } });
    expect(one.seen).toMatch(`${RELAY_V4}:`);
    expect(portOf(one)).toBeGreaterThanOrEqual(FIRST_RELAY_PORT);
    expect(portOf(one)).toBeLessThan(FIRST_RELAY_PORT + 16);
    const back = { source: LISTENER, destination: CLIENT, isRight: true };
    expect(one.synAck()).toMatchObject({ verdict: NEXT, segment: back });
    one.say(ACK);
    expect(one.state).toBe('open');
    expect(one.say(ACK, 100).segment).toMatchObject({ source: one.seen, destination: A, isRight: true });
    expect(one.answer(ACK, 3_000).segment).toMatchObject(back);
    one.say(FIN | ACK);
    one.answer(FIN | ACK);
    one.say(ACK);
    expect(one.state).toBe('over');
    expect(rig.counts()).toMatchObject({
      accepted: 1,
      closed: { completed: 1 },
      downstreamBytes: 100,
      upstreamBytes: 3_000,
      dropped: 0,
    });
    expect(rig.live('a')).toBe(0);
  });

  test('over IPv6, too', async () => {
    await rig.reset();
    rig.listen('[2001:db8::1]:5432', { relayPorts: 4 });
    await rig.backends('[2001:db8:9::1]:5432');
    const one = talk('[2001:db8:1::1]:40000', '[2001:db8::1]:5432');
    expect(one.syn().segment).toMatchObject({ destination: '[2001:db8:9::1]:5432', isRight: true });
    expect(one.seen).toMatch(`${RELAY_V6}:`);
    one.synAck();
    one.say(ACK);
    expect(one.answer(ACK, 500).segment).toMatchObject({
      source: one.contacted,
      destination: one.client,
      isRight: true,
    });
    expect(one.state).toBe('open');
  });

  test('each connection has a port of its own towards its backend, and its own answers', () => {
    const all = Array.from({ length: 16 }, (_, i) => nth(i).open());
    expect(new Set(all.map(({ seen }) => seen)).size).toBe(16);
    for (const one of all) expect(one.answer(ACK, 10).segment.destination).toBe(one.client);
    expect(rig.counts()).toMatchObject({ accepted: 16, live: 16, upstreamBytes: 160 });
  });

  test('one client port may lead to one backend through two listeners', () => {
    const [one, two] = [talk().open(), talk(CLIENT, OTHER_LISTENER).open()];
    expect(one.seen).not.toBe(two.seen);
    expect(one.answer(ACK, 5).segment.source).toBe(LISTENER);
    expect(two.answer(ACK, 5).segment.source).toBe(OTHER_LISTENER);
  });

  test('ends by RST are believed and passed on as ever', () => {
    const [one, two, three] = [nth(1).open(), nth(2).open(), nth(3)];
    expect(one.say(RST).segment).toMatchObject({
      source: one.seen,
      destination: A,
      flags: RST,
      isRight: true,
    });
    expect(two.answer(RST).segment).toMatchObject({
      source: LISTENER,
      destination: two.client,
      isRight: true,
    });
    three.syn();
    expect(three.answer(RST | ACK, 0, { sequence: 0 }).segment.destination).toBe(three.client);
    const closed = { 'client-reset': 1, 'backend-reset': 1, 'connect-failed': 1 };
    expect(rig.counts()).toMatchObject({ accepted: 3, live: 0, closed });
  });

  test('after a cut each end gets its RST from the address that it knows', () => {
    const one = talk().open();
    expect(cut(one)).toBe(true);
    expect(one.say(ACK, 20)).toMatchObject({
      verdict: REDIRECT,
      segment: { source: LISTENER, destination: CLIENT, flags: RST, isRight: true },
    });
    expect(one.answer(ACK, 20)).toMatchObject({
      verdict: REDIRECT,
      segment: { source: one.seen, destination: A, flags: RST, sequence: one.clientNext, isRight: true },
    });
  });

  describe('a relay port', () => {
    test('is its connection’s until what has ended is forgotten, and then another’s', async () => {
      await start(1);
      const one = nth(1).open();
      expect(nth(2).syn()).toMatchObject({ verdict: REDIRECT, segment: { flags: RST | ACK } });
      expect(rig.counts().closed).toEqual({ 'connect-failed': 1 });
      one.say(FIN | ACK);
      one.answer(FIN | ACK);
      one.say(ACK);
      rig.advance(4 * MINUTE);
      expire(one);
      expect(rig.records()).toEqual([0, 0]);
      const two = nth(2).open();
      expect(two.seen).toBe(one.seen);
      expect(two.answer(ACK, 5).segment.destination).toBe(two.client);
    });

    test('is the same for a client that comes back from the same port', () => {
      const one = talk().open();
      one.say(RST);
      const again = talk().open();
      expect(again.seen).toBe(one.seen);
      expect(rig.records()).toEqual([1, 1]);
    });

    test('is given up by the one that was silent longest of those that open or have ended, never by one that is open', async () => {
      await start(3);
      const [one, two, three] = [nth(1).open(), nth(2), nth(3).open()];
      rig.advance(MS);
      two.syn();
      rig.advance(MS);
      three.say(RST);
      rig.advance(MS);
      const four = nth(4).open();
      expect(four.seen).toBe(two.seen);
      expect(two.state).toBe('none');
      const five = nth(5).open();
      expect(five.seen).toBe(three.seen);
      expect(nth(6).syn()).toMatchObject({ verdict: REDIRECT });
      for (const open of [one, four, five]) {
        expect(open.answer(ACK, 5).segment.destination).toBe(open.client);
        expect(open.state).toBe('open');
      }
      expect(rig.records()).toEqual([3, 3]);
      expect(rig.live('a')).toBe(3);
    });

    test('leads nobody’s segments to its client but its backend’s', async () => {
      await start(16, [A, B]);
      const one = talk().open();
      const other = one.backend === A ? B : A;
      for (const source of [other, '10.66.0.1:5432']) {
        const { verdict, segment } = rig.ingress({ source, destination: one.seen, flags: ACK });
        // The system answers what is nobody's.
        expect([verdict, segment.destination]).toEqual([NEXT, one.seen]);
      }
      expect(rig.counts()).toMatchObject({ upstreamBytes: 0, dropped: 0 });
    });

    test('of a local backend’s answer: on its way out it is left to where it comes in', () => {
      const one = talk().open();
      const { verdict, segment } = rig.egress({ source: A, destination: one.seen, flags: ACK });
      expect([verdict, segment.source, segment.destination]).toEqual([NEXT, A, one.seen]);
    });

    test('may be a listener’s, too, which is contacted from elsewhere', () => {
      const listener = `${RELAY_V4}:${FIRST_RELAY_PORT + 3}`;
      rig.listen(listener, { relayPorts: 16 });
      expect(talk(CLIENT, listener).open().state).toBe('open');
    });
  });

  test('a backend that the relay has no address towards can’t be reached', async () => {
    await rig.reset();
    rig.listen(LISTENER, { relayPorts: 16, hasNoAddress: true });
    await rig.backends(A);
    expect(talk().syn()).toMatchObject({ verdict: REDIRECT, segment: { flags: RST | ACK } });
    expect(rig.counts().closed).toEqual({ 'connect-failed': 1 });
    expect(rig.records()).toEqual([0, 0]);
  });
});
