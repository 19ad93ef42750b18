/** Who is refused, what is counted, which addresses there are, and the way down. */
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { describe, expect, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { CLOSE_REASONS } from '../../../relay/core/close-reason.ts';
import {
  echo,
  eventually,
  greet,
  hold,
  howItEnds,
  isBalanced,
  listenerSpec,
  nextText,
  PUMP_UNAVAILABLE,
  benchOfEach,
  TRANSPORTS_HERE,
} from './tcp-bench.ts';

/** Seconds until the keep-alive probe of the connection to this port; undefined: none is planned. Source: proc_net_tcp(5). */
function keepAliveTimer({ remotePort }: { remotePort: number }): number | undefined {
  const hex = remotePort.toString(16).toUpperCase().padStart(4, '0');
  const wanted = new RegExp(`^\\s*\\d+: \\S+ \\w+:${hex} 01 \\S+ 02:(\\w+) `, 'm');
  const ticks = wanted.exec(readFileSync('/proc/net/tcp', 'utf8'))?.[1];
  return ticks === undefined ? undefined : Number.parseInt(ticks, 16) / 100;
}

if (PUMP_UNAVAILABLE !== undefined) test.skip(`skipped: pump: ${PUMP_UNAVAILABLE}`, () => undefined);

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  const bench = benchOfEach(transport);

  describe('a client is refused with a reset', () => {
    test('where no backend is ready, and let in once one is', async () => {
      await bench.backend('a', greet('a'));
      bench.pool.setHealthy('a', false);
      await bench.listen();
      expect(await howItEnds(bench.dial())).toBe('reset');
      expect(bench.closed('no-backend')).toBe(1);
      bench.pool.setHealthy('a', true);
      bench.publish();
      expect(await nextText(bench.dial())).toBe('a');
    });

    test('where nothing was published for the pool', async () => {
      bench.local = await bench.engine.addListener(listenerSpec());
      expect(await howItEnds(bench.dial())).toBe('reset');
      expect(bench.closed('no-backend')).toBe(1);
    });

    test('above the cap, and let in again below it', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen({ maxConnections: 2 });
      const first = bench.dial();
      const second = bench.dial();
      await Promise.all([nextText(first), nextText(second)]);
      expect(await howItEnds(bench.dial())).toBe('reset');
      expect(bench.closed('connection-limit')).toBe(1);
      first.resetAndDestroy();
      await eventually(() => expect(bench.status().liveConnections).toBe(1));
      expect(await nextText(bench.dial())).toBe('a');
    });

    test('above a cap that was changed in place', async () => {
      await bench.backend('a', greet('a'));
      const spec = await bench.listen();
      await nextText(bench.dial());
      await bench.engine.updateListener({ ...spec, maxConnections: 1 });
      expect(await howItEnds(bench.dial())).toBe('reset');
      expect(bench.status()).toMatchObject({
        liveConnections: 1,
        counts: { closed: { 'connection-limit': 1 } },
      });
    });
  });

  test('accepted is the sum of closed and live, whatever happens to 300 connections', async () => {
    await bench.backend('a', echo);
    await bench.backend('b', (socket) => socket.resetAndDestroy());
    await bench.backend('c', (socket) => socket.end('bye'));
    await bench.deadBackend('d');
    await bench.listen({ maxConnections: 40 });
    for (let round = 0; round < 10; round++) {
      const clients = Array.from({ length: 30 }, () => bench.dial());
      for (const [i, client] of clients.entries()) {
        client.resume();
        if (i % 3 === 0) client.once('connect', () => client.end('whole'));
        if (i % 3 === 1) client.once('connect', () => client.resetAndDestroy());
      }
      await eventually(() => expect(bench.status().counts.accepted).toBe(30 * (round + 1)));
      expect(isBalanced(bench.engine)).toBe(true);
    }
    await bench.engine.close();
    expect(bench.status().liveConnections).toBe(0);
    expect(isBalanced(bench.engine)).toBe(true);
  });

  describe('addresses', () => {
    test('IPv6 clients reach IPv6 backends', async () => {
      await bench.backend('a', greet('six'), { host: '::1' });
      await bench.listen({ listen: Endpoint.parse('[::1]:0') });
      expect(await nextText(bench.dial())).toBe('six');
      expect(bench.engine.connections({ limit: 1 }).connections[0]?.client).toMatch(/^\[::1\]:\d+$/);
    });

    test('an IPv4 client of an IPv6 listener is listed as IPv4, and hashed like one', async () => {
      for (const id of ['a', 'b', 'c', 'd', 'e']) await bench.backend(id, greet(id));
      await bench.listen({ algorithm: 'ip-hash' });
      const overIpv4 = await nextText(bench.dial({ localAddress: '127.0.0.9' }));
      const both = {
        ...listenerSpec(),
        name: 'both',
        listen: Endpoint.parse('[::]:0'),
        algorithm: 'ip-hash' as const,
      };
      bench.local = await bench.engine.addListener(both);
      expect(await nextText(bench.dial({ host: '127.0.0.1', localAddress: '127.0.0.9' }))).toBe(overIpv4);
      const [view] = bench.engine.connections({ limit: 1, listener: 'both' }).connections;
      expect(view?.client).toMatch(/^127\.0\.0\.9:\d+$/);
    });

    test('a port already taken is an error that names it', async () => {
      const other = createServer().listen(0, '127.0.0.1');
      await once(other, 'listening');
      const { port } = other.address() as AddressInfo;
      const spec = { ...listenerSpec(), listen: Endpoint.parse(`127.0.0.1:${port}`) };
      await expect(bench.engine.addListener(spec)).rejects.toMatchObject({
        code: 'TICKRELAY_ERR_BIND',
        message: `listener "login" can't listen on tcp 127.0.0.1:${port}: something listens there already (EADDRINUSE); end it or choose another port`,
      });
      other.close();
    });
  });

  test('a pool is forgotten with its last backend and listener, whichever goes last', async () => {
    await bench.backend('a', hold);
    await bench.listen();
    expect(bench.engine.dump().pools).toEqual(['pool']);
    bench.pool.remove('a');
    bench.publish();
    expect(bench.engine.dump().pools).toEqual(['pool']);
    await bench.engine.removeListener('login');
    expect(bench.engine.dump()).toEqual({ pools: [], connections: 0 });
    await bench.backend('b', hold);
    bench.publish();
    expect(bench.engine.dump().pools).toEqual(['pool']);
    bench.pool.remove('b');
    bench.publish();
    expect(bench.engine.dump().pools).toEqual([]);
  });

  test.runIf(existsSync('/proc/net/tcp'))(
    'both sides are probed after the time that is configured',
    async () => {
      await bench.start({ sweepIntervalMs: 10 });
      const backend = await bench.backend('a', greet('a'));
      const spec = await bench.listen({ keepAliveMs: 50_000 });
      const client = bench.dial();
      await nextText(client);
      for (const port of [client.localPort!, backend.endpoint.port]) {
        // The backend's side is set with the next sweep.
        await eventually(() => {
          const timer = keepAliveTimer({ remotePort: port });
          expect(timer).toBeGreaterThan(20);
          expect(timer).toBeLessThanOrEqual(51);
        });
      }
      await bench.engine.updateListener({ ...spec, keepAliveMs: 500_000 });
      const later = bench.dial();
      await nextText(later);
      await eventually(() => expect(keepAliveTimer({ remotePort: later.localPort! })).toBeGreaterThan(60));
    },
  );

  describe('the way down', () => {
    test('drain frees the address and lets connections end by themselves', async () => {
      await bench.backend('a', echo);
      await bench.listen();
      const client = bench.dial();
      client.write('one');
      await nextText(client);
      await bench.engine.drain();
      await bench.engine.drain();
      expect(bench.status()).toMatchObject({ isAccepting: false, liveConnections: 1 });
      const late = bench.dial();
      const [error] = (await once(late, 'error')) as [NodeJS.ErrnoException];
      expect(error.code).toBe('ECONNREFUSED');
      client.write('two');
      expect(await nextText(client)).toBe('two');
      client.end();
      expect(await howItEnds(client)).toBe('end');
      await eventually(() => expect(bench.closed('completed')).toBe(1));
      await expect(bench.engine.addListener({ ...listenerSpec(), name: 'late' })).rejects.toThrow(
        /is draining/,
      );
    });

    test('a removed listener resets its connections and frees its address; others go on', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen();
      const client = bench.dial();
      await nextText(client);
      const { local } = bench;
      bench.local = await bench.engine.addListener({ ...listenerSpec(), name: 'other' });
      const other = bench.dial();
      await nextText(other);
      const ending = howItEnds(client);
      await bench.engine.removeListener('login');
      expect(await ending).toBe('reset');
      expect(bench.engine.listeners().map(({ name, liveConnections }) => [name, liveConnections])).toEqual([
        ['other', 1],
      ]);
      expect(await bench.engine.addListener({ ...listenerSpec(), listen: local })).toEqual(local);
    });

    test('close ends everything, twice as well as once, and gives every descriptor back', async () => {
      const openSockets = () =>
        process.getActiveResourcesInfo().filter((kind) => kind.startsWith('TCP')).length;
      await bench.backend('a', echo);
      await bench.listen();
      const clients = await bench.dialMany(20);
      await eventually(() => expect(bench.status().liveConnections).toBe(20));
      const endings = clients.map(howItEnds);
      await Promise.all([bench.engine.close(), bench.engine.close()]);
      expect(bench.status()).toMatchObject({ liveConnections: 0, counts: { closed: { shutdown: 20 } } });
      expect(new Set(await Promise.all(endings))).toEqual(new Set(['reset']));
      await bench.end();
      await eventually(() => expect(openSockets()).toBe(0));
    });
  });

  test('close reasons are distinct label values', () => {
    expect(new Set(CLOSE_REASONS).size).toBe(CLOSE_REASONS.length);
    for (const reason of CLOSE_REASONS) expect(reason).toMatch(/^[a-z]+(-[a-z]+)*$/);
  });
});
