/** Backends that can't be reached, or fail at once: who is tried instead, and who is told. */
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import {
  echo,
  eventually,
  greet,
  hold,
  howItEnds,
  listenerSpec,
  nextText,
  benchOfEach,
  TRANSPORTS_HERE,
} from './tcp-bench.ts';

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  const bench = benchOfEach(transport);

  describe('a backend that can not be reached', () => {
    test('is replaced once by a ready one, and the early bytes arrive', async () => {
      await bench.deadBackend('dead');
      await bench.backend('alive', echo);
      await bench.listen();
      for (let i = 0; i < 8; i++) {
        const client = bench.dial();
        client.write('early');
        expect(await nextText(client)).toBe('early');
      }
      expect(bench.liveByBackend()).toEqual({ alive: 8 });
      expect(bench.status().counts.retried).toBeGreaterThan(0);
    });

    test('is replaced only once', async () => {
      for (const id of ['dead-1', 'dead-2', 'dead-3']) await bench.deadBackend(id);
      const attempts: number[] = [];
      const { pool } = bench;
      await bench.start({
        dial: ({ port }) => {
          attempts.push(port);
          return 'real';
        },
      });
      await bench.engine.publish(pool.snapshot());
      bench.local = await bench.engine.addListener(listenerSpec());
      expect(await howItEnds(bench.dial())).toBe('reset');
      await eventually(() => expect(bench.closed('connect-failed')).toBe(1));
      expect(attempts).toHaveLength(2);
      expect(new Set(attempts).size).toBe(2);
    });

    test('ends the connection where it is the only one', async () => {
      await bench.deadBackend('dead');
      await bench.listen();
      expect(await howItEnds(bench.dial())).toBe('reset');
      await eventually(() => expect(bench.closed('connect-failed')).toBe(1));
      expect(bench.status().counts.retried).toBe(0);
    });

    test('is given up after the connect timeout and replaced', async () => {
      let isFirst = true;
      await bench.start({
        // The first attempt goes into a black hole.
        dial: () => (isFirst ? ((isFirst = false), 'never') : 'real'),
      });
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen({ connectTimeoutMs: 50 });
      expect(['a', 'b']).toContain(await nextText(bench.dial()));
      expect(bench.status().counts.retried).toBe(1);
    });

    test('ends the connection after two timeouts', async () => {
      await bench.start({ dial: () => 'never' });
      for (const id of ['a', 'b']) await bench.backend(id, hold);
      await bench.listen({ connectTimeoutMs: 50 });
      expect(await howItEnds(bench.dial())).toBe('reset');
      await eventually(() => expect(bench.closed('connect-timeout')).toBe(1));
      expect(bench.status()).toMatchObject({ liveConnections: 0, counts: { retried: 1 } });
    });

    test('is replaced when it becomes unusable while connecting', async () => {
      let isFirst = true;
      await bench.start({ dial: () => (isFirst ? ((isFirst = false), 'never') : 'real') });
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen();
      const client = bench.dial();
      await eventually(() => expect(bench.status().liveConnections).toBe(1));
      const [chosen] = bench.status().connectionsByBackend.keys();
      bench.pool.setHealthy(chosen!, false);
      bench.publish();
      expect(await nextText(client)).not.toBe(chosen);
    });
  });

  test('a backend that resets before the first byte is replaced, and its successor gets every byte', async () => {
    await bench.backend('rude', (socket) => socket.resetAndDestroy());
    await bench.backend('kind', echo);
    await bench.listen();
    for (let i = 0; i < 6; i++) {
      const client = bench.dial();
      await once(client, 'connect');
      await eventually(() => expect(bench.liveByBackend()).toEqual({ kind: i + 1 }));
      client.write(`hello ${i}`);
      expect(await nextText(client)).toBe(`hello ${i}`);
    }
    expect(bench.status().counts.retried).toBeGreaterThan(0);
    expect(bench.closed('backend-reset')).toBe(0);
  });

  test('every attempt to reach a backend is told: what speaks against the backend, and what does not', async () => {
    const outcomes: string[] = [];
    let isExhausted = false;
    await bench.start({
      onConnectOutcome: (pool, { id }, failure) => outcomes.push(`${pool} ${id} ${failure ?? 'ok'}`),
      dial: () => (isExhausted ? { fails: 'EMFILE' } : 'real'),
    });
    await bench.deadBackend('dead');
    await bench.backend('alive', greet('alive'));
    await bench.listen({ algorithm: 'round-robin' });
    await nextText(bench.dial());
    await nextText(bench.dial());
    expect(outcomes.sort()).toEqual(['pool alive ok', 'pool alive ok', 'pool dead ECONNREFUSED']);
    isExhausted = true;
    expect(await howItEnds(bench.dial())).toBe('reset');
    expect(outcomes).toHaveLength(3);
  });

  test('a backend that fails after the first byte is not replaced', async () => {
    let attempts = 0;
    await bench.start({ dial: () => (attempts++, 'real') });
    for (const id of ['a', 'b']) {
      await bench.backend(id, (socket) => socket.once('data', () => socket.resetAndDestroy()));
    }
    await bench.listen();
    const client = bench.dial();
    client.write('first byte');
    expect(await howItEnds(client)).toBe('reset');
    await eventually(() => expect(bench.closed('backend-reset')).toBe(1));
    expect(attempts).toBe(1);
  });

  test('a backend that fails after the client’s FIN is not replaced, although no byte was passed on', async () => {
    let attempts = 0;
    await bench.start({ dial: () => (attempts++, 'real') });
    for (const id of ['a', 'b']) {
      await bench.backend(id, (socket) => socket.resume().once('end', () => socket.resetAndDestroy()));
    }
    await bench.listen();
    const client = bench.dial();
    client.end();
    expect(await howItEnds(client)).toBe('reset');
    await eventually(() => expect(bench.closed('backend-reset')).toBe(1));
    expect(attempts).toBe(1);
  });
});
