/**
 * Listeners that share pins, on every engine, with real sockets: a client's login over TCP and its play over UDP meet on one
 * server, whichever comes first, while servers fail, drain and come back.
 */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { Endpoint, IpAddress } from '../../net/address.ts';
import type { ListenerConfig, TcpListenerConfig } from '../../relay/control/config.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import { ALGORITHMS, type Algorithm } from '../../relay/core/select.ts';
import { DataPlanes } from '../../relay/data-planes.ts';
import { TcpEngine } from '../../relay/tcp/tcp-engine.ts';
import { NaivePinGroup } from '../support/naive-pin-group.ts';
import { UdpPeer } from '../support/udp-peer.ts';
import { ENGINES, type EngineUnderTest, RULES } from './engine-harness.ts';

const TCP: Omit<TcpListenerConfig, 'name' | 'listen' | 'pool' | 'algorithm'> = {
  protocol: 'tcp',
  engine: 'auto',
  idleTimeoutMs: 60_000,
  connectTimeoutMs: 3_000,
  maxConnections: 1_000,
  slowStartMs: 0,
  limits: { connectionsPerSource: 0, connectionRatePerSource: 0 },
  queue: { size: 0, timeoutMs: 5_000 },
  proxyProtocol: { accept: [], timeoutMs: 5_000, send: 'none' },
  keepAliveMs: 0,
};
const LISTEN = Endpoint.parse('127.77.0.1:0');
const STEPS = 250;
const CLIENTS = 8;
const IDS = ['a', 'b', 'c', 'd'];

/** The same numbers for the same seed (mulberry32). */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** Servers with a UDP port and a TCP port each, in a pool for either, and a relay with two UDP listeners and one for TCP. */
class Bed {
  readonly game = new BackendPool('game');
  readonly login = new BackendPool('login');
  readonly naive = new NaivePinGroup([this.game, this.login]);
  readonly planes: DataPlanes;
  readonly engine: EngineUnderTest['engine'];
  readonly advance: EngineUnderTest['advance'];
  readonly #servers: Server[] = [];
  readonly #peers: UdpPeer[] = [];

  constructor({ engine, advance }: EngineUnderTest) {
    this.engine = engine;
    this.advance = advance;
    const pins = {
      request: engine.requestPin.bind(engine),
      letGo: engine.letPinGo.bind(engine),
    };
    this.planes = new DataPlanes(engine, new TcpEngine({ hashSeed: 0, pins }));
  }

  async start(ids: readonly string[], algorithm: Algorithm, pinGroup: string | undefined): Promise<this> {
    for (const id of ids) await this.add(id);
    await this.publish();
    await this.apply(algorithm, pinGroup);
    return this;
  }

  apply(algorithm: Algorithm, pinGroup: string | undefined): Promise<void> {
    const shared = { algorithm, pinGroup };
    const listeners: ListenerConfig[] = [
      { protocol: 'udp', ...RULES, ...shared, name: 'game', listen: LISTEN, pool: 'game' },
      { protocol: 'udp', ...RULES, ...shared, name: 'lobby', listen: LISTEN, pool: 'game' },
      { ...TCP, ...shared, name: 'login', listen: LISTEN, pool: 'login' },
    ];
    return this.planes.apply(listeners);
  }

  at(name: 'game' | 'lobby' | 'login'): Endpoint {
    return this.planes.locals().get(name)!;
  }

  async add(id: string): Promise<void> {
    if (this.game.get(id) !== undefined) return;
    const peer = new UdpPeer('127.0.0.1:0', () => Buffer.from(id));
    this.#peers.push(peer);
    const server = createServer((socket) =>
      socket
        .on('error', () => undefined)
        .resume()
        .write(id),
    );
    this.#servers.push(server.listen(0, '127.0.0.1'));
    await once(server, 'listening');
    const login = new Endpoint(IpAddress.parse('127.0.0.1'), (server.address() as AddressInfo).port);
    this.game.add({ id, endpoint: peer.local, weight: 1 });
    this.login.add({ id, endpoint: login, weight: 1 });
  }

  async publish(): Promise<void> {
    await Promise.all([this.game, this.login].map((pool) => this.planes.publish(pool.snapshot())));
    this.naive.publish();
  }

  /** The server that a new session of the client plays on; undefined: none is ready. */
  async play(client: string, listener: 'game' | 'lobby' = 'game'): Promise<string | undefined> {
    const dropped = (): number =>
      this.engine.listeners().find(({ name }) => name === listener)!.counts.downstream.dropped['no-backend']!;
    const before = dropped();
    const peer = new UdpPeer(`${client}:0`);
    try {
      peer.send(this.at(listener), 'where');
      const isDropped = (): boolean => dropped() > before;
      await expect
        .poll(() => peer.received.length > 0 || isDropped(), { timeout: 10_000, interval: 1 })
        .toBe(true);
      return peer.received[0]?.payload.toString();
    } finally {
      await peer.close();
    }
  }

  /** The server that the client's login meets; undefined: it was refused. */
  async logIn(client: string): Promise<string | undefined> {
    const { ip, port } = this.at('login');
    const socket = connect({ host: ip.toString(), port, localAddress: client });
    try {
      const [chunk] = (await once(socket, 'data')) as [Buffer];
      return chunk.toString();
    } catch {
      return undefined;
    } finally {
      socket.destroy();
    }
  }

  async stop(): Promise<void> {
    await this.planes.close();
    await Promise.all(this.#peers.map((peer) => peer.close()));
    for (const server of this.#servers) server.close();
  }
}

const beds: Bed[] = [];
afterEach(async () => {
  await Promise.all(beds.splice(0).map((bed) => bed.stop()));
});

describe.each(Object.keys(ENGINES))('engine %s', (engineName) => {
  async function start(algorithm: Algorithm = 'ip-hash', pinGroup: string | null = 'players'): Promise<Bed> {
    const bed = new Bed(ENGINES[engineName]!.open({}));
    beds.push(bed);
    return bed.start(['a', 'b', 'c'], algorithm, pinGroup ?? undefined);
  }
  const clients = Array.from({ length: CLIENTS }, (_, i) => `127.9.0.${i + 1}`);

  const unavailable = ENGINES[engineName]!.whyUnavailable();
  if (unavailable !== undefined) {
    test.skip(`skipped: ${unavailable}`, () => undefined);
    return;
  }

  test.each(ALGORITHMS)('login and play meet, whatever happens to the servers: %s', async (algorithm) => {
    const bed = await start(algorithm);
    const random = numbers(0x9e37 + ALGORITHMS.indexOf(algorithm));
    const history: string[] = [];
    for (let i = 0; i < STEPS; i++) {
      const client = clients[random(CLIENTS)]!;
      const what = random(10);
      if (what < 4) {
        const listener = (['game', 'lobby'] as const)[random(2)]!;
        const expected = bed.naive.pinned(bed.game, client, [listener]);
        const id = await bed.play(client, listener);
        history.push(`${client} plays on ${id} by ${listener}`);
        expect(id, history.join('\n')).toBe(expected ?? id);
        if (id === undefined) expect(bed.game.snapshot().ready).toHaveLength(0);
        else bed.naive.took(bed.game, client, { id, listener });
      } else if (what < 8) {
        const expected = bed.naive.pinned(bed.login, client, ['game', 'lobby']);
        const id = await bed.logIn(client);
        history.push(`${client} logs in to ${id}`);
        expect(id, history.join('\n')).toBe(expected ?? id);
        if (id === undefined) expect(bed.login.snapshot().ready).toHaveLength(0);
        else bed.naive.took(bed.login, client, { id });
      } else {
        const id = IDS[random(IDS.length)]!;
        const change = (['fail', 'heal', 'heal', 'drain', 'undrain', 'remove', 'add'] as const)[random(7)]!;
        // Mostly the whole server, now and then one of its ports.
        const where = [[bed.game, bed.login], [bed.game, bed.login], [bed.game], [bed.login]][random(4)]!;
        history.push(`${change} ${id} in ${where.map(({ name }) => name).join(' and ')}`);
        if (change === 'add') await bed.add(id);
        for (const pool of change === 'remove' ? [bed.game, bed.login] : where) {
          if (change === 'remove') pool.remove(id);
          if (change === 'fail' || change === 'heal') pool.setHealthy(id, change === 'heal');
          if (change === 'drain' || change === 'undrain') pool.setDraining(id, change === 'drain');
        }
        await bed.publish();
      }
    }
  });

  test('without a group TCP does not ask for pins', async () => {
    const bed = await start('round-robin', null);
    const served = new Set<string | undefined>();
    for (let i = 0; i < 6; i++) served.add(await bed.logIn(clients[0]!));
    expect(served.size).toBe(3);
  });

  test('a reload brings a group, and takes it away, under live sessions and pins', async () => {
    const bed = await start('round-robin', null);
    const played = new Map<string, string | undefined>();
    for (const client of clients) played.set(client, await bed.play(client));
    await bed.apply('round-robin', 'players');
    expect(bed.engine.capacity().liveSessions).toBe(CLIENTS);
    for (const client of clients) expect(await bed.logIn(client)).toBe(played.get(client));
    for (const client of clients) expect(await bed.play(client)).toBe(played.get(client));
    await bed.apply('round-robin', 'others');
    for (const client of clients) expect(await bed.logIn(client)).toBe(played.get(client));
    await bed.apply('round-robin', undefined);
    for (const client of clients) expect(await bed.play(client)).toBe(played.get(client));
    expect(bed.engine.capacity().livePins).toBe(CLIENTS);
  });

  test('pins go when their time is over, and not while a connection holds them', async () => {
    const bed = await start();
    const { ip, port } = bed.at('login');
    const socket = connect({ host: ip.toString(), port, localAddress: clients[0]! });
    await once(socket, 'data');
    await bed.play(clients[1]!);
    expect(await bed.logIn(clients[1]!)).toBeDefined();
    await expect.poll(async () => (await bed.planes.tcp.connections({ limit: 9 })).total).toBe(1);
    await bed.advance(RULES.idleTimeoutMs);
    await bed.advance(RULES.pinTimeoutMs);
    await bed.advance(0);
    expect(bed.engine.capacity().livePins).toBe(1);
    socket.destroy();
    await expect.poll(async () => (await bed.planes.tcp.connections({ limit: 9 })).total).toBe(0);
    // A worker takes requests in turn: once it has swept, it has let the pin go, before the clock moves on.
    await bed.advance(0);
    await bed.advance(RULES.pinTimeoutMs);
    await bed.advance(0);
    expect(bed.engine.capacity().livePins).toBe(0);
  });

  test('a connection that meets a dead port takes the pin with it, unless its client plays there', async () => {
    const bed = await start('round-robin');
    const dead = new Endpoint(IpAddress.parse('127.0.0.1'), 1);
    for (const id of ['b', 'c']) bed.login.remove(id);
    await bed.publish();
    const [stranger, player] = clients as [string, string];
    expect(await bed.logIn(stranger)).toBe('a');
    expect([await bed.logIn(player), await bed.play(player)]).toEqual(['a', 'a']);
    // The login port of `a` is another one from now on, and nobody listens there.
    bed.login.remove('a');
    await bed.publish();
    bed.login.add({ id: 'a', endpoint: dead, weight: 256 });
    await bed.publish();
    const server = createServer((socket) =>
      socket
        .on('error', () => undefined)
        .resume()
        .write('b'),
    );
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    try {
      const login = new Endpoint(dead.ip, (server.address() as AddressInfo).port);
      bed.login.add({ id: 'b', endpoint: login, weight: 1 });
      await bed.publish();
      expect(await bed.logIn(player)).toBe('b');
      expect(await bed.play(player)).toBe('a');
      expect(await bed.logIn(stranger)).toBe('b');
      expect(await bed.play(stranger)).toBe('b');
    } finally {
      server.close();
    }
  });
});
