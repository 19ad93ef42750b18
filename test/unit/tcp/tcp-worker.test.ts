/** The TCP engine in a worker thread: what the main thread sees of it, and what is left when the worker dies. */
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Cidr, Endpoint } from '../../../net/address.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { fromPlainSnapshot, toPlainSnapshot } from '../../../relay/core/plain-snapshot.ts';
import type { TcpListenerSpec } from '../../../relay/tcp/tcp-rules.ts';
import { fromPlainTcpSpec, toPlainTcpSpec } from '../../../relay/tcp/worker/messages.ts';
import { OutcomeFilter } from '../../../relay/tcp/worker/outcome-filter.ts';
import { RequestChannel } from '../../../relay/tcp/worker/request-channel.ts';
import { ThreadedTcpEngine } from '../../../relay/tcp/worker/threaded-tcp-engine.ts';
import {
  echo,
  eventually,
  greet,
  hold,
  howItEnds,
  listenerSpec,
  nextText,
  TestBackend,
} from './tcp-bench.ts';

test('rules and snapshots arrive in the worker as they left', () => {
  const spec: TcpListenerSpec = {
    ...listenerSpec(),
    listen: Endpoint.parse('[::1]:5432'),
    proxyProtocol: {
      accept: [Cidr.parse('10.0.0.0/8'), Cidr.parse('2001:db8::/32')],
      timeoutMs: 7,
      send: 'v2',
    },
  };
  expect(fromPlainTcpSpec(structuredClone(toPlainTcpSpec(spec)))).toEqual(spec);
  const pool = new BackendPool('pool');
  pool.add({ id: 'a', endpoint: Endpoint.parse('10.0.0.3:1'), weight: 2 });
  const left = pool.snapshot();
  const arrived = fromPlainSnapshot(structuredClone(toPlainSnapshot(left)));
  expect(arrived.backends[0]).toMatchObject({ slot: 0, id: 'a', weight: 2, ref: left.backends[0]!.ref });
  expect(arrived.backends[0]!.endpoint.toString()).toBe('10.0.0.3:1');
  for (const field of ['usable', 'ready', 'weights', 'maglev', 'rotation'] as const) {
    expect(Array.from(arrived[field])).toEqual(Array.from(left[field]));
  }
  expect(arrived.slotAt(Endpoint.parse('10.0.0.3:1').ip.words, 0, 1)).toBe(0);
});

test('of attempts to connect, failures are told, and the first success after them', () => {
  const filter = new OutcomeFilter();
  const told = (failure?: string, backend = 'a') => filter.isNews('pool', backend, failure);
  expect([told(), told('X'), told('X'), told(undefined, 'b'), told(), told()]).toEqual([
    ...[false, true, true, false, true, false],
  ]);
});

test('a request is answered, its failure keeps its code, and none waits for a side that is gone', async () => {
  const troubles: unknown[] = [];
  const answer = (request: string) => {
    if (request === 'fail') Endpoint.parse('nonsense');
    return `${request}!`;
  };
  const ours = new RequestChannel<string, string>({
    post: (message) => theirs.receive(structuredClone(message)),
    answer,
    onTrouble: (error) => troubles.push(error),
  });
  const theirs: RequestChannel<string, string> = new RequestChannel({
    post: (message) => ours.receive(structuredClone(message)),
    answer,
    onTrouble: (error) => troubles.push(error),
  });
  expect(await ours.ask('hello')).toBe('hello!');
  await expect(theirs.ask('fail')).rejects.toMatchObject({ code: 'TICKRELAY_ERR_ADDRESS' });
  ours.tell('fail');
  await eventually(() => expect(troubles).toHaveLength(1));
  const silent = new RequestChannel<string, string>({
    post: () => undefined,
    answer,
    onTrouble: () => undefined,
  });
  const waiting = silent.ask('anything');
  silent.close(new Error('gone'));
  await expect(waiting).rejects.toThrow('gone');
  await expect(silent.ask('more')).rejects.toThrow('gone');
});

const loaded = loadLibc();
if ('unavailable' in loaded) test.skip(`skipped: ${loaded.unavailable}`, () => undefined);
else {
  const { libc } = loaded;
  describe('the threaded engine', () => {
    let engine: ThreadedTcpEngine;
    let pool: BackendPool;
    let backends: TestBackend[];
    let clients: Socket[];
    let local: Endpoint;
    const outcomes: string[] = [];
    const lines: string[] = [];

    beforeEach(() => {
      outcomes.length = lines.length = 0;
      engine = new ThreadedTcpEngine({
        libc,
        hashSeed: 0,
        logger: { info: (_, text) => lines.push(text), warn: (_, text) => lines.push(text) },
        onConnectOutcome: (name, { id }, failure) => outcomes.push(`${name} ${id} ${failure ?? 'ok'}`),
      });
      pool = new BackendPool('pool');
      backends = [];
      clients = [];
    });
    afterEach(async () => {
      for (const client of clients) client.destroy();
      await engine.close();
      await Promise.all(backends.map((backend) => backend.close()));
    });

    async function backend(id: string, onConnection: (socket: Socket) => void): Promise<TestBackend> {
      const started = await TestBackend.start(onConnection);
      backends.push(started);
      pool.add({ id, endpoint: started.endpoint, weight: 1 });
      return started;
    }
    async function listen(rules: Partial<TcpListenerSpec> = {}): Promise<void> {
      await engine.publish(pool.snapshot());
      local = await engine.addListener({ ...listenerSpec(), ...rules });
    }
    function dial(): Socket {
      const client = connect({ host: local.ip.toString(), port: local.port, allowHalfOpen: true });
      client.on('error', () => undefined);
      clients.push(client);
      return client;
    }
    const status = () => engine.listeners()[0]!;
    const openDescriptors = () => readdirSync('/proc/self/fd').length;

    test('relays, counts, lists and closes as the engine in one thread does', async () => {
      await backend('a', echo);
      await listen();
      const client = dial();
      client.write('hello');
      expect(await nextText(client)).toBe('hello');
      expect(status()).toMatchObject({
        liveConnections: 1,
        counts: { accepted: 1, downstreamBytes: 5, upstreamBytes: 5 },
        connectionsByBackend: new Map([['a', 1]]),
      });
      const { connections, total } = await engine.connections({ limit: 9, clientIp: '127.0.0.1' });
      expect(total).toBe(1);
      expect(connections[0]).toMatchObject({ id: 1, state: 'established', backend: 'a', downstreamBytes: 5 });
      await expect(engine.connections({ limit: 9, clientIp: 'x' })).rejects.toMatchObject({
        code: 'TICKRELAY_ERR_ADDRESS',
      });
      const ending = howItEnds(client);
      expect(await engine.closeConnection(1)).toBe(true);
      expect(await ending).toBe('reset');
      await eventually(() => expect(status().counts.closed.operator).toBe(1));
      expect(status().liveConnections).toBe(0);
      expect(await engine.closeConnection(1)).toBe(false);
    });

    test('obeys new rules and what the control plane publishes', async () => {
      await backend('a', greet('a'));
      await listen();
      const client = dial();
      await nextText(client);
      await engine.updateListener({ ...listenerSpec(), maxConnections: 1 });
      expect(await howItEnds(dial())).toBe('reset');
      const ending = howItEnds(client);
      pool.setHealthy('a', false);
      await engine.publish(pool.snapshot());
      expect(await ending).toBe('reset');
      await eventually(() =>
        expect(status().counts.closed).toMatchObject({ 'connection-limit': 1, 'backend-unusable': 1 }),
      );
    });

    test('tells of failed attempts, and of the first that succeeds after them', async () => {
      const dead = await backend('a', hold);
      const { endpoint } = dead;
      await dead.close();
      await listen();
      expect(await howItEnds(dial())).toBe('reset');
      await eventually(() => expect(outcomes).toEqual(['pool a ECONNREFUSED']));
      dead.server.listen(endpoint.port, '127.0.0.1');
      await once(dead.server, 'listening');
      for (let i = 0; i < 3; i++) await once(dial(), 'connect');
      await eventually(() => expect(status().connectionsByBackend.get('a')).toBe(3));
      await eventually(() => expect(outcomes).toEqual(['pool a ECONNREFUSED', 'pool a ok']));
    });

    test('asks the main thread for pins and follows its answer', async () => {
      await engine.close();
      const letGo: string[] = [];
      engine = new ThreadedTcpEngine({
        libc,
        hashSeed: 0,
        onConnectOutcome: () => undefined,
        pins: {
          request: ({ group, pool: asking, proposal }) => {
            expect([group, asking, typeof proposal]).toEqual(['players', 'pool', 'string']);
            return Promise.resolve('b');
          },
          letGo: (group) => letGo.push(group),
        },
      });
      for (const id of ['a', 'b', 'c']) await backend(id, greet(id));
      await listen({ pinGroup: 'players' });
      for (let i = 0; i < 6; i++) expect(await nextText(dial())).toBe('b');
      for (const client of clients) client.resetAndDestroy();
      await eventually(() => expect(letGo).toHaveLength(6));
    });

    test('a port already taken is an error that names it, and costs no descriptor', async () => {
      await backend('a', echo);
      await listen();
      const before = openDescriptors();
      const taken = { ...listenerSpec(), name: 'other', listen: local };
      await expect(engine.addListener(taken)).rejects.toMatchObject({
        code: 'TICKRELAY_ERR_BIND',
        message: expect.stringContaining('(EADDRINUSE)') as string,
      });
      expect(openDescriptors()).toBe(before);
    });

    test('drain frees the address and lets connections end by themselves', async () => {
      await backend('a', echo);
      await listen();
      const client = dial();
      client.write('one');
      await nextText(client);
      await engine.drain();
      const [error] = (await once(dial(), 'error')) as [NodeJS.ErrnoException];
      expect(error.code).toBe('ECONNREFUSED');
      client.end('two');
      expect(await nextText(client)).toBe('two');
      expect(await howItEnds(client)).toBe('end');
      await eventually(() => expect(status().counts.closed.completed).toBe(1));
      await expect(engine.addListener({ ...listenerSpec(), name: 'late' })).rejects.toThrow(/is draining/);
    });

    test('a removed listener resets its connections and frees its address, and its pool is forgotten', async () => {
      await backend('a', greet('a'));
      await listen();
      const client = dial();
      await nextText(client);
      pool.setDraining('a', true);
      const ending = howItEnds(client);
      await engine.removeListener('login');
      expect(await ending).toBe('reset');
      pool.remove('a');
      await engine.publish(pool.snapshot());
      expect(engine.dump().pools).toEqual([]);
      expect(await engine.addListener({ ...listenerSpec(), listen: local })).toEqual(local);
    });

    test('close resets everything, keeps the counts, and gives every descriptor back', async () => {
      const before = openDescriptors();
      await backend('a', echo);
      await listen();
      const many = Array.from({ length: 20 }, dial);
      await eventually(() => expect(status().connectionsByBackend.get('a')).toBe(20));
      const endings = many.map(howItEnds);
      await Promise.all([engine.close(), engine.close()]);
      expect(new Set(await Promise.all(endings))).toEqual(new Set(['reset']));
      expect(status()).toMatchObject({ liveConnections: 0, counts: { closed: { shutdown: 20 } } });
      await Promise.all(backends.map((each) => each.close()));
      await eventually(() => expect(openDescriptors()).toBeLessThanOrEqual(before));
    });

    test('a worker that dies is replaced: its connections are reset and counted, the next ones served', async () => {
      await backend('a', echo);
      await listen();
      const before = openDescriptors();
      const client = dial();
      client.write('hello');
      await nextText(client);
      const ending = howItEnds(client);
      await engine.killWorker();
      expect(await ending).toBe('reset');
      expect(status()).toMatchObject({
        liveConnections: 0,
        queuedConnections: 0,
        counts: { accepted: 1, closed: { 'worker-failure': 1 } },
        connectionsByBackend: new Map(),
      });
      const next = dial();
      next.write('again');
      expect(await nextText(next)).toBe('again');
      const { connections } = await engine.connections({ limit: 9 });
      expect(connections.map(({ id }) => id)).toEqual([2]);
      expect(lines).toContain('the TCP worker ended and is replaced; its connections are lost');
      next.destroy();
      await eventually(() => expect(status().liveConnections).toBe(0));
      await eventually(() => expect(openDescriptors()).toBeLessThanOrEqual(before));
    });
  });
}
