/** A connection in the kernel as it opens and carries bytes, and what each end sees of it. */
import { beforeEach, describe, expect, test } from 'vitest';
import { closing, DROP, NEXT, whereAvailable } from './packet-rig.ts';
import { ACK, FIN, RST, SYN } from './segment.ts';
import {
  A,
  B,
  CLIENT,
  conversations,
  Conversation,
  LISTENER,
  OTHER_LISTENER,
  resetToTwoListeners,
} from './tcp-conversation.ts';
import { REDIRECT, TcpRig } from './tcp-rig.ts';

whereAvailable(() => {
  const rig = closing(new TcpRig());
  beforeEach(() => resetToTwoListeners(rig));

  const { talk, cut } = conversations(rig);

  describe('a connection opens', () => {
    test('with SYN, SYN-ACK and ACK; it is accepted with the last', () => {
      const one = talk();
      expect(one.syn().segment).toMatchObject({ source: CLIENT, destination: A, flags: SYN, isRight: true });
      expect(one.state).toBe('opening');
      expect(one.synAck().segment).toMatchObject({ source: LISTENER, destination: CLIENT, isRight: true });
      expect(one.state).toBe('answered');
      expect(rig.counts()).toMatchObject({ accepted: 0, live: 0 });
      expect(one.say(ACK)).toMatchObject({ verdict: NEXT, segment: { destination: A, isRight: true } });
      expect(one.state).toBe('open');
      expect(rig.counts()).toMatchObject({ accepted: 1, live: 1, closed: {} });
      expect(rig.live('a')).toBe(1);
    });

    test('with bytes in the client’s first ACK, which count', () => {
      const one = talk();
      one.syn();
      one.synAck();
      one.say(ACK, 10);
      expect(one.state).toBe('open');
      expect(rig.counts()).toMatchObject({ accepted: 1, downstreamBytes: 10 });
    });

    test('not with an ACK of what the backend has not sent', () => {
      const one = talk();
      one.syn();
      one.say(ACK);
      expect(one.state).toBe('opening');
      one.synAck();
      one.backendNext += 5;
      one.say(ACK);
      expect(one.state).toBe('answered');
      one.backendNext -= 5;
      one.say(ACK);
      expect(one.state).toBe('open');
    });

    test('where numbers pass 2^32', () => {
      const one = new Conversation(rig, CLIENT, LISTENER, {
        clientNext: 0xffff_ffff,
        backendNext: 0xffff_ffff,
      }).open();
      one.say(ACK, 1_000);
      one.answer(ACK, 2_000);
      expect(one.state).toBe('open');
      expect(rig.counts()).toMatchObject({ downstreamBytes: 1_000, upstreamBytes: 2_000 });
    });

    test('with a SYN that is sent again, to the same backend', async () => {
      const one = talk();
      const first = one.syn().segment.destination;
      await rig.backends(B);
      one.clientNext -= 1;
      expect(one.syn().segment.destination).toBe(first);
      expect(rig.live('a')).toBe(1);
      one.synAck();
      one.say(ACK);
      expect(one.state).toBe('open');
    });

    test('not with a backend that refuses', () => {
      const one = talk();
      one.syn();
      const refusal = one.answer(RST | ACK, 0, { sequence: 0 });
      expect(refusal).toMatchObject({
        verdict: NEXT,
        segment: { source: LISTENER, flags: RST | ACK, isRight: true },
      });
      expect(one.state).toBe('over');
      expect(rig.counts()).toMatchObject({ accepted: 1, live: 0, closed: { 'connect-failed': 1 } });
      expect(rig.live('a')).toBe(0);
    });

    test('although a RST refuses what the client did not send', () => {
      const one = talk();
      one.syn();
      one.clientNext++;
      one.answer(RST | ACK, 0, { sequence: 0 });
      one.clientNext--;
      expect(one.state).toBe('opening');
      one.synAck();
      one.say(ACK);
      expect(one.state).toBe('open');
      expect(rig.counts()).toMatchObject({ accepted: 1, live: 1, closed: {} });
    });

    test('not with a client that gives up, of which a socket would not have heard', () => {
      const one = talk();
      one.syn();
      one.synAck();
      one.say(RST);
      expect(one.state).toBe('over');
      expect(rig.counts()).toMatchObject({ accepted: 0, closed: {} });
      expect(rig.live('a')).toBe(0);
    });
  });

  describe('bytes', () => {
    test('are counted once, however often they are sent, and in whatever order', () => {
      const one = talk().open();
      const begin = one.clientNext;
      one.say(ACK, 100);
      one.say(ACK, 100, { sequence: begin });
      one.clientNext = begin + 300;
      one.say(ACK, 100, { sequence: begin + 200 });
      one.say(ACK, 100, { sequence: begin + 100 });
      expect(rig.counts().downstreamBytes).toBe(300);
    });

    test('of a segment of 3,000 pass whole', () => {
      const one = talk().open();
      const { verdict, segment } = one.answer(ACK, 3_000);
      expect(verdict).toBe(NEXT);
      expect(segment).toMatchObject({ source: LISTENER, isRight: true });
      expect(segment.payload.length).toBe(3_000);
      expect(rig.counts().upstreamBytes).toBe(3_000);
    });

    test('with a number far from the stream are passed on, and neither counted nor followed', () => {
      const one = talk().open();
      const begin = one.clientNext;
      one.say(ACK, 10, { sequence: begin + 2 ** 31 });
      one.clientNext = begin;
      one.say(ACK, 10);
      expect(rig.counts().downstreamBytes).toBe(10);
    });
  });

  describe('a client that speaks to the backend itself', () => {
    const direct = (flags: number): number => {
      const { verdict, segment } = rig.ingress({ source: CLIENT, destination: A, flags, sequence: 5 });
      expect(segment).toMatchObject({ source: CLIENT, destination: A });
      return verdict;
    };
    const reply = () => rig.egress({ source: A, destination: CLIENT, flags: SYN | ACK }).segment.source;

    test('from a port that it used through the relay is left alone', () => {
      const one = talk().open();
      one.say(FIN | ACK);
      one.answer(FIN | ACK);
      one.say(ACK);
      expect(direct(SYN)).toBe(NEXT);
      expect(reply()).toBe(A);
      expect(rig.records()).toEqual([0, 0]);
    });

    test('from a port whose connection was cut is left alone', () => {
      cut(talk().open());
      expect(direct(SYN)).toBe(NEXT);
      expect(reply()).toBe(A);
    });

    test('does not take an open connection’s answers', () => {
      const one = talk().open();
      expect(direct(SYN)).toBe(NEXT);
      expect(one.answer(ACK, 5).segment.source).toBe(LISTENER);
      expect(one.state).toBe('open');
    });

    test('is not heard through another listener from the same port', () => {
      const one = talk().open();
      const two = talk(CLIENT, OTHER_LISTENER);
      expect(two.syn()).toMatchObject({ verdict: REDIRECT, segment: { flags: RST | ACK } });
      expect(rig.counts(1).closed).toEqual({ 'connect-failed': 1 });
      expect(one.answer(ACK, 5).segment.source).toBe(LISTENER);
      cut(one);
      expect(two.open().state).toBe('open');
      expect(two.answer(ACK, 5).segment.source).toBe(OTHER_LISTENER);
      expect(rig.live('a')).toBe(1);
    });
  });

  test('backend and client of different families don’t meet', async () => {
    await rig.reset();
    rig.listen(LISTENER);
    await rig.backends('[2001:db8::1]:5432');
    expect(talk().syn()).toMatchObject({ verdict: REDIRECT, segment: { flags: RST | ACK } });
    expect(rig.counts().closed).toEqual({ 'connect-failed': 1 });
    expect(rig.records()).toEqual([0, 0]);
  });

  test('a backend’s segment to a stranger passes untouched', () => {
    const { verdict, segment } = rig.egress({ source: A, destination: CLIENT, flags: SYN | ACK });
    expect(verdict).toBe(NEXT);
    expect(segment).toMatchObject({ source: A, destination: CLIENT, isRight: true });
  });

  test('a source that can’t be answered gets nothing', () => {
    for (const source of ['10.0.0.1:0', '0.1.2.3:5', '224.0.0.1:5', '255.255.255.255:5']) {
      expect(rig.ingress({ source, destination: LISTENER, flags: SYN }).verdict).toBe(DROP);
    }
    expect(rig.records()).toEqual([0, 0]);
  });
});
