/** Which backend takes a connection. */
import { describe, expect, test } from 'vitest';
import {
  eventually,
  greet,
  hold,
  listenerSpec,
  nextText,
  benchOfEach,
  TRANSPORTS_HERE,
} from './tcp-bench.ts';

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  const bench = benchOfEach(transport);

  describe('least-connections', () => {
    test('spreads 200 connections opened at once evenly', async () => {
      for (const id of ['a', 'b', 'c', 'd']) await bench.backend(id, hold);
      await bench.listen();
      await bench.dialMany(200);
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 50, b: 50, c: 50, d: 50 }));
    });

    test('spreads by weight', async () => {
      await bench.backend('small', hold);
      await bench.backend('large', hold, { weight: 3 });
      await bench.listen();
      await bench.dialMany(80);
      await eventually(() => expect(bench.liveByBackend()).toEqual({ small: 20, large: 60 }));
    });

    test('is right under 1,000 connections opened at once, with weights', async () => {
      const weights = { a: 1, b: 2, c: 3, d: 4 };
      for (const [id, weight] of Object.entries(weights)) await bench.backend(id, hold, { weight });
      await bench.listen();
      await bench.dialMany(1_000);
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 100, b: 200, c: 300, d: 400 }));
    });

    test('gives a backend that comes up its share slowly, where that is wanted', async () => {
      let nowMs = 1_000;
      await bench.start({ now: () => nowMs });
      for (const id of ['a', 'b']) await bench.backend(id, hold);
      await bench.listen({ slowStartMs: 10_000 });
      await bench.dialMany(40);
      // Those that were there from the beginning are not slow.
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 20, b: 20 }));
      await bench.backend('new', hold);
      bench.publish();
      await bench.dialMany(10);
      // One hundredth of the weight: the first connection is as many as it may have for a long time.
      await eventually(() => expect(bench.liveByBackend()).toMatchObject({ new: 1 }));
      nowMs += 5_000;
      await bench.dialMany(20);
      // Half the weight: 70 connections in shares of 2, 2 and 1.
      await eventually(() => expect(bench.status().liveConnections).toBe(70));
      await eventually(() => expect(bench.liveByBackend()['new']).toBe(14));
      nowMs += 5_000;
      await bench.dialMany(20);
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 30, b: 30, new: 30 }));
    });

    test('gives the first backend that comes back when all were down its whole share at once, and the next one slowly', async () => {
      await bench.start({ now: () => 1_000 });
      for (const id of ['a', 'b']) await bench.backend(id, hold);
      await bench.listen({ slowStartMs: 10_000 });
      for (const id of ['a', 'b']) bench.pool.setHealthy(id, false);
      bench.publish();
      for (const id of ['a', 'b']) {
        bench.pool.setHealthy(id, true);
        bench.publish();
        await bench.dialMany(10);
      }
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 19, b: 1 }));
    });

    test('gives the next connection to the backend that lost one', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen();
      await bench.dialMany(10);
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 5, b: 5 }));
      const onA = bench.engine.connections({ limit: 10, backend: 'a' }).connections[0]!;
      bench.engine.closeConnection(onA.id);
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 4, b: 5 }));
      expect(await nextText(bench.dial())).toBe('a');
    });

    test('counts the connections of every listener of the pool', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen();
      const first = await nextText(bench.dial());
      bench.local = await bench.engine.addListener({ ...listenerSpec(), name: 'other' });
      const second = await nextText(bench.dial());
      expect([first, second].sort()).toEqual(['a', 'b']);
    });
  });

  test('ip-hash keeps a client address on one backend', async () => {
    for (const id of ['a', 'b', 'c']) await bench.backend(id, greet(id));
    await bench.listen({ algorithm: 'ip-hash' });
    for (const localAddress of ['127.0.0.2', '127.0.0.3', '127.0.0.4', '127.0.0.5']) {
      const names = [];
      for (let i = 0; i < 4; i++) names.push(await nextText(bench.dial({ localAddress })));
      expect(new Set(names).size).toBe(1);
    }
  });
});
