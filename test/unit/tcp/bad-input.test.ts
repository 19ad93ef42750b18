/** What hostile or broken clients and backends do, and what it may cost: caps hold, sums are exact, everything comes back. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import {
  echo,
  eventually,
  greet,
  hold,
  howItEnds,
  nextText,
  benchOfEach,
  TRANSPORTS_HERE,
} from './tcp-bench.ts';

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  const bench = benchOfEach(transport);

  const openSockets = (): number =>
    process.getActiveResourcesInfo().filter((kind) => kind.startsWith('TCP')).length;

  /** A connection that was there before, and must not notice. */
  async function bystander(): Promise<() => Promise<void>> {
    const client = bench.dial({ localAddress: '127.0.0.99' });
    client.write('before');
    expect(await nextText(client)).toBe('before');
    return async () => {
      client.write('after');
      expect(await nextText(client)).toBe('after');
    };
  }

  test('slowloris: clients that send a byte now and then keep no one else out, and end with the idle timeout once they stop', async () => {
    let nowMs = 0;
    await bench.start({ now: () => nowMs, sweepIntervalMs: 5 });
    await bench.backend('a', echo);
    await bench.listen({
      maxConnections: 20,
      idleTimeoutMs: 1_000,
      limits: { connectionsPerSource: 5, connectionRatePerSource: 0 },
    });
    const slow: Socket[] = [];
    for (let i = 0; i < 8; i++) slow.push(bench.dial({ localAddress: '127.0.0.66' }));
    await eventually(() => expect(bench.closed('source-connection-limit')).toBe(3));
    const stillFine = await bystander();
    let sent = 'before'.length;
    for (let round = 0; round < 3; round++) {
      nowMs += 900;
      for (const client of slow) if (client.writable) client.write('x');
      sent += 5;
      await eventually(() => expect(bench.status().counts.downstreamBytes).toBe(sent));
      await stillFine();
      sent += 'after'.length;
    }
    expect(bench.status().liveConnections).toBe(6);
    nowMs += 1_001;
    await eventually(() => expect(bench.closed('idle-timeout')).toBe(6));
  });

  test('an accept flood is refused above the cap and leaves nothing behind', async () => {
    await bench.backend('a', echo);
    await bench.listen({ maxConnections: 30 });
    const stillFine = await bystander();
    const before = openSockets();
    const flood = Array.from({ length: 1_500 }, () => bench.dial({ localAddress: '127.0.0.66' }));
    for (const client of flood) client.resume();
    await eventually(() => expect(bench.status().counts.accepted).toBe(1_501));
    await eventually(() => expect(bench.closed('connection-limit')).toBe(1_471));
    expect(bench.status().liveConnections).toBe(30);
    await stillFine();
    for (const client of flood) client.destroy();
    await eventually(() => expect(bench.status().liveConnections).toBe(1));
    await eventually(() => expect(openSockets()).toBeLessThanOrEqual(before));
  });

  test('a flood from one client IP is held back by its rate, and others come in', async () => {
    await bench.start({ now: () => 0 });
    await bench.backend('a', greet('a'));
    await bench.listen({ limits: { connectionsPerSource: 0, connectionRatePerSource: 10 } });
    for (let i = 0; i < 500; i++) bench.dial({ localAddress: '127.0.0.66' }).resume();
    await eventually(() => expect(bench.status().counts.accepted).toBe(500));
    await eventually(() => expect(bench.closed('source-rate-limit')).toBe(490));
    expect(await nextText(bench.dial({ localAddress: '127.0.0.67' }))).toBe('a');
  });

  test('a client that never reads costs its bound of memory and is reset by an operator', async () => {
    await bench.backend('a', (socket) => {
      const chunk = Buffer.alloc(64 * 1024);
      const more = (): void => {
        while (socket.writable && socket.write(chunk));
      };
      socket.on('drain', more);
      more();
    });
    await bench.listen();
    const client = bench.dial();
    client.pause();
    await eventually(() => expect(bench.status().liveConnections).toBe(1));
    const view = () => bench.engine.connections({ limit: 1 }).connections[0]!;
    let before = -1;
    while (before !== view().upstreamBytes) {
      before = view().upstreamBytes;
      await delay(100);
    }
    expect(view().bufferedBytes).toBeGreaterThan(0);
    expect(view().bufferedBytes).toBeLessThanOrEqual((transport === 'pump' ? 128 : 160) * 1024);
    bench.engine.closeConnection(view().id);
    await eventually(() => expect(bench.closed('operator')).toBe(1));
  });

  test('a backend that accepts and says nothing holds its connections until the idle timeout, and no longer', async () => {
    let nowMs = 0;
    await bench.start({ now: () => nowMs, sweepIntervalMs: 5 });
    await bench.backend('silent', hold);
    await bench.listen({ idleTimeoutMs: 60_000 });
    const ends = [bench.dial(), bench.dial(), bench.dial()].map(howItEnds);
    await eventually(() =>
      expect(bench.engine.connections({ limit: 9 }).connections.map(({ state }) => state)).toEqual(
        Array(3).fill('established'),
      ),
    );
    nowMs += 60_000;
    expect(await Promise.all(ends)).toEqual(['reset', 'reset', 'reset']);
    await eventually(() => expect(bench.closed('idle-timeout')).toBe(3));
  });

  test('backends that reset at once reset their clients, each after one other backend', async () => {
    for (const id of ['a', 'b', 'c']) await bench.backend(id, (socket) => socket.resetAndDestroy());
    await bench.listen();
    const ends = Array.from({ length: 60 }, () => howItEnds(bench.dial()));
    expect(new Set(await Promise.all(ends))).toEqual(new Set(['reset']));
    await eventually(() => expect(bench.status().liveConnections).toBe(0));
    expect(bench.closed('backend-reset') + bench.closed('connect-failed')).toBe(60);
    expect(bench.status().counts.retried).toBe(60);
  });

  test.each([
    ['that is dead', 'connect-failed', () => bench.deadBackend('dead')],
    ['that is empty', 'no-backend', () => Promise.resolve()],
  ] as const)(
    'thousands of connections to a pool %s are each refused and counted, and all comes back',
    async (_what, reason, prepare) => {
      await prepare();
      await bench.listen();
      const before = openSockets();
      for (let round = 1; round <= 10; round++) {
        const clients = Array.from({ length: 300 }, () => bench.dial());
        for (const client of clients) client.resume();
        await eventually(() => expect(bench.closed(reason)).toBe(300 * round));
      }
      await eventually(() => expect(bench.status().liveConnections).toBe(0));
      await eventually(() => expect(openSockets()).toBeLessThanOrEqual(before));
    },
  );
});
