/** Where connections go, which are refused, how they are listed, and how they end. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
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
  TcpBench,
  TRANSPORTS_HERE,
  type BenchOptions,
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
  let bench: TcpBench;
  const start = (options: BenchOptions): void => {
    bench = new TcpBench(transport, options);
  };
  beforeEach(() => start({}));
  afterEach(() => bench.end());

  const liveByBackend = () => Object.fromEntries(bench.status().connectionsByBackend);

  async function dialMany(count: number): Promise<Socket[]> {
    const clients = Array.from({ length: count }, () => bench.dial());
    await Promise.all(clients.map((client) => once(client, 'connect')));
    return clients;
  }

  describe('least-connections', () => {
    test('spreads 200 connections opened at once evenly', async () => {
      for (const id of ['a', 'b', 'c', 'd']) await bench.backend(id, hold);
      await bench.listen();
      await dialMany(200);
      await eventually(() => expect(liveByBackend()).toEqual({ a: 50, b: 50, c: 50, d: 50 }));
    });

    test('spreads by weight', async () => {
      await bench.backend('small', hold);
      await bench.backend('large', hold, { weight: 3 });
      await bench.listen();
      await dialMany(80);
      await eventually(() => expect(liveByBackend()).toEqual({ small: 20, large: 60 }));
    });

    test('is right under 1,000 connections opened at once, with weights', async () => {
      const weights = { a: 1, b: 2, c: 3, d: 4 };
      for (const [id, weight] of Object.entries(weights)) await bench.backend(id, hold, { weight });
      await bench.listen();
      await dialMany(1_000);
      await eventually(() => expect(liveByBackend()).toEqual({ a: 100, b: 200, c: 300, d: 400 }));
    });

    test('gives a backend that comes up its share slowly, where that is wanted', async () => {
      let nowMs = 1_000;
      await bench.end();
      start({ now: () => nowMs });
      for (const id of ['a', 'b']) await bench.backend(id, hold);
      await bench.listen({ slowStartMs: 10_000 });
      await dialMany(40);
      // Those that were there from the beginning are not slow.
      await eventually(() => expect(liveByBackend()).toEqual({ a: 20, b: 20 }));
      await bench.backend('new', hold);
      bench.publish();
      await dialMany(10);
      // One hundredth of the weight: the first connection is as many as it may have for a long time.
      await eventually(() => expect(liveByBackend()).toMatchObject({ new: 1 }));
      nowMs += 5_000;
      await dialMany(20);
      // Half the weight: 70 connections in shares of 2, 2 and 1.
      await eventually(() => expect(bench.status().liveConnections).toBe(70));
      await eventually(() => expect(liveByBackend()['new']).toBe(14));
      nowMs += 5_000;
      await dialMany(20);
      await eventually(() => expect(liveByBackend()).toEqual({ a: 30, b: 30, new: 30 }));
    });

    test('gives the next connection to the backend that lost one', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen();
      await dialMany(10);
      await eventually(() => expect(liveByBackend()).toEqual({ a: 5, b: 5 }));
      const onA = bench.engine.connections({ limit: 10, backend: 'a' }).connections[0]!;
      bench.engine.closeConnection(onA.id);
      await eventually(() => expect(liveByBackend()).toEqual({ a: 4, b: 5 }));
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
      expect(liveByBackend()).toEqual({ alive: 8 });
      expect(bench.status().counts.retried).toBeGreaterThan(0);
    });

    test('is replaced only once', async () => {
      for (const id of ['dead-1', 'dead-2', 'dead-3']) await bench.deadBackend(id);
      const attempts: number[] = [];
      await bench.end();
      const pool = bench.pool;
      start({
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
      await bench.end();
      start({
        // The first attempt goes into a black hole.
        dial: () => (isFirst ? ((isFirst = false), 'never') : 'real'),
      });
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen({ connectTimeoutMs: 50 });
      expect(['a', 'b']).toContain(await nextText(bench.dial()));
      expect(bench.status().counts.retried).toBe(1);
    });

    test('ends the connection after two timeouts', async () => {
      await bench.end();
      start({ dial: () => 'never' });
      for (const id of ['a', 'b']) await bench.backend(id, hold);
      await bench.listen({ connectTimeoutMs: 50 });
      expect(await howItEnds(bench.dial())).toBe('reset');
      await eventually(() => expect(bench.closed('connect-timeout')).toBe(1));
      expect(bench.status()).toMatchObject({ liveConnections: 0, counts: { retried: 1 } });
    });

    test('is replaced when it becomes unusable while connecting', async () => {
      let isFirst = true;
      await bench.end();
      start({ dial: () => (isFirst ? ((isFirst = false), 'never') : 'real') });
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
      await eventually(() => expect(liveByBackend()).toEqual({ kind: i + 1 }));
      client.write(`hello ${i}`);
      expect(await nextText(client)).toBe(`hello ${i}`);
    }
    expect(bench.status().counts.retried).toBeGreaterThan(0);
    expect(bench.closed('backend-reset')).toBe(0);
  });

  test('every attempt to reach a backend is told: what speaks against the backend, and what does not', async () => {
    const outcomes: string[] = [];
    await bench.end();
    let isExhausted = false;
    start({
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
    await bench.end();
    start({ dial: () => (attempts++, 'real') });
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

  describe('a backend', () => {
    test('that is unhealthy loses its connections at once, and new ones go elsewhere', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen();
      const clients = [bench.dial(), bench.dial()];
      const names = await Promise.all(clients.map(nextText));
      const onA = clients[names.indexOf('a')]!;
      const onB = clients[names.indexOf('b')]!;
      bench.pool.setHealthy('a', false);
      const ending = howItEnds(onA);
      bench.publish();
      expect(await ending).toBe('reset');
      for (let i = 0; i < 4; i++) expect(await nextText(bench.dial())).toBe('b');
      expect(onB.destroyed).toBe(false);
      expect(liveByBackend()).toEqual({ b: 5 });
      expect(bench.closed('backend-unusable')).toBe(1);
    });

    test('that was removed and whose slot another one took loses its connections', async () => {
      await bench.backend('old', greet('old'));
      await bench.listen();
      const client = bench.dial();
      await nextText(client);
      bench.pool.remove('old');
      await bench.backend('new', greet('new'));
      const ending = howItEnds(client);
      bench.publish();
      expect(await ending).toBe('reset');
      expect(await nextText(bench.dial())).toBe('new');
    });

    test('whose process is killed ends its connections, and new ones go elsewhere', async () => {
      const victim = spawn(process.execPath, [
        '-e',
        `require('net').createServer((s) => s.pipe(s)).listen(0, '127.0.0.1', function () { console.log(this.address().port) })`,
      ]);
      const [port] = (await once(victim.stdout, 'data')) as [Buffer];
      bench.pool.add({
        id: 'victim',
        endpoint: Endpoint.parse(`127.0.0.1:${port.toString().trim()}`),
        weight: 256,
      });
      await bench.backend('survivor', echo);
      await bench.listen();
      const clients = await dialMany(10);
      for (const client of clients) {
        client.write('x');
        await nextText(client);
      }
      const orphans = bench.status().connectionsByBackend.get('victim')!;
      expect(orphans).toBeGreaterThan(0);
      for (const client of clients) client.on('end', () => client.end()).resume();
      victim.kill('SIGKILL');
      await eventually(() => expect(bench.closed('completed') + bench.closed('backend-reset')).toBe(orphans));
      // Nobody told the pool yet: the retry finds the survivor.
      const next = bench.dial();
      next.write('y');
      expect(await nextText(next)).toBe('y');
      expect(isBalanced(bench.engine)).toBe(true);
    });

    test('that drains keeps its connections and gets no new ones', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, echo);
      await bench.listen();
      await dialMany(2);
      await eventually(() => expect(liveByBackend()).toEqual({ a: 1, b: 1 }));
      bench.pool.setDraining('a', true);
      bench.publish();
      await dialMany(3);
      await eventually(() => expect(liveByBackend()).toEqual({ a: 1, b: 4 }));
    });
  });

  describe('an idle connection', () => {
    test('is kept for the timeout minus a millisecond and reset at the timeout', async () => {
      let nowMs = 1_000;
      await bench.end();
      start({ now: () => nowMs, sweepIntervalMs: 5 });
      await bench.backend('a', echo);
      await bench.listen({ idleTimeoutMs: 60_000 });
      const [quiet, busy] = [bench.dial(), bench.dial()];
      for (const client of [quiet, busy]) {
        client.write('x');
        await nextText(client);
      }
      nowMs += 59_999;
      busy.write('x');
      await nextText(busy);
      expect(bench.status().liveConnections).toBe(2);
      const ending = howItEnds(quiet);
      nowMs += 1;
      expect(await ending).toBe('reset');
      await eventually(() => expect(bench.closed('idle-timeout')).toBe(1));
      expect(bench.status().liveConnections).toBe(1);
    });
  });

  describe('the connection table', () => {
    test('lists client, backend, state, age, idle time and bytes', async () => {
      let nowMs = 5_000;
      await bench.end();
      start({ now: () => nowMs });
      await bench.backend('a', greet('hello'));
      await bench.listen();
      const client = bench.dial();
      await nextText(client);
      client.write('hi');
      await eventually(() => expect(bench.status().counts.downstreamBytes).toBe(2));
      nowMs = 6_500;
      const { connections, total, truncated } = bench.engine.connections({ limit: 10 });
      expect({ total, truncated }).toEqual({ total: 1, truncated: false });
      expect(connections[0]).toEqual({
        id: 1,
        listener: 'login',
        client: `127.0.0.1:${(client.address() as AddressInfo).port}`,
        backend: 'a',
        state: 'established',
        ageMs: 1_500,
        idleMs: 1_500,
        downstreamBytes: 2,
        upstreamBytes: 5,
        bufferedBytes: 0,
      });
    });

    test('answers a query by listener, backend and client IP, up to a limit', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, hold);
      await bench.listen();
      for (const localAddress of ['127.0.0.2', '127.0.0.2', '127.0.0.3', '127.0.0.4'])
        bench.dial({ localAddress });
      await eventually(() => expect(bench.status().liveConnections).toBe(4));
      const { engine } = bench;
      expect(engine.connections({ limit: 3 })).toMatchObject({ total: 4, truncated: true });
      expect(engine.connections({ limit: 9, clientIp: '127.0.0.2' }).total).toBe(2);
      expect(engine.connections({ limit: 9, clientIp: '::ffff:127.0.0.3' }).total).toBe(1);
      expect(engine.connections({ limit: 9, backend: 'a' }).total).toBe(2);
      expect(engine.connections({ limit: 9, listener: 'nobody' }).total).toBe(0);
      expect(() => engine.connections({ limit: 9, clientIp: 'x' })).toThrow(/"x" is not an IP address/);
    });

    test('closes one connection by id', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen();
      const client = bench.dial();
      await nextText(client);
      const ending = howItEnds(client);
      expect(bench.engine.closeConnection(1)).toBe(true);
      expect(await ending).toBe('reset');
      await eventually(() => expect(bench.closed('operator')).toBe(1));
      expect(bench.engine.closeConnection(1)).toBe(false);
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
      const backend = await bench.backend('a', greet('a'));
      await bench.listen({ keepAliveMs: 50_000 });
      const client = bench.dial();
      await nextText(client);
      for (const port of [client.localPort!, backend.endpoint.port]) {
        const timer = keepAliveTimer({ remotePort: port });
        expect(timer).toBeGreaterThan(40);
        expect(timer).toBeLessThanOrEqual(51);
      }
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
      const clients = await dialMany(20);
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
