/** TCP listeners in the kernel, as clients and backends meet them: bytes, ends, deaths, and a relay that is not there for a while. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { postgresPrograms } from '../../bench/postgres-cluster.ts';
import { initPgbench, runPgbench } from '../../bench/tcp/pgbench.ts';
import { Endpoint } from '../../net/address.ts';
import type { TcpListenerStatus } from '../../relay/engines/engine.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { BpfFileSystem } from '../support/bpffs.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';
import {
  DIGEST,
  ECHO,
  expectDigested,
  expectEchoed,
  startTcpBackend,
  type TcpBackend,
  WHO,
} from '../support/tcp-backend.ts';
import { TcpClient, untilRefused } from '../support/tcp-client.ts';
import { until } from '../support/until.ts';

// In a network of this file's own: programs of a killed relay would else stay in everybody's way.
const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: Stage;
  let bpffs: BpfFileSystem;
  beforeEach(() => {
    stage = new Stage();
    bpffs = stage.closing(new BpfFileSystem());
  });
  afterEach(() => stage.close());

  const backend = (id: string, program = ECHO, host = '127.0.0.1'): Promise<TcpBackend> =>
    startTcpBackend(stage, id, { program, host });

  const config = (
    backends: readonly TcpBackend[],
    { listen = '127.0.0.1:0', listener = {}, pool = {}, rest = {} } = {},
  ): object => ({
    name: 'tcp',
    engine: 'kernel',
    kernel: { bpffs: bpffs.path, sourceAddress: 'client' },
    listeners: [{ name: 'login', protocol: 'tcp', listen, pool: 'logins', ...listener }],
    pools: {
      logins: {
        healthCheck: { type: 'none' },
        backends: backends.map(({ id, address }) => ({ id, address })),
        ...pool,
      },
    },
    admin: { listen: '127.0.0.1:0' },
    shutdown: { deadline: '5s' },
    ...rest,
  });

  const client = async (relay: RelayProcess, from?: string): Promise<TcpClient> =>
    stage.closing(await TcpClient.connect(relay.listener(), from));
  const echoed = async (one: TcpClient, text: string): Promise<void> => {
    const before = one.received.length;
    one.write(text);
    const received = await one.untilReceived(before + text.length);
    expect(received.subarray(before).toString()).toBe(text);
  };

  test('32 MiB come back byte for byte; the connection is listed, counted and gone', async () => {
    const relay = await stage.relay(config([await backend('echo')]));
    await expectEchoed(relay, await client(relay), 32 * 1024 * 1024);
    // Nothing of it went through the relay's process.
    expect(relay.process.stderr).toMatch(/"engine":"kernel"/);
    const page = await relay.metrics();
    expect(page.value('tcp_connections')).toBe(0);
    expect(page.value('tcp_segments_dropped_total')).toBe(0);
  });

  test('over IPv6: 8 MiB and a half-close, and an operator’s end that both ends hear', async () => {
    const [echo, digest] = [await backend('echo', ECHO, '::1'), await backend('digest', DIGEST, '::1')];
    const relay = await stage.relay({
      ...config([echo], { listen: '[::1]:0' }),
      listeners: ['echoes', 'digests'].map((name) => ({
        ...{ name, protocol: 'tcp', listen: '[::1]:0', pool: name, engine: 'kernel' },
      })),
      pools: {
        echoes: { backends: [echo.address], healthCheck: { type: 'none' } },
        digests: { backends: [digest.address], healthCheck: { type: 'none' } },
      },
    });
    const to = async (listener: string): Promise<TcpClient> =>
      stage.closing(await TcpClient.connect(relay.listener(listener)));
    const bytes = randomBytes(8 * 1024 * 1024);
    const half = await to('digests');
    half.write(bytes);
    half.end();
    await half.untilOver();
    expect(half.received.toString()).toBe(createHash('sha256').update(bytes).digest('hex'));
    const one = await to('echoes');
    one.write(bytes);
    expect((await one.untilReceived(bytes.length)).equals(bytes)).toBe(true);
    const [row] = await relay.connections();
    expect(row!.client).toMatch(/^\[::1\]:/);
    expect((await relay.request(`/v1/connections/${row!.id}`, { method: 'DELETE' })).status).toBe(204);
    await one.untilOver();
    expect(one.failure).toBe('ECONNRESET');
    await until('the backend to hear', () => echo.process.stdout.includes('"reset"'));
    expect(await relay.metric('tcp_segments_dropped_total')).toBe(0);
  });

  test('a half-closed connection still carries the answer', async () => {
    const relay = await stage.relay(config([await backend('digest', DIGEST)]));
    for (let i = 0; i < 5; i++) await expectDigested(await client(relay));
  });

  test('the backend sees the client’s own address and port', async () => {
    const relay = await stage.relay(config([await backend('who', WHO)]));
    const socket = connect({ host: '127.0.0.1', port: relay.listener().port, localAddress: '127.9.8.7' });
    await once(socket, 'connect');
    const { localPort } = socket;
    const [said] = (await once(socket, 'data')) as [Buffer];
    expect(said.toString()).toBe(`127.9.8.7:${localPort!}`);
    socket.destroy();
  });

  test('a backend that leaves: both ends of its connections are reset at once, others go on, new ones go elsewhere', async () => {
    const [a, b] = [await backend('a'), await backend('b')];
    const relay = await stage.relay(config([a, b]));
    const clients: TcpClient[] = [];
    for (let i = 0; i < 6; i++) clients.push(await client(relay));
    await until('six connections', async () => (await relay.connections()).length === 6);
    expect((await relay.connections()).map((row) => row.backend).sort()).toEqual([
      'a',
      'a',
      'a',
      'b',
      'b',
      'b',
    ]);
    for (const one of clients) await echoed(one, 'hello');

    relay.writeConfig(config([b], { listen: '127.0.0.1:0' }));
    expect(await relay.reload()).toBe(true);
    // Nobody has sent anything since.
    await until('three resets', () => clients.filter(({ failure }) => failure === 'ECONNRESET').length === 3);
    await until('the backend to hear', () => a.process.stdout.split('"reset"').length === 4);
    expect(await relay.metric('tcp_connections_closed_total', { reason: 'backend-unusable' })).toBe(3);
    const alive = clients.filter(({ failure }) => failure === undefined);
    alive.push(await client(relay), await client(relay));
    for (const one of alive) await echoed(one, 'still here');
    expect((await relay.connections()).map((row) => row.backend)).toEqual(['b', 'b', 'b', 'b', 'b']);
  });

  test('a backend that is killed: its system ends its connections, and the health check sends others elsewhere', async () => {
    const [a, b] = [await backend('a'), await backend('b')];
    const pool = { healthCheck: { type: 'tcp', interval: '250ms', timeout: '250ms', fall: 2 } };
    const relay = await stage.relay(config([a, b], { pool }));
    const clients = [await client(relay), await client(relay)];
    for (const one of clients) await echoed(one, 'hello');
    a.process.signal('SIGKILL');
    await until('one connection to end', () => clients.filter(({ isOver }) => isOver).length === 1);
    await relay.untilStates({ a: 'unhealthy', b: 'ready' }, 'logins');
    for (let i = 0; i < 4; i++) await echoed(await client(relay), 'hello');
    expect(new Set((await relay.connections()).map((row) => row.backend))).toEqual(new Set(['b']));
  });

  test('new rules of a listener hold at once, for who is there and who comes', async () => {
    const echo = await backend('echo');
    const relay = await stage.relay(config([echo]));
    const reload = async (listener: object): Promise<void> => {
      relay.writeConfig(config([echo], { listener }));
      expect(await relay.reload()).toBe(true);
    };
    const [one, two] = [await client(relay), await client(relay)];
    await echoed(one, 'one');
    await echoed(two, 'two');
    await reload({ maxConnections: 2 });
    await expect(client(relay)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(await relay.metric('tcp_connections_closed_total', { reason: 'connection-limit' })).toBe(1);
    await echoed(one, 'still here');
    await reload({ maxConnections: 3 });
    await echoed(await client(relay), 'let in');
    await reload({ idleTimeout: '300ms' });
    await one.untilOver();
    expect(one.failure).toBe('ECONNRESET');
    await relay.untilMetric('tcp_connections_closed_total', { reason: 'idle-timeout' }, 3);
  });

  test('a listener that leaves resets both ends of its connections and frees its address; others go on', async () => {
    const echo = await backend('echo');
    const both = (...names: readonly string[]): object => ({
      ...config([echo]),
      listeners: names.map((name) => ({ name, protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins' })),
    });
    const relay = await stage.relay(both('stays', 'goes'));
    const [stays, goes] = await Promise.all(
      ['stays', 'goes'].map(async (name) => stage.closing(await TcpClient.connect(relay.listener(name)))),
    );
    await echoed(stays!, 'hello');
    await echoed(goes!, 'hello');
    relay.writeConfig(both('stays'));
    expect(await relay.reload()).toBe(true);
    await goes!.untilOver();
    expect(goes!.failure).toBe('ECONNRESET');
    await until('the backend to hear', () => echo.process.stdout.includes('"reset"'));
    await expect(TcpClient.connect(relay.listener('goes'))).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await echoed(stays!, 'and on');
    await echoed(stage.closing(await TcpClient.connect(relay.listener('stays'))), 'as ever');
    expect(await relay.connections()).toHaveLength(2);
  });

  test('an operator ends one connection and no other', async () => {
    const relay = await stage.relay(config([await backend('echo')]));
    const [one, two] = [await client(relay), await client(relay)];
    await echoed(one, 'one');
    await echoed(two, 'two');
    const rows = await relay.connections();
    // That of the client that said "one" first.
    const [mine] = [...rows].sort((x, y) => x.id - y.id);
    expect((await relay.request(`/v1/connections/${mine!.id}`, { method: 'DELETE' })).status).toBe(204);
    await one.untilOver();
    expect(one.failure).toBe('ECONNRESET');
    await echoed(two, 'unharmed');
    expect((await relay.request(`/v1/connections/${mine!.id}`, { method: 'DELETE' })).status).toBe(404);
  });

  test('a pool without backends refuses at once, and a backend that refuses is heard', async () => {
    const gone = await backend('gone');
    gone.process.signal('SIGKILL');
    await gone.process.ended(20_000);
    const relay = await stage.relay(config([gone]));
    await expect(client(relay)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await relay.untilMetric('tcp_connections_closed_total', { reason: 'connect-failed' }, 1);
    relay.writeConfig(config([], { pool: { registration: { allow: ['127.0.0.1/32'] } } }));
    expect(await relay.reload()).toBe(true);
    await expect(client(relay)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(await relay.metric('tcp_connections_closed_total', { reason: 'no-backend' })).toBe(1);
  });

  test('after SIGTERM connections go on, new ones are refused, and the relay ends with the last one', async () => {
    const relay = await stage.relay(
      config([await backend('echo')], { rest: { shutdown: { deadline: '30s' } } }),
    );
    const one = await client(relay);
    await echoed(one, 'before');
    relay.process.signal('SIGTERM');
    await until('/readyz to answer 503', async () => (await relay.request('/readyz')).status === 503);
    await untilRefused(relay.listener());
    await echoed(one, ' and after');
    one.end();
    expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
    const { tcp } = await relay.process.event('summary');
    // Before the address was free, a connection of the wait above may have come through.
    const { accepted, closed } = (tcp as Record<string, TcpListenerStatus['counts']>)['login']!;
    expect(closed.completed).toBeGreaterThan(0);
    expect(Object.values(closed).reduce((sum, count) => sum + count, 0)).toBe(accepted);
  });

  test('the end of the relay resets what is left', async () => {
    const relay = await stage.relay(
      config([await backend('echo')], { rest: { shutdown: { deadline: '200ms' } } }),
    );
    const one = await client(relay);
    await echoed(one, 'hello');
    relay.process.signal('SIGTERM');
    await one.untilOver();
    expect(one.failure).toBe('ECONNRESET');
    expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
  });

  test('kill -9 of the relay costs no connection, and the next one goes on with them', async () => {
    const backends = [await backend('a'), await backend('b')];
    const first = await stage.relay(config(backends));
    const clients: TcpClient[] = [];
    for (let i = 0; i < 8; i++) clients.push(await client(first));
    for (const one of clients) await echoed(one, 'before');
    first.process.signal('SIGKILL');
    await first.process.ended(20_000);
    for (const one of clients) await echoed(one, 'without a relay');
    const late = await client(first);
    await echoed(late, 'new, without a relay');

    const listen = first.listener().toString();
    const second = await stage.relay(config(backends, { listen }));
    expect(second.process.stderr).toMatch(/adopted 0 sessions and 9 TCP connections/);
    for (const one of [...clients, late]) await echoed(one, 'after');
    expect(await second.connections()).toHaveLength(9);
    const page = await second.metrics();
    expect(page.value('tcp_connections_accepted_total')).toBe(9);
    expect(page.value('tcp_connections')).toBe(9);

    second.writeConfig(config(backends.slice(1), { listen }));
    expect(await second.reload()).toBe(true);
    await until('those of a to be reset', () =>
      [...clients, late].some(({ failure }) => failure === 'ECONNRESET'),
    );
    for (const one of [...clients, late]) if (!one.isOver) await echoed(one, 'and on');
  });

  test('with the relay’s own address as source: bytes, a backend that leaves, and kill -9 of the relay', async () => {
    const [a, b] = [await backend('a'), await backend('b')];
    const who = await backend('who', WHO);
    const configOf = (echoes: readonly TcpBackend[], listen: readonly string[]): object => ({
      ...config(echoes),
      kernel: { bpffs: bpffs.path, sourceAddress: 'relay' },
      listeners: ['logins', 'who'].map((name, i) => ({
        ...{ name, protocol: 'tcp', listen: listen[i], pool: name },
      })),
      pools: {
        logins: {
          healthCheck: { type: 'none' },
          backends: echoes.map(({ id, address }) => ({ id, address })),
        },
        who: { healthCheck: { type: 'none' }, backends: [who.address] },
      },
    });
    const relay = await stage.relay(configOf([a, b], ['127.0.0.1:0', '127.0.0.1:0']));
    expect(relay.process.stderr).toMatch(/"listener":"logins","engine":"kernel"/);
    const clientOf = async (name: string): Promise<TcpClient> =>
      stage.closing(await TcpClient.connect(relay.listener(name), '127.9.8.7'));
    const seen = await clientOf('who');
    await seen.untilOver();
    seen.end();
    expect(seen.received.toString()).toMatch(/^127\.0\.0\.1:6[1-5]\d{3}$/);
    const clients = [await clientOf('logins'), await clientOf('logins')];
    const bytes = randomBytes(4 * 1024 * 1024);
    for (const one of clients) {
      one.write(bytes);
      expect((await one.untilReceived(bytes.length)).equals(bytes)).toBe(true);
    }
    relay.process.signal('SIGKILL');
    await relay.process.ended(20_000);
    clients.push(await clientOf('logins'), await clientOf('logins'));
    const listen = ['logins', 'who'].map((name) => relay.listener(name).toString());
    const second = await stage.relay(configOf([a, b], listen));
    for (const one of clients) await echoed(one, 'after');
    expect(await second.connections()).toHaveLength(4);

    second.writeConfig(configOf([b], listen));
    expect(await second.reload()).toBe(true);
    await until('two resets', () => clients.filter(({ failure }) => failure === 'ECONNRESET').length === 2);
    await until('the backend to hear', () => a.process.stdout.split('"reset"').length === 3);
    for (const one of clients) if (!one.isOver) await echoed(one, 'and on');
    expect(await second.metric('tcp_segments_dropped_total')).toBe(0);
  });

  test('a client that speaks to the backend itself, from a port that it used through the relay, is left alone', async () => {
    const echo = await backend('echo');
    const relay = await stage.relay(config([echo]));
    const direct = Endpoint.parse(echo.address);
    const via = connect({ host: '127.0.0.1', port: relay.listener().port });
    await once(via, 'connect');
    const localPort = via.localPort!;
    via.resetAndDestroy();
    await relay.untilMetric('tcp_connections', {}, 0);
    const socket = connect({ host: '127.0.0.1', port: direct.port, localPort });
    await once(socket, 'connect');
    socket.write('directly');
    const [said] = (await once(socket, 'data')) as [Buffer];
    expect(said.toString()).toBe('directly');
    expect(await relay.metric('tcp_connections_accepted_total')).toBe(1);
    socket.destroy();
  });

  test('a listener that asks for what only user space has, or can do, stays there, and says why; the other goes on in the kernel', async () => {
    const echo = await backend('echo');
    const backends = [echo.address];
    const relay = await stage.relay({
      ...config([echo]),
      engine: 'auto',
      listeners: [
        { name: 'plain', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'own' },
        { name: 'waits', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', queue: { size: 5 } },
        { name: 'named', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', engine: 'userspace' },
        { name: 'both', protocol: 'tcp', listen: '[::]:0', pool: 'logins' },
        { name: 'outside', protocol: 'tcp', listen: '0.0.0.0:0', pool: 'logins' },
      ],
      pools: Object.fromEntries(
        ['own', 'logins'].map((name) => [name, { healthCheck: { type: 'none' }, backends }]),
      ),
    });
    for (const name of ['plain', 'waits', 'named', 'both', 'outside'])
      await echoed(stage.closing(await TcpClient.connect(relay.listener(name))), 'hello');
    const rows = await relay.connections();
    const inKernel = rows.filter(({ id }) => id >= 1e12).map(({ listener }) => listener);
    expect(inKernel).toEqual(['plain']);
    const everywhere = ['both', 'named', 'outside', 'plain', 'waits'];
    expect(rows.map(({ listener }) => listener).sort()).toEqual(everywhere);
    for (const reason of [
      'queue.size: a connection that waits is held by a socket',
      'takes clients with IPv4 and IPv6',
      'Linux routes nothing from outside to loopback',
    ])
      expect(relay.process.stderr).toContain(reason);
  });

  test('listeners of one pool are together, so that a backend’s cap is one for both', async () => {
    const echo = await backend('echo');
    const queue = { size: 1, timeout: '1s' };
    const both = (second: object): object => ({
      ...config([echo]),
      listeners: [
        { name: 'waits', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', queue },
        { name: 'plain', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', ...second },
      ],
      pools: {
        logins: {
          healthCheck: { type: 'none' },
          backends: [{ id: 'echo', address: echo.address, maxConnections: 3 }],
        },
      },
    });
    const relay = await stage.relay(both({}));
    expect(relay.process.stderr).toContain(
      'its pool\'s connections are counted in user space, where listener \\"waits\\" is',
    );
    const open = async (name: string): Promise<TcpClient> =>
      stage.closing(await TcpClient.connect(relay.listener(name)));
    for (const name of ['waits', 'plain', 'plain']) await echoed(await open(name), 'in');
    // The reset may come before or after the client has heard that it is connected.
    const end = open('plain').then(
      async (refused) => {
        await refused.untilOver();
        return refused.failure;
      },
      (error: unknown) => (error as NodeJS.ErrnoException).code,
    );
    expect(await end).toBe('ECONNRESET');
    // Where both are meant to be where they are, each counts for itself.
    relay.writeConfig(both({ engine: 'kernel' }));
    expect(await relay.reload()).toBe(true);
    expect((await relay.connections()).map(({ listener }) => listener)).toEqual(['waits']);
    for (let i = 0; i < 3; i++) await echoed(await open('plain'), 'in');
  });

  test('psql and pgbench get through it what they get from PostgreSQL itself', async ({ skip }) => {
    const programs = postgresPrograms();
    if (programs === undefined) return skip('there is no PostgreSQL server in /usr/lib/postgresql');
    const cluster = await stage.postgres(programs);
    await initPgbench(programs, cluster.endpoint);
    const relay = await stage.relay(
      config([{ id: 'db', address: cluster.endpoint.toString(), process: cluster.process }]),
    );
    const through = relay.listener();
    const all = 'select * from pgbench_accounts order by aid limit 5000';
    expect(await cluster.query(through, all)).toBe(await cluster.query(cluster.endpoint, all));
    for (const isReconnecting of [false, true]) {
      const { transactions } = await runPgbench({
        programs,
        target: through,
        clients: 4,
        durationS: 1,
        isReconnecting,
        folder: stage.folder,
        signal: AbortSignal.timeout(60_000),
      });
      expect(transactions).toBeGreaterThan(0);
    }
    await relay.untilMetric('tcp_connections', {}, 0);
    const page = await relay.metrics();
    const accepted = page.value('tcp_connections_accepted_total')!;
    expect(accepted).toBeGreaterThan(5);
    expect(page.value('tcp_connections_closed_total', { reason: 'completed' })).toBe(accepted);
    expect(page.value('tcp_segments_dropped_total')).toBe(0);
  });
}
