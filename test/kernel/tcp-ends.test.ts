/** How a connection in the kernel ends: by its ends, by order, with its backend, by time; and what each end sees of it. */
import { beforeEach, describe, expect, test } from 'vitest';
import { closing, DROP, NEXT, whereAvailable } from './packet-rig.ts';
import { ACK, FIN, RST } from './segment.ts';
import { A, B, CLIENT, conversations, LISTENER, MINUTE, resetToTwoListeners } from './tcp-conversation.ts';
import { REDIRECT, TcpRig } from './tcp-rig.ts';

whereAvailable(() => {
  const rig = closing(new TcpRig());
  beforeEach(() => resetToTwoListeners(rig));

  const { talk, expire, cut } = conversations(rig);

  describe('the end by FIN', () => {
    test('is complete when both have ended and know it of each other', () => {
      const one = talk().open();
      one.say(FIN | ACK, 3);
      one.answer(ACK);
      expect(rig.counts().live).toBe(1);
      one.answer(ACK, 500);
      one.say(ACK);
      one.answer(FIN | ACK);
      expect(one.state).toBe('open');
      one.say(ACK);
      expect(one.state).toBe('over');
      expect(rig.counts()).toMatchObject({
        accepted: 1,
        live: 0,
        closed: { completed: 1 },
        downstreamBytes: 3,
        upstreamBytes: 500,
      });
      expect(rig.live('a')).toBe(0);
    });

    test('may begin at the backend, or at both', () => {
      const [one, two] = [talk().open(), talk('10.0.0.1:40001').open()];
      one.answer(FIN | ACK);
      one.say(FIN | ACK);
      one.answer(ACK);
      expect(one.state).toBe('over');
      // Each FIN is under way before the other is seen.
      const before = two.clientNext;
      two.say(FIN | ACK);
      const after = two.clientNext;
      two.clientNext = before;
      two.answer(FIN | ACK);
      two.clientNext = after;
      two.say(ACK);
      two.answer(ACK);
      expect(two.state).toBe('over');
      expect(rig.counts().closed).toEqual({ completed: 2 });
    });

    test('lets what is sent again pass for four minutes, then answers it with RST', () => {
      const one = talk().open();
      one.say(FIN | ACK);
      one.answer(FIN | ACK);
      one.say(ACK);
      one.backendNext -= 1;
      expect(one.answer(FIN | ACK).segment).toMatchObject({ source: LISTENER, flags: FIN | ACK });
      rig.advance(4 * MINUTE - 1);
      expire(one);
      expect(one.state).toBe('over');
      rig.advance(1);
      expire(one);
      expect(one.state).toBe('none');
      expect(rig.records()).toEqual([0, 0]);
      expect(one.say(ACK)).toMatchObject({ verdict: REDIRECT, segment: { flags: RST } });
      expect(rig.counts().closed).toEqual({ completed: 1 });
    });

    test('is assumed after four minutes of silence when only the last ACK is missing', () => {
      const one = talk().open();
      one.say(FIN | ACK);
      one.answer(FIN | ACK);
      rig.advance(4 * MINUTE);
      expire(one);
      expect(one.state).toBe('none');
      expect(rig.counts().closed).toEqual({ completed: 1 });
    });

    test('leaves the port to a new connection at once', () => {
      const one = talk().open();
      one.say(FIN | ACK);
      one.answer(FIN | ACK);
      one.say(ACK);
      const again = talk().open();
      expect(again.state).toBe('open');
      expect(rig.counts()).toMatchObject({ accepted: 2, live: 1 });
      expect(rig.records()).toEqual([1, 1]);
    });
  });

  describe('the end by RST', () => {
    test('of the client reaches the backend', () => {
      const one = talk().open();
      expect(one.say(RST)).toMatchObject({
        verdict: NEXT,
        segment: { destination: A, flags: RST, isRight: true },
      });
      expect(one.state).toBe('over');
      expect(rig.counts()).toMatchObject({ live: 0, closed: { 'client-reset': 1 } });
    });

    test('of the backend reaches the client', () => {
      const one = talk().open();
      expect(one.answer(RST)).toMatchObject({
        verdict: NEXT,
        segment: { source: LISTENER, flags: RST, isRight: true },
      });
      expect(one.state).toBe('over');
      expect(rig.counts()).toMatchObject({ live: 0, closed: { 'backend-reset': 1 } });
    });

    test('is not believed with a number that its sender would not give, but passed on', () => {
      const one = talk().open();
      one.say(ACK, 50);
      expect(one.say(RST, 0, { sequence: one.clientNext + 1 }).verdict).toBe(NEXT);
      expect(one.say(RST, 0, { sequence: one.clientNext - 51 }).verdict).toBe(NEXT);
      expect(one.answer(RST, 0, { sequence: one.backendNext + 1 }).verdict).toBe(NEXT);
      expect(one.state).toBe('open');
      // Between what the other end has acknowledged and what was sent.
      one.say(RST, 0, { sequence: one.clientNext - 50 });
      expect(one.state).toBe('over');
    });
  });

  describe('a cut', () => {
    test('is counted with its reason, and both ends get RST for what they go on sending', () => {
      const one = talk().open();
      expect(cut(one)).toBe(true);
      expect(one.state).toBe('cut');
      expect(rig.counts()).toMatchObject({ live: 0, closed: { operator: 1 } });
      expect(rig.live('a')).toBe(0);
      expect(one.say(ACK, 20)).toMatchObject({
        verdict: REDIRECT,
        segment: {
          source: LISTENER,
          destination: CLIENT,
          flags: RST,
          sequence: one.backendNext,
          isRight: true,
        },
      });
      expect(one.answer(ACK, 20)).toMatchObject({
        verdict: REDIRECT,
        segment: { source: CLIENT, destination: A, flags: RST, sequence: one.clientNext, isRight: true },
      });
      expect(one.say(RST).verdict).toBe(DROP);
      expect(one.answer(RST).verdict).toBe(DROP);
      expect(cut(one)).toBe(false);
    });

    test('of one that only opens is not counted, and its next SYN begins anew', () => {
      const one = talk();
      one.syn();
      expect(cut(one)).toBe(false);
      expect(one.state).toBe('none');
      expect(rig.counts()).toMatchObject({ accepted: 0, closed: {} });
      expect(rig.live('a')).toBe(0);
    });

    test('lets the client open anew from the same port', () => {
      const one = talk().open();
      cut(one);
      expect(talk().open().state).toBe('open');
    });
  });

  describe('a backend that is not usable any more', () => {
    test('gets nothing, and the client gets RST', async () => {
      const one = talk().open();
      rig.pool.setHealthy('a', false);
      await rig.publish();
      expect(one.say(ACK, 5)).toMatchObject({
        verdict: REDIRECT,
        segment: { flags: RST, destination: CLIENT },
      });
    });

    test('is left by a connection that still opens, with the client’s next SYN', async () => {
      await rig.backends(B);
      const one = talk();
      one.syn();
      const [left, other, id] = one.backend === A ? [A, B, 'a'] : [B, A, 'b'];
      rig.pool.setHealthy(id, false);
      await rig.publish();
      one.clientNext -= 1;
      expect(one.syn().segment.destination).toBe(other);
      expect(left).not.toBe(other);
      one.synAck();
      one.say(ACK);
      expect(one.state).toBe('open');
      expect(rig.counts()).toMatchObject({ accepted: 1, live: 1 });
    });

    test('keeps its connections while it drains', async () => {
      const one = talk().open();
      rig.pool.setDraining('a', true);
      await rig.publish();
      expect(one.say(ACK, 5)).toMatchObject({ verdict: NEXT, segment: { destination: A } });
      expect(talk('10.0.0.2:1').syn()).toMatchObject({ verdict: REDIRECT, segment: { flags: RST | ACK } });
      expect(rig.counts().closed).toEqual({ 'no-backend': 1 });
    });
  });

  describe('time', () => {
    test('an open connection ends after the idle timeout, which either end renews', () => {
      const one = talk().open();
      rig.advance(124 * MINUTE - 1);
      one.answer(ACK, 1);
      rig.advance(124 * MINUTE - 1);
      one.say(ACK);
      rig.advance(124 * MINUTE - 1);
      expire(one);
      expect(one.state).toBe('open');
      rig.advance(1);
      rig.steward.add('expire', one.key);
      expect(rig.steward.flush()).toEqual([true]);
      expect(one.state).toBe('cut');
      expect(rig.counts()).toMatchObject({ live: 0, closed: { 'idle-timeout': 1 } });
      expect(one.say(ACK, 1)).toMatchObject({ verdict: REDIRECT, segment: { flags: RST } });
    });

    test.each(['client', 'backend'] as const)(
      'one that only its %s has ended is open for the idle timeout still',
      (end) => {
        const one = talk().open();
        if (end === 'client') {
          one.say(FIN | ACK);
          one.answer(ACK);
        } else {
          one.answer(FIN | ACK);
          one.say(ACK);
        }
        rig.advance(124 * MINUTE - 1);
        expire(one);
        expect(one.state).toBe('open');
      },
    );

    test('one that nobody answers ends after four minutes, as connect-timeout', () => {
      const one = talk();
      one.syn();
      rig.advance(4 * MINUTE - 1);
      expire(one);
      expect(one.state).toBe('opening');
      rig.advance(1);
      expire(one);
      expect(one.state).toBe('none');
      expect(rig.counts()).toMatchObject({ accepted: 1, closed: { 'connect-timeout': 1 } });
      expect(rig.live('a')).toBe(0);
    });

    test('one whose client does not answer is forgotten after four minutes', () => {
      const one = talk();
      one.syn();
      one.synAck();
      rig.advance(4 * MINUTE);
      expire(one);
      expect(one.state).toBe('none');
      expect(rig.counts()).toMatchObject({ accepted: 0, closed: {} });
    });

    test('what was cut is known for four minutes', () => {
      const one = talk().open();
      rig.advance(60 * MINUTE);
      cut(one);
      rig.advance(4 * MINUTE - 1);
      expire(one);
      expect(one.state).toBe('cut');
      rig.advance(1);
      expire(one);
      expect(rig.records()).toEqual([0, 0]);
    });
  });
});
