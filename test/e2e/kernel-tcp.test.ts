/** TCP listeners in the kernel, as clients and backends meet them: bytes, addresses, and a relay that is not there for a while. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { expect } from 'vitest';
import { postgresPrograms } from '../../bench/postgres-cluster.ts';
import { initPgbench, runPgbench } from '../../bench/tcp/pgbench.ts';
import { Endpoint } from '../../net/address.ts';
import { expectEcho, kernelTcpTest as test } from '../support/kernel-tcp-stage.ts';
import { DIGEST, ECHO, expectDigested, expectEchoed, type TcpBackend, WHO } from '../support/tcp-backend.ts';
import type { TcpClient } from '../support/tcp-client.ts';
import { until } from '../support/until.ts';

test('32 MiB come back byte for byte; the connection is listed, counted and gone', async ({ stage }) => {
  const relay = await stage.relay(stage.config([await stage.backend('echo')]));
  await expectEchoed(relay, await stage.client(relay), 32 * 1024 * 1024);
  // Nothing of it went through the relay's process.
  expect(relay.process.stderr).toMatch(/"engine":"kernel"/);
  const page = await relay.metrics();
  expect(page.value('tcp_connections')).toBe(0);
  expect(page.value('tcp_segments_dropped_total')).toBe(0);
});

test('over IPv6: 8 MiB and a half-close, and an operator’s end that both ends hear', async ({ stage }) => {
  const [echo, digest] = [
    await stage.backend('echo', ECHO, '::1'),
    await stage.backend('digest', DIGEST, '::1'),
  ];
  const relay = await stage.relay({
    ...stage.config([echo], { listen: '[::1]:0' }),
    listeners: ['echoes', 'digests'].map((name) => ({
      ...{ name, protocol: 'tcp', listen: '[::1]:0', pool: name, engine: 'kernel' },
    })),
    pools: {
      echoes: { backends: [echo.address], healthCheck: { type: 'none' } },
      digests: { backends: [digest.address], healthCheck: { type: 'none' } },
    },
  });
  const to = (listener: string): Promise<TcpClient> => stage.client(relay, listener);
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

test('a half-closed connection still carries the answer', async ({ stage }) => {
  const relay = await stage.relay(stage.config([await stage.backend('digest', DIGEST)]));
  for (let i = 0; i < 5; i++) await expectDigested(await stage.client(relay));
});

test('the backend sees the client’s own address and port', async ({ stage }) => {
  const relay = await stage.relay(stage.config([await stage.backend('who', WHO)]));
  const socket = connect({ host: '127.0.0.1', port: relay.listener().port, localAddress: '127.9.8.7' });
  await once(socket, 'connect');
  const { localPort } = socket;
  const [said] = (await once(socket, 'data')) as [Buffer];
  expect(said.toString()).toBe(`127.9.8.7:${localPort!}`);
  socket.destroy();
});

test('with the relay’s own address as source: bytes, a backend that leaves, and kill -9 of the relay', async ({
  stage,
}) => {
  const [a, b] = [await stage.backend('a'), await stage.backend('b')];
  const who = await stage.backend('who', WHO);
  const configOf = (echoes: readonly TcpBackend[], listen: readonly string[]): object => ({
    ...stage.config(echoes),
    kernel: stage.kernelSection('relay'),
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
  const clientOf = (name: string): Promise<TcpClient> => stage.client(relay, name, '127.9.8.7');
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
  for (const one of clients) await expectEcho(one, 'after');
  expect(await second.connections()).toHaveLength(4);

  second.writeConfig(configOf([b], listen));
  expect(await second.reload()).toBe(true);
  await until('two resets', () => clients.filter(({ failure }) => failure === 'ECONNRESET').length === 2);
  await until('the backend to hear', () => a.process.stdout.split('"reset"').length === 3);
  for (const one of clients) if (!one.isOver) await expectEcho(one, 'and on');
  expect(await second.metric('tcp_segments_dropped_total')).toBe(0);
});

test('kill -9 of the relay costs no connection, and the next one goes on with them', async ({ stage }) => {
  const backends = [await stage.backend('a'), await stage.backend('b')];
  const first = await stage.relay(stage.config(backends));
  const clients: TcpClient[] = [];
  for (let i = 0; i < 8; i++) clients.push(await stage.client(first));
  for (const one of clients) await expectEcho(one, 'before');
  first.process.signal('SIGKILL');
  await first.process.ended(20_000);
  for (const one of clients) await expectEcho(one, 'without a relay');
  const late = await stage.client(first);
  await expectEcho(late, 'new, without a relay');

  const listen = first.listener().toString();
  const second = await stage.relay(stage.config(backends, { listen }));
  expect(second.process.stderr).toMatch(/adopted 0 sessions and 9 TCP connections/);
  for (const one of [...clients, late]) await expectEcho(one, 'after');
  expect(await second.connections()).toHaveLength(9);
  const page = await second.metrics();
  expect(page.value('tcp_connections_accepted_total')).toBe(9);
  expect(page.value('tcp_connections')).toBe(9);

  second.writeConfig(stage.config(backends.slice(1), { listen }));
  expect(await second.reload()).toBe(true);
  await until('those of a to be reset', () =>
    [...clients, late].some(({ failure }) => failure === 'ECONNRESET'),
  );
  for (const one of [...clients, late]) if (!one.isOver) await expectEcho(one, 'and on');
});

test('a client that speaks to the backend itself, from a port that it used through the relay, is left alone', async ({
  stage,
}) => {
  const echo = await stage.backend('echo');
  const relay = await stage.relay(stage.config([echo]));
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

test('psql and pgbench get through it what they get from PostgreSQL itself', async ({ stage, skip }) => {
  const programs = postgresPrograms();
  if (programs === undefined) return skip('there is no PostgreSQL server in /usr/lib/postgresql');
  const cluster = await stage.postgres(programs);
  await initPgbench(programs, cluster.endpoint);
  const relay = await stage.relay(stage.config([{ id: 'db', address: cluster.endpoint.toString() }]));
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
