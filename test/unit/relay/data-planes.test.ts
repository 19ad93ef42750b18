/** Listeners as a whole, on loopback: what a reload may change, and what must survive one that fails. */
import { once } from 'node:events';
import { connect, createServer, type Server } from 'node:net';
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { openDgramSocket } from '../../../net/dgram-socket.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import type { TcpListenerConfig, UdpListenerConfig } from '../../../relay/control/config.ts';
import { DataPlanes } from '../../../relay/data-planes.ts';
import { UserspaceEngine } from '../../../relay/engines/userspace/userspace-engine.ts';
import { TcpEngine } from '../../../relay/tcp/tcp-engine.ts';
import { type Answer, UdpPeer } from '../../support/udp-peer.ts';

// Each listener has an IP address of its own, so that a port found free there stays free.
const ANY_PORT = (lastByte: number): string => `127.77.0.${lastByte}:0`;

const UDP: Omit<UdpListenerConfig, 'name' | 'listen' | 'pool'> = {
  protocol: 'udp',
  algorithm: 'ip-hash',
  idleTimeoutMs: 120_000,
  pinTimeoutMs: 600_000,
  receiveBufferBytes: 131_072,
  limits: { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 },
};
const TCP: Omit<TcpListenerConfig, 'name' | 'listen' | 'pool'> = {
  protocol: 'tcp',
  engine: 'auto',
  algorithm: 'least-connections',
  idleTimeoutMs: 60_000,
  connectTimeoutMs: 3_000,
  maxConnections: 10,
  slowStartMs: 0,
  limits: { connectionsPerSource: 0, connectionRatePerSource: 0 },
  queue: { size: 0, timeoutMs: 5_000 },
  proxyProtocol: { accept: [], timeoutMs: 5_000, send: 'none' },
  keepAliveMs: 0,
};

let planes: DataPlanes;
let peers: UdpPeer[];
let servers: Server[];

const udp = (
  name: string,
  listen: Endpoint,
  pool = 'one',
  rules: Partial<UdpListenerConfig> = {},
): UdpListenerConfig => ({
  ...UDP,
  ...rules,
  name,
  listen,
  pool,
});
const tcp = (name: string, listen: Endpoint): TcpListenerConfig => ({ ...TCP, name, listen, pool: 'login' });

function peer(local: string, answer?: Answer): UdpPeer {
  const made = new UdpPeer(local, answer);
  peers.push(made);
  return made;
}

/** A UDP address that nobody has. */
async function freeUdp(lastByte: number): Promise<Endpoint> {
  const socket = openDgramSocket({ local: Endpoint.parse(ANY_PORT(lastByte)), onReceive: () => undefined });
  await socket.close();
  return socket.local;
}

async function serve(endpoint: string, greeting: string): Promise<Endpoint> {
  const { ip, port } = Endpoint.parse(endpoint);
  const server = createServer((socket) => socket.on('error', () => undefined).end(greeting)).listen(
    port,
    ip.toString(),
  );
  servers.push(server);
  await once(server, 'listening');
  return new Endpoint(ip, (server.address() as { port: number }).port);
}

async function greetingOf({ ip, port }: Endpoint): Promise<string> {
  let text = '';
  for await (const chunk of connect(port, ip.toString())) text += String(chunk);
  return text;
}

const answerOf = async (client: UdpPeer, listener: Endpoint): Promise<string> =>
  (await client.ask(listener, 'who')).payload.toString();

beforeEach(async () => {
  peers = [];
  servers = [];
  const logger = pino({ level: 'silent' });
  const now = (): number => performance.now();
  const engine = new UserspaceEngine({
    ...{ name: 'dgram', openSocket: openDgramSocket, maxSessions: 100, maxUpstreamSockets: 100 },
    ...{ hashSeed: 0, tableSeed: 0, now },
  });
  planes = new DataPlanes(engine, new TcpEngine({ logger, hashSeed: 0, now }));
  for (const name of ['one', 'two']) {
    const pool = new BackendPool(name);
    pool.add({ id: name, endpoint: peer('127.0.0.1:0', () => Buffer.from(name)).local, weight: 1 });
    await planes.publish(pool.snapshot());
  }
  const login = new BackendPool('login');
  login.add({ id: 'login', endpoint: await serve('127.0.0.1:0', 'welcome'), weight: 1 });
  await planes.publish(login.snapshot());
});

afterEach(async () => {
  await planes.close();
  await Promise.all(peers.map((each) => each.close()));
  for (const server of servers) server.close();
});

describe('applying listeners', () => {
  test('binds UDP and TCP and says where', async () => {
    await planes.apply([udp('game', Endpoint.parse(ANY_PORT(1))), tcp('login', Endpoint.parse(ANY_PORT(1)))]);
    const locals = planes.locals();
    expect([...locals.keys()]).toEqual(['game', 'login']);
    expect(await answerOf(peer('127.0.0.1:0'), locals.get('game')!)).toBe('one');
    expect(await greetingOf(locals.get('login')!)).toBe('welcome');
    await expect.poll(() => planes.live()).toBe(1);
  });

  test('when one address is taken, none is bound at first', async () => {
    const taken = peer(ANY_PORT(2)).local;
    const free = await freeUdp(1);
    await expect(planes.apply([udp('game', free), udp('second', taken)])).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_BIND',
      message: expect.stringContaining(taken.toString()) as string,
    });
    expect(planes.locals().size).toBe(0);
    await planes.apply([udp('game', free)]);
    expect(await answerOf(peer('127.0.0.1:0'), free)).toBe('one');
  });

  test('pools that the engine has no room for are refused, and the old listeners stay', async () => {
    Object.assign(planes.engine, { maxPools: 1 });
    const [game, second] = [await freeUdp(1), await freeUdp(2)];
    await planes.apply([udp('game', game)]);
    const change = planes.apply([udp('game', game), udp('second', second, 'two')]);
    await expect(change).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_CONFIG',
      message: expect.stringMatching(/^listeners\[1\]\.pool: "two" is one of 2 .*room for 1;/) as string,
    });
    expect([...planes.locals().keys()]).toEqual(['game']);
    expect(await answerOf(peer('127.0.0.1:0'), game)).toBe('one');
  });

  test('a new address is not tried beside listeners whose pools take all the room', async () => {
    Object.assign(planes.engine, { maxPools: 1 });
    const add = vi.spyOn(planes.engine, 'addListener');
    await planes.apply([udp('game', await freeUdp(1))]);
    await planes.apply([udp('second', await freeUdp(2), 'two')]);
    expect(add.mock.calls.map(([{ name }]) => name)).toEqual(['game', 'second']);
    await planes.apply([udp('third', await freeUdp(3), 'two')]);
    expect(add.mock.calls.map(([{ name }]) => name).slice(2)).toEqual(['third (trial)', 'third']);
  });

  test('when one address is taken, the old listeners, rules and sessions stay', async () => {
    const [game, fresh, taken] = [await freeUdp(1), await freeUdp(3), peer(ANY_PORT(2)).local];
    await planes.apply([udp('game', game)]);
    const client = peer('127.0.0.1:0');
    await answerOf(client, game);
    const rules = { idleTimeoutMs: 1 };
    await expect(
      planes.apply([udp('game', game, 'one', rules), udp('fresh', fresh), udp('taken', taken)]),
    ).rejects.toMatchObject({ code: 'TICKRELAY_ERR_BIND' });
    expect([...planes.locals().keys()]).toEqual(['game']);
    expect(planes.live()).toBe(1);
    expect(await answerOf(client, game)).toBe('one');
    expect(planes.engine.listeners()[0]!.counts).toMatchObject({ sessionsOpened: 1, sessionsExpired: 0 });
  });

  test('a listener that should move to a taken address stays where it is, with its sessions', async () => {
    const [game, taken] = [await freeUdp(1), peer(ANY_PORT(2)).local];
    await planes.apply([udp('game', game)]);
    const client = peer('127.0.0.1:0');
    await answerOf(client, game);
    await expect(planes.apply([udp('game', taken)])).rejects.toMatchObject({ code: 'TICKRELAY_ERR_BIND' });
    expect(planes.live()).toBe(1);
    expect(await answerOf(client, game)).toBe('one');
  });

  test('new rules are taken in place: sessions stay, and obey them', async () => {
    const game = await freeUdp(1);
    await planes.apply([udp('game', game)]);
    await answerOf(peer('127.0.0.1:0'), game);
    await planes.apply([udp('game', game, 'one', { idleTimeoutMs: 60_000 })]);
    expect(planes.live()).toBe(1);
    await planes.apply([udp('game', game, 'one', { idleTimeoutMs: 1 })]);
    await expect.poll(() => planes.live()).toBe(0);
  });

  test('another pool or address replaces a listener', async () => {
    const [game, moved] = [await freeUdp(1), await freeUdp(2)];
    const client = peer('127.0.0.1:0');
    await planes.apply([udp('game', game)]);
    expect(await answerOf(client, game)).toBe('one');
    await planes.apply([udp('game', game, 'two')]);
    expect(await answerOf(client, game)).toBe('two');
    await planes.apply([udp('game', moved, 'two')]);
    expect(await answerOf(client, moved)).toBe('two');
    expect([...planes.locals().values()].map(String)).toEqual([moved.toString()]);
  });

  test('a port that the system chose stays with its listener when the pool changes', async () => {
    const anyPort = Endpoint.parse(ANY_PORT(1));
    await planes.apply([udp('game', anyPort)]);
    const local = planes.locals().get('game')!;
    await planes.apply([udp('game', anyPort, 'two')]);
    expect(planes.locals().get('game')!.toString()).toBe(local.toString());
    expect(await answerOf(peer('127.0.0.1:0'), local)).toBe('two');
  });

  test('listeners may swap addresses, change names and protocols at once', async () => {
    const [first, second] = [await freeUdp(1), await freeUdp(2)];
    await planes.apply([udp('a', first, 'one'), udp('b', second, 'two')]);
    await planes.apply([udp('a', second, 'one'), udp('b', first, 'two')]);
    const client = peer('127.0.0.1:0');
    expect([await answerOf(client, first), await answerOf(client, second)]).toEqual(['two', 'one']);
    await planes.apply([udp('renamed', first, 'two'), tcp('a', second)]);
    expect(await answerOf(client, first)).toBe('two');
    expect(await greetingOf(second)).toBe('welcome');
    expect([...planes.locals().keys()].sort()).toEqual(['a', 'renamed']);
  });

  test('a listener that is not wanted any more frees its address', async () => {
    const [game, second] = [await freeUdp(1), await freeUdp(2)];
    await planes.apply([udp('game', game), udp('second', second)]);
    await planes.apply([udp('game', game)]);
    expect([...planes.locals().keys()]).toEqual(['game']);
    expect(peer(second.toString()).local.equals(second)).toBe(true);
  });

  test('two changes at once come one after the other, and the last one holds', async () => {
    const [first, second, third] = [await freeUdp(1), await freeUdp(2), await freeUdp(3)];
    await planes.apply([udp('a', first), udp('b', second)]);
    await Promise.all([
      planes.apply([udp('a', second), udp('b', first)]),
      planes.apply([udp('a', third)]),
      planes.apply([udp('a', first), udp('c', second, 'two')]),
    ]);
    expect([...planes.locals()].map(([name, local]) => `${name} ${local.toString()}`).sort()).toEqual([
      `a ${first.toString()}`,
      `c ${second.toString()}`,
    ]);
    expect(await answerOf(peer('127.0.0.1:0'), second)).toBe('two');
  });

  test('an end that comes during a change leaves no socket open, and none is opened after it', async () => {
    const [game, second] = [await freeUdp(1), await freeUdp(2)];
    await planes.apply([udp('game', game)]);
    const change = planes.apply([udp('game', game), udp('second', second), tcp('login', second)]);
    await planes.close();
    await change;
    await expect(planes.apply([udp('late', game)])).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_ENGINE',
      message: expect.stringContaining('the relay is closed') as string,
    });
    for (const free of [game, second]) expect(peer(free.toString()).local.equals(free)).toBe(true);
  });

  test('a draining relay keeps its listeners and connections when a change of them comes, and takes rules', async () => {
    const [game, login] = [await freeUdp(1), await freeUdp(2)];
    await planes.apply([udp('game', game), tcp('login', login)]);
    const client = peer('127.0.0.1:0');
    await answerOf(client, game);
    const change = [udp('game', game, 'two'), tcp('login', game)];
    const [, tooLate] = await Promise.allSettled([planes.drain(), planes.apply(change)]);
    expect(tooLate).toMatchObject({ status: 'rejected', reason: { code: 'TICKRELAY_ERR_ENGINE' } });
    expect(await answerOf(client, game)).toBe('one');
    await planes.apply([udp('game', game, 'one', { idleTimeoutMs: 1 }), tcp('login', login)]);
    await expect.poll(() => planes.live()).toBe(0);
  });

  test('when the way back is barred for one listener, the others still get theirs, and the next change mends it', async () => {
    const [first, second, taken] = [await freeUdp(1), await freeUdp(2), peer(ANY_PORT(3)).local];
    await planes.apply([udp('a', first), udp('b', second)]);
    // Both ports are those of closing listeners, so that nothing is tried before they are closed; then the port on the
    // other address can't be had, and meanwhile somebody has taken the first one's place.
    const removeListener = planes.engine.removeListener.bind(planes.engine);
    let thief: UdpPeer | undefined;
    planes.engine.removeListener = async (name) => {
      await removeListener(name);
      if (name === 'a') thief = peer(first.toString());
    };
    const blocked = new Endpoint(taken.ip, second.port);
    peer(blocked.toString());
    await expect(planes.apply([udp('a', blocked)])).rejects.toMatchObject({ code: 'TICKRELAY_ERR_BIND' });
    expect([...planes.locals().keys()]).toEqual(['b']);
    expect(await answerOf(peer('127.0.0.1:0'), second)).toBe('one');
    planes.engine.removeListener = removeListener;
    await thief!.close();
    await planes.apply([udp('a', first), udp('b', second)]);
    expect(await answerOf(peer('127.0.0.1:0'), first)).toBe('one');
  });

  test('drain refuses the new and keeps the old', async () => {
    const game = await freeUdp(1);
    await planes.apply([udp('game', game)]);
    const client = peer('127.0.0.1:0');
    await answerOf(client, game);
    await planes.drain();
    peer('127.0.0.1:0').send(game, 'too late');
    await expect.poll(() => planes.engine.listeners()[0]!.counts.downstream.dropped['draining']).toBe(1);
    expect(await answerOf(client, game)).toBe('one');
  });
});
