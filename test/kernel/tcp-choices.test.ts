/** Which backend a connection gets in the kernel, how many are let in, and what makes room: against the user-space pool, too. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { hashAddress } from '../../relay/core/hash.ts';
import type { BackendEntry } from '../../relay/core/pool-snapshot.ts';
import { ALGORITHMS } from '../../relay/core/select.ts';
import { TcpPool } from '../../relay/tcp/tcp-pool.ts';
import { closing, MS, NEXT, whereAvailable } from './packet-rig.ts';
import { ACK, FIN, RST, SYN } from './segment.ts';
import { A, B, Conversation, LISTENER } from './tcp-conversation.ts';
import { REDIRECT, TcpRig } from './tcp-rig.ts';

const C = '10.9.0.3:5432';

whereAvailable(() => {
  const rig = closing(new TcpRig({ maxSessions: 4_096 }));
  const small = closing(new TcpRig({ maxSessions: 16 }));
  beforeEach(async () => {
    await rig.reset();
    await small.reset();
  });

  const talk = (i: number, on = rig): Conversation =>
    new Conversation(on, `10.0.${i >> 8}.${i & 255}:${20_000 + i}`, LISTENER);
  const many = (count: number, from = 0, on = rig): Conversation[] =>
    Array.from({ length: count }, (_, i) => talk(from + i, on));
  const refusedWith = (reason: string, count: number, on = rig): void => {
    expect(on.counts().closed).toEqual({ [reason]: count });
  };

  describe('least-connections', () => {
    test('spreads 1,000 connections that open at once by weight, to the connection', async () => {
      rig.listen(LISTENER);
      await rig.backends([A, { weight: 1 }], [B, { weight: 2 }], [C, { weight: 5 }]);
      const all = many(1_000);
      for (const one of all) one.syn();
      expect(['a', 'b', 'c'].map((id) => rig.live(id))).toEqual([125, 250, 625]);
      for (const one of all) one.synAck();
      for (const one of all) one.say(ACK);
      expect(rig.counts()).toMatchObject({ accepted: 1_000, live: 1_000 });
      for (const one of all) {
        one.say(FIN | ACK);
        one.answer(FIN | ACK);
        one.say(ACK);
      }
      expect(['a', 'b', 'c'].map((id) => rig.live(id))).toEqual([0, 0, 0]);
      expect(rig.counts()).toMatchObject({ accepted: 1_000, live: 0, closed: { completed: 1_000 } });
    });

    test('counts the connections of all listeners of the pool', async () => {
      rig.listen(LISTENER);
      rig.listen('198.51.100.1:6432', {}, 1);
      await rig.backends(A, B);
      for (const one of many(7)) one.syn();
      for (let i = 0; i < 7; i++) new Conversation(rig, `10.1.0.${i}:5000`, '198.51.100.1:6432').syn();
      expect([rig.live('a'), rig.live('b')]).toEqual([7, 7]);
    });

    test('begins from nothing with a backend that comes back', async () => {
      rig.listen(LISTENER);
      await rig.backends(A, B);
      const before = many(10);
      for (const one of before) one.open();
      rig.pool.setHealthy('a', false);
      await rig.publish();
      rig.pool.setHealthy('a', true);
      await rig.publish();
      expect([rig.live('a'), rig.live('b')]).toEqual([0, 5]);
      for (const one of many(5, 100)) one.syn();
      expect([rig.live('a'), rig.live('b')]).toEqual([5, 5]);
      // What it had before is ended only now, and is not taken from what it has by now.
      for (const one of before) if (one.backend === A) rig.steward.add('cut', one.key, 'backend-unusable');
      rig.steward.flush();
      expect(rig.counts().closed).toEqual({ 'backend-unusable': 5 });
      expect([rig.live('a'), rig.live('b')]).toEqual([5, 5]);
    });
  });

  describe('limits', () => {
    test('of the listener hold for open connections, exactly, however many open at once', async () => {
      rig.listen(LISTENER, { maxConnections: 10 });
      await rig.backends(A, B);
      const all = many(50);
      for (const one of all) one.syn();
      for (const one of all) one.synAck();
      const verdicts = all.map((one) => one.say(ACK).verdict);
      expect(verdicts.slice(0, 10)).toEqual(Array<number>(10).fill(NEXT));
      expect(verdicts.slice(10)).toEqual(Array<number>(40).fill(REDIRECT));
      refusedWith('connection-limit', 40);
      expect(rig.counts()).toMatchObject({ accepted: 50, live: 10 });
      expect(rig.live('a') + rig.live('b')).toBe(10);
      // The backend is told by RST as well, when it speaks.
      expect(all[20]!.answer(SYN | ACK)).toMatchObject({ verdict: REDIRECT, segment: { flags: RST } });
      expect(talk(99).syn()).toMatchObject({ verdict: REDIRECT, segment: { flags: RST | ACK } });
      refusedWith('connection-limit', 41);
      all[0]!.say(RST);
      expect(talk(99).open().state).toBe('open');
    });

    test('of one client IP leave others alone', async () => {
      rig.listen(LISTENER, { connectionsPerSource: 2 });
      await rig.backends(A);
      const from = (ip: string, port: number): Conversation =>
        new Conversation(rig, `${ip}:${port}`, LISTENER);
      const mine = [1, 2, 3].map((port) => from('10.0.0.1', port));
      for (const one of mine) one.syn();
      for (const one of mine) one.synAck();
      expect(mine.map((one) => one.say(ACK).verdict)).toEqual([NEXT, NEXT, REDIRECT]);
      refusedWith('source-connection-limit', 1);
      expect(from('10.0.0.1', 4).syn().verdict).toBe(REDIRECT);
      expect(from('10.0.0.2', 1).open().state).toBe('open');
      mine[0]!.say(RST);
      expect(from('10.0.0.1', 5).open().state).toBe('open');
    });

    test('of a backend send clients elsewhere first', async () => {
      rig.listen(LISTENER);
      await rig.backends([A, { cap: 3 }], B);
      const all = many(20);
      for (const one of all) one.open();
      expect([rig.live('a'), rig.live('b')]).toEqual([3, 17]);
      expect(rig.counts()).toMatchObject({ accepted: 20, live: 20 });
    });

    test('of all backends refuse, with a reason of their own', async () => {
      rig.listen(LISTENER, { algorithm: 'round-robin' });
      await rig.backends([A, { cap: 2 }], [B, { cap: 2 }]);
      for (const one of many(4)) expect(one.open().state).toBe('open');
      expect(talk(9).syn().verdict).toBe(REDIRECT);
      refusedWith('backend-connection-limit', 1);
    });

    test('of a backend count what is open: spoofed SYNs fill none', async () => {
      rig.listen(LISTENER);
      await rig.backends([A, { cap: 2 }]);
      for (const one of many(100)) one.syn();
      expect(talk(200).open().state).toBe('open');
      expect(talk(201).open().state).toBe('open');
      expect(talk(202).syn().verdict).toBe(REDIRECT);
    });

    test('of the rate allow a burst of one second, and as many a second', async () => {
      rig.listen(LISTENER, { rate: 4 });
      await rig.backends(A);
      const syn = (ip: string, port: number): number =>
        new Conversation(rig, `${ip}:${port}`, LISTENER).syn().verdict;
      const burst = [1, 2, 3, 4, 5].map((port) => syn('10.0.0.1', port));
      expect(burst).toEqual([NEXT, NEXT, NEXT, NEXT, REDIRECT]);
      refusedWith('source-rate-limit', 1);
      expect(syn('10.0.0.2', 1)).toBe(NEXT);
      rig.advance(249 * MS);
      expect(syn('10.0.0.1', 6)).toBe(REDIRECT);
      rig.advance(MS);
      expect(syn('10.0.0.1', 7)).toBe(NEXT);
      expect(syn('10.0.0.1', 8)).toBe(REDIRECT);
    });
  });

  describe('a full table', () => {
    test('gives up the oldest that is only opening, and under a flood of SYNs never an open one', async () => {
      small.listen(LISTENER);
      await small.backends(A, B);
      const open = many(8, 0, small);
      for (const one of open) one.open();
      for (const one of many(1_000, 1_000, small)) expect(one.syn().verdict).toBe(NEXT);
      expect(small.records()).toEqual([16, 16]);
      for (const one of open) expect([one.state, one.say(ACK, 1).verdict]).toEqual(['open', NEXT]);
      expect(talk(1_991, small).state).toBe('none');
      expect(talk(1_992, small).state).toBe('opening');
      expect(small.live('a') + small.live('b')).toBe(16);
      // One that is quick enough gets in all the same.
      expect(talk(9, small).open().state).toBe('open');
      expect(small.counts()).toMatchObject({ accepted: 9, live: 9, closed: {} });
    });

    test('gives up those that have ended', async () => {
      small.listen(LISTENER);
      await small.backends(A);
      for (const one of many(200, 0, small)) {
        one.open().say(RST);
        expect(one.state).toBe('over');
      }
      expect(small.records()).toEqual([16, 16]);
      expect(small.counts()).toMatchObject({ accepted: 200, live: 0, closed: { 'client-reset': 200 } });
    });

    test('of open ones refuses', async () => {
      small.listen(LISTENER);
      await small.backends(A);
      for (const one of many(16, 0, small)) one.open();
      expect(talk(99, small).syn().verdict).toBe(REDIRECT);
      refusedWith('connection-limit', 1, small);
      expect(small.live('a')).toBe(16);
    });
  });

  test('the same backends as the user-space pool gives, whatever comes', { timeout: 120_000 }, async () => {
    const BACKENDS = { a: A, b: B, c: C };
    const client = fc.record({ kind: fc.constant('open' as const), ip: fc.integer({ min: 0, max: 40 }) });
    const change = fc.record({
      kind: fc.constant('change' as const),
      id: fc.constantFrom('a', 'b', 'c'),
      what: fc.constantFrom('healthy', 'unhealthy', 'drain', 'undrain'),
    });
    const close = fc.record({ kind: fc.constant('close' as const), which: fc.nat(1_000) });
    const setting = fc.record({
      algorithm: fc.constantFrom(...ALGORITHMS),
      weights: fc.tuple(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 4 }),
      ),
      caps: fc.tuple(fc.constantFrom(0, 0, 2, 5), fc.constantFrom(0, 0, 3), fc.constantFrom(0, 0, 4)),
    });
    await fc.assert(
      fc.asyncProperty(
        setting,
        fc.array(
          fc.oneof(
            { weight: 8, arbitrary: client },
            { weight: 3, arbitrary: close },
            { weight: 1, arbitrary: change },
          ),
          { minLength: 20, maxLength: 80, size: 'max' },
        ),
        async ({ algorithm, weights, caps }, steps) => {
          await rig.reset();
          rig.listen(LISTENER, { algorithm });
          const entries = Object.values(BACKENDS);
          await rig.backends(
            ...entries.map((text, i) => [text, { weight: weights[i]!, cap: caps[i]! }] as const),
          );
          const pool = new TcpPool('db');
          pool.publish(rig.pool.snapshot(), 0);
          let open: { one: Conversation; backend: BackendEntry }[] = [];
          let port = 1_000;
          for (const step of steps) {
            if (step.kind === 'open') {
              const one = new Conversation(rig, `10.0.0.${step.ip}:${port++}`, LISTENER);
              const hash = hashAddress(Endpoint.parse(one.client).ip.words, 0, 0);
              const backend = pool.acquire({ algorithm, hash, slowStartMs: 0, nowMs: 0 });
              const { verdict } = one.syn();
              if (typeof backend === 'string') {
                assert.equal(verdict, REDIRECT, backend);
                continue;
              }
              assert.equal(one.backend, backend.endpoint.toString());
              one.synAck();
              one.say(ACK);
              assert.equal(one.state, 'open');
              open.push({ one, backend });
            } else if (step.kind === 'close') {
              const [ended] = open.splice(step.which % Math.max(1, open.length), 1);
              if (ended === undefined) continue;
              ended.one.say(RST);
              pool.release(ended.backend);
            } else {
              const { id, what } = step;
              if (what.endsWith('healthy')) rig.pool.setHealthy(id, what === 'healthy');
              else rig.pool.setDraining(id, what === 'drain');
              await rig.publish();
              pool.publish(rig.pool.snapshot(), 0);
              // As the engine and the user-space side do at once.
              for (const { one, backend } of open.filter((each) => !pool.isUsable(each.backend))) {
                rig.steward.add('cut', one.key, 'backend-unusable');
                rig.steward.flush();
                pool.release(backend);
              }
              open = open.filter(({ backend }) => pool.isUsable(backend));
            }
            for (const id of Object.keys(BACKENDS)) {
              const expected = open.filter(({ backend }) => backend.id === id).length;
              assert.equal(rig.live(id), expected, `connections of ${id}`);
            }
            assert.equal(rig.counts().live, open.length);
          }
        },
      ),
      { numRuns: 60 },
    );
  });
});
