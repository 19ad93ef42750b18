/** TCP connections in the kernel that somebody ends: a backend, a listener, an operator, a limit, the relay. */
import { expect } from 'vitest';
import type { TcpListenerStatus } from '../../relay/engines/engine.ts';
import { expectEcho, kernelTcpTest as test } from '../support/kernel-tcp-stage.ts';
import { TcpClient, untilRefused } from '../support/tcp-client.ts';
import { until } from '../support/until.ts';

test('a backend that leaves: both ends of its connections are reset at once, others go on, new ones go elsewhere', async ({
  stage,
}) => {
  const [a, b] = [await stage.backend('a'), await stage.backend('b')];
  const relay = await stage.relay(stage.config([a, b]));
  const clients: TcpClient[] = [];
  for (let i = 0; i < 6; i++) clients.push(await stage.client(relay));
  await until('six connections', async () => (await relay.connections()).length === 6);
  expect((await relay.connections()).map((row) => row.backend).sort()).toEqual([
    'a',
    'a',
    'a',
    'b',
    'b',
    'b',
  ]);
  for (const one of clients) await expectEcho(one, 'hello');

  relay.writeConfig(stage.config([b], { listen: '127.0.0.1:0' }));
  expect(await relay.reload()).toBe(true);
  // Nobody has sent anything since.
  await until('three resets', () => clients.filter(({ failure }) => failure === 'ECONNRESET').length === 3);
  await until('the backend to hear', () => a.process.stdout.split('"reset"').length === 4);
  expect(await relay.metric('tcp_connections_closed_total', { reason: 'backend-unusable' })).toBe(3);
  const alive = clients.filter(({ failure }) => failure === undefined);
  alive.push(await stage.client(relay), await stage.client(relay));
  for (const one of alive) await expectEcho(one, 'still here');
  expect((await relay.connections()).map((row) => row.backend)).toEqual(['b', 'b', 'b', 'b', 'b']);
});

test('a backend that is killed: its system ends its connections, and the health check sends others elsewhere', async ({
  stage,
}) => {
  const [a, b] = [await stage.backend('a'), await stage.backend('b')];
  const pool = { healthCheck: { type: 'tcp', interval: '250ms', timeout: '250ms', fall: 2 } };
  const relay = await stage.relay(stage.config([a, b], { pool }));
  const clients = [await stage.client(relay), await stage.client(relay)];
  for (const one of clients) await expectEcho(one, 'hello');
  a.process.signal('SIGKILL');
  await until('one connection to end', () => clients.filter(({ isOver }) => isOver).length === 1);
  await relay.untilStates({ a: 'unhealthy', b: 'ready' }, 'logins');
  for (let i = 0; i < 4; i++) await expectEcho(await stage.client(relay), 'hello');
  expect(new Set((await relay.connections()).map((row) => row.backend))).toEqual(new Set(['b']));
});

test('a listener that leaves resets both ends of its connections and frees its address; others go on', async ({
  stage,
}) => {
  const echo = await stage.backend('echo');
  const both = (...names: readonly string[]): object => ({
    ...stage.config([echo]),
    listeners: names.map((name) => ({ name, protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins' })),
  });
  const relay = await stage.relay(both('stays', 'goes'));
  const [stays, goes] = await Promise.all(['stays', 'goes'].map((name) => stage.client(relay, name)));
  await expectEcho(stays!, 'hello');
  await expectEcho(goes!, 'hello');
  relay.writeConfig(both('stays'));
  expect(await relay.reload()).toBe(true);
  await goes!.untilOver();
  expect(goes!.failure).toBe('ECONNRESET');
  await until('the backend to hear', () => echo.process.stdout.includes('"reset"'));
  await expect(TcpClient.connect(relay.listener('goes'))).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  await expectEcho(stays!, 'and on');
  await expectEcho(await stage.client(relay, 'stays'), 'as ever');
  expect(await relay.connections()).toHaveLength(2);
});

test('an operator ends one connection and no other', async ({ stage }) => {
  const relay = await stage.relay(stage.config([await stage.backend('echo')]));
  const [one, two] = [await stage.client(relay), await stage.client(relay)];
  await expectEcho(one, 'one');
  await expectEcho(two, 'two');
  const rows = await relay.connections();
  // That of the client that said "one" first.
  const [mine] = [...rows].sort((x, y) => x.id - y.id);
  expect((await relay.request(`/v1/connections/${mine!.id}`, { method: 'DELETE' })).status).toBe(204);
  await one.untilOver();
  expect(one.failure).toBe('ECONNRESET');
  await expectEcho(two, 'unharmed');
  expect((await relay.request(`/v1/connections/${mine!.id}`, { method: 'DELETE' })).status).toBe(404);
});

test('a pool without backends refuses at once, and a backend that refuses is heard', async ({ stage }) => {
  const gone = await stage.backend('gone');
  gone.process.signal('SIGKILL');
  await gone.process.ended(20_000);
  const relay = await stage.relay(stage.config([gone]));
  await expect(stage.client(relay)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  await relay.untilMetric('tcp_connections_closed_total', { reason: 'connect-failed' }, 1);
  relay.writeConfig(stage.config([], { pool: { registration: { allow: ['127.0.0.1/32'] } } }));
  expect(await relay.reload()).toBe(true);
  await expect(stage.client(relay)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  expect(await relay.metric('tcp_connections_closed_total', { reason: 'no-backend' })).toBe(1);
});

test('after SIGTERM connections go on, new ones are refused, and the relay ends with the last one', async ({
  stage,
}) => {
  const relay = await stage.relay(
    stage.config([await stage.backend('echo')], { rest: { shutdown: { deadline: '30s' } } }),
  );
  const one = await stage.client(relay);
  await expectEcho(one, 'before');
  relay.process.signal('SIGTERM');
  await until('/readyz to answer 503', async () => (await relay.request('/readyz')).status === 503);
  await untilRefused(relay.listener());
  await expectEcho(one, ' and after');
  one.end();
  expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
  const { tcp } = await relay.process.event('summary');
  // Before the address was free, a connection of the wait above may have come through.
  const { accepted, closed } = (tcp as Record<string, TcpListenerStatus['counts']>)['login']!;
  expect(closed.completed).toBeGreaterThan(0);
  expect(Object.values(closed).reduce((sum, count) => sum + count, 0)).toBe(accepted);
});

test('the end of the relay resets what is left', async ({ stage }) => {
  const relay = await stage.relay(
    stage.config([await stage.backend('echo')], { rest: { shutdown: { deadline: '200ms' } } }),
  );
  const one = await stage.client(relay);
  await expectEcho(one, 'hello');
  relay.process.signal('SIGTERM');
  await one.untilOver();
  expect(one.failure).toBe('ECONNRESET');
  expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
});

test('new rules of a listener hold at once, for who is there and who comes', async ({ stage }) => {
  const echo = await stage.backend('echo');
  const relay = await stage.relay(stage.config([echo]));
  const reload = async (listener: object): Promise<void> => {
    relay.writeConfig(stage.config([echo], { listener }));
    expect(await relay.reload()).toBe(true);
  };
  const [one, two] = [await stage.client(relay), await stage.client(relay)];
  await expectEcho(one, 'one');
  await expectEcho(two, 'two');
  await reload({ maxConnections: 2 });
  await expect(stage.client(relay)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  expect(await relay.metric('tcp_connections_closed_total', { reason: 'connection-limit' })).toBe(1);
  await expectEcho(one, 'still here');
  await reload({ maxConnections: 3 });
  await expectEcho(await stage.client(relay), 'let in');
  await reload({ idleTimeout: '300ms' });
  await one.untilOver();
  expect(one.failure).toBe('ECONNRESET');
  await relay.untilMetric('tcp_connections_closed_total', { reason: 'idle-timeout' }, 3);
});
