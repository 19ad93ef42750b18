/** TCP through the relay as a process: bytes, ends of both kinds, and backends that die. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { RelayProcess } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';
import {
  DIGEST,
  ECHO,
  expectDigested,
  expectEchoed,
  startTcpBackend,
  type TcpBackend,
} from '../support/tcp-backend.ts';
import { TcpClient, untilRefused } from '../support/tcp-client.ts';
import { until } from '../support/until.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

/** A program that says its name over TCP and over UDP, on one port. */
const BOTH = (name: string): string => `
  const udp = require('node:dgram').createSocket('udp4', (_, from) => udp.send('${name}', from.port, from.address));
  const tcp = require('node:net').createServer((socket) => socket.on('error', () => {}).end('${name}'));
  const open = () => tcp.listen(0, '127.0.0.1', () => {
    const { port } = tcp.address();
    udp.once('error', () => tcp.close(open));
    udp.bind(port, '127.0.0.1', () => console.log(JSON.stringify({ event: 'ready', port })));
  });
  open();
`;

const backend = (id: string, program: string): Promise<TcpBackend> => startTcpBackend(stage, id, { program });

async function relayBefore(
  backends: readonly TcpBackend[],
  healthCheck: object = { type: 'none' },
): Promise<RelayProcess> {
  return stage.relay({
    listeners: [{ name: 'login', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins' }],
    pools: { logins: { healthCheck, backends: backends.map(({ id, address }) => ({ id, address })) } },
    admin: { listen: '127.0.0.1:0' },
  });
}

const client = async (relay: RelayProcess): Promise<TcpClient> =>
  stage.closing(await TcpClient.connect(relay.listener()));

test('8 MiB come back byte for byte, and the connection is listed, counted and gone', async () => {
  const relay = await relayBefore([await backend('echo', ECHO)]);
  await expectEchoed(relay, await client(relay), 8 * 1024 * 1024);
});

test('a half-closed connection still carries the answer', async () => {
  const relay = await relayBefore([await backend('digest', DIGEST)]);
  await expectDigested(await client(relay));
});

test('connections spread evenly; those of a killed backend are cut, the others go on, new ones go elsewhere', async () => {
  const [a, b] = [await backend('a', ECHO), await backend('b', ECHO)];
  const relay = await relayBefore([a, b], { type: 'tcp', interval: '250ms', timeout: '250ms', fall: 3 });
  const clients: TcpClient[] = [];
  for (let i = 0; i < 6; i++) clients.push(await client(relay));
  await until('six connections', async () =>
    (await relay.connections()).every(({ state }) => state === 'established'),
  );
  const listed = await relay.connections();
  expect(listed.map((row) => row.backend).sort()).toEqual(['a', 'a', 'a', 'b', 'b', 'b']);

  a.process.signal('SIGKILL');
  await until('three connections to end', () => clients.filter(({ isOver }) => isOver).length === 3);
  const alive = clients.filter(({ isOver }) => !isOver);
  await relay.untilStates({ a: 'unhealthy', b: 'ready' }, 'logins');
  alive.push(await client(relay), await client(relay));
  for (const one of alive) {
    one.write('still here');
    expect((await one.untilReceived(10)).toString()).toBe('still here');
  }
  expect(alive).toHaveLength(5);
  expect((await relay.connections()).map((row) => row.backend)).toEqual(['b', 'b', 'b', 'b', 'b']);
});

test('a backend that refuses is replaced by another before any byte is read', async () => {
  const [a, b] = [await backend('a', ECHO), await backend('b', ECHO)];
  const relay = await relayBefore([a, b]);
  a.process.signal('SIGKILL');
  await a.process.ended(20_000);
  for (let i = 0; i < 4; i++) {
    const one = await client(relay);
    one.write(`hello ${i}`);
    expect((await one.untilReceived(7)).toString()).toBe(`hello ${i}`);
  }
  expect(await relay.metric('tcp_connections_retried_total')).toBeGreaterThan(0);
});

test('a backend that refuses clients goes out of service by that alone, where that is wanted', async () => {
  const [a, b] = [await backend('a', ECHO), await backend('b', ECHO)];
  const check = { type: 'tcp', interval: '60s', fall: 100, connectFailures: 2 };
  const relay = await relayBefore([a, b], check);
  a.process.signal('SIGKILL');
  await a.process.ended(20_000);
  // Those that live are on the other one, so that each is tried with the dead one first.
  for (let i = 0; i < 4; i++) {
    const one = await client(relay);
    one.write('x');
    await one.untilReceived(1);
  }
  await relay.untilStates({ a: 'unhealthy', b: 'ready' }, 'logins');
  const { failure } = (await relay.backends('logins')).get('a')!;
  expect(failure).toBe('2 connections in a row did not open: ECONNREFUSED');
});

test('an operator ends one connection and no other', async () => {
  const relay = await relayBefore([await backend('echo', ECHO)]);
  const [one, two] = [await client(relay), await client(relay)];
  await until('two connections', async () => (await relay.connections()).length === 2);
  const [oldest] = await relay.connections();
  expect((await relay.request(`/v1/connections/${oldest!.id}`, { method: 'DELETE' })).status).toBe(204);
  await one.untilOver();
  expect(one.failure).toBe('ECONNRESET');
  two.write('unharmed');
  expect((await two.untilReceived(8)).toString()).toBe('unharmed');
  expect((await relay.request('/v1/connections/999', { method: 'DELETE' })).status).toBe(404);
});

test('after SIGTERM a connection goes on, new ones are refused, and the relay ends with the last one', async () => {
  const relay = await relayBefore([await backend('echo', ECHO)]);
  const one = await client(relay);
  one.write('before');
  await one.untilReceived(6);
  relay.process.signal('SIGTERM');
  await until('/readyz to answer 503', async () => (await relay.request('/readyz')).status === 503);
  await untilRefused(relay.listener());
  one.write(' and after');
  expect((await one.untilReceived(16)).toString()).toBe('before and after');
  one.end();
  expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
  const { tcp } = (await relay.process.event('summary')) as {
    tcp: { login: { accepted: number; closed: Record<string, number> } };
  };
  const { accepted, closed } = tcp.login;
  expect(Object.values(closed).reduce((sum, count) => sum + count, 0)).toBe(accepted);
  expect(closed['completed']).toBeGreaterThanOrEqual(1);
});

test('a TCP and a UDP listener of one pool, both by ip-hash, send a client to the same server', async () => {
  const backends = await Promise.all(['a', 'b', 'c'].map((name) => backend(name, BOTH(name))));
  const relay = await stage.relay({
    listeners: [
      { name: 'game', protocol: 'udp', listen: '127.0.0.1:0', pool: 'servers', algorithm: 'ip-hash' },
      { name: 'login', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'servers', algorithm: 'ip-hash' },
    ],
    pools: { servers: { backends: backends.map(({ id, address }) => ({ id, address })) } },
    admin: { listen: '127.0.0.1:0' },
  });
  const servers = new Set<string>();
  for (let i = 1; i <= 12; i++) {
    const local = `127.30.0.${i}`;
    const login = stage.closing(await TcpClient.connect(relay.listener('login'), local));
    await login.untilOver();
    const player = stage.peer(`${local}:0`);
    const { payload } = await player.ask(relay.listener('game'), 'hello');
    expect(payload.toString()).toBe(login.received.toString());
    servers.add(login.received.toString());
  }
  expect(servers.size).toBeGreaterThan(1);
});
