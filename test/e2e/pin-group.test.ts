/**
 * Players who log in over TCP and play over UDP, with real processes: both lead to one server, on every engine. The game
 * servers register; their login services are static backends of another pool, under the same ids.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { freeTcpPort } from '../../bench/free-port.ts';
import { tickrelay } from '../../bench/process-group.ts';
import type { LoginCounts } from '../../gameserver/login-service.ts';
import type { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { BpfFileSystem } from '../support/bpffs.ts';
import { HEARTBEAT, LOOPBACK, type GameServerProcess } from '../support/game-fleet.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

const network = enterOwnNetwork([]);
const SERVERS = 3;
const PLAYERS = 30;
const GROUPED = { pinGroup: 'players' };

const libc = loadLibc();
const noSystemCalls = 'unavailable' in libc ? libc.unavailable : undefined;

/** Engines, with why one can't run here. */
const ENGINES: readonly (readonly [string, object, string | undefined])[] = [
  ['dgram', { engine: 'dgram' }, undefined],
  ['mmsg', { engine: 'mmsg', workers: 3 }, noSystemCalls],
  [
    'kernel',
    { engine: 'kernel', kernel: { bpffs: 'none', sourceAddress: 'client' } },
    whyUnavailable() ?? network,
  ],
];

let stage: Stage;
let sockets: Socket[];

beforeEach(() => {
  stage = new Stage();
  sockets = [];
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await stage.close();
});

interface Field {
  readonly relay: RelayProcess;
  readonly servers: readonly GameServerProcess[];
  readonly logins: readonly Endpoint[];
}

function configOf(rest: object, logins: readonly Endpoint[], group: object): object {
  const shared = { ...group, listen: '127.0.0.1:0' };
  return {
    ...rest,
    listeners: [
      { name: 'game', protocol: 'udp', pool: 'game-servers', ...shared },
      { name: 'login', protocol: 'tcp', pool: 'logins', algorithm: 'round-robin', ...shared },
    ],
    pools: {
      'game-servers': { registration: { ...LOOPBACK, settle: '0ms' }, healthCheck: HEARTBEAT },
      logins: {
        healthCheck: { type: 'tcp', interval: '250ms', timeout: '250ms', fall: 2 },
        backends: logins.map((at, i) => ({ id: `server-${i + 1}`, address: at.toString() })),
      },
    },
    admin: { listen: '127.0.0.1:0' },
  };
}

async function start(rest: object, group: object = GROUPED): Promise<Field> {
  const logins = await Promise.all(Array.from({ length: SERVERS }, () => freeTcpPort()));
  const relay = await stage.relay(configOf(rest, logins, group));
  const servers = await Promise.all(
    logins.map((at, i) => {
      const flags = ['--login', at.toString(), '--accounts', `${PLAYERS}`];
      return stage.gameServer({ id: i + 1, register: relay, flags });
    }),
  );
  const ready = Object.fromEntries(servers.map(({ backendId }) => [backendId, 'ready']));
  await relay.untilStates(ready);
  await relay.untilStates(ready, 'logins');
  return { relay, servers, logins };
}

/** A connection to the login from this address, that says nothing yet. @returns the id of its server */
async function logIn(relay: RelayProcess, ip: string): Promise<string> {
  const at = relay.listener('login');
  const socket = connect({ host: at.ip.toString(), port: at.port, localAddress: ip });
  sockets.push(socket.on('error', () => undefined));
  await once(socket, 'connect');
  const client = `${ip}:${socket.localPort}`;
  let backend: string | undefined;
  await until(`a backend for ${client}`, async () => {
    const { body } = await relay.request<{ connections: { client: string; backend?: string }[] }>(
      `/v1/connections?client=${ip}`,
    );
    backend = body.connections.find((row) => row.client === client)?.backend;
    return backend !== undefined;
  });
  return backend!;
}

async function serversByIp(relay: RelayProcess): Promise<ReadonlyMap<string, string>> {
  const byClient = await relay.serversByClient();
  return new Map(Array.from(byClient, ([client, backend]) => [client.split(':')[0]!, backend]));
}

describe.each(ENGINES)('engine %s', (_name, config, why) => {
  if (why !== undefined) {
    test.skip(`skipped: ${why}`, () => undefined);
    return;
  }

  test('bots play where they logged in', async () => {
    const { relay, servers } = await start(config);
    const [game, login] = ['game', 'login'].map((name) => relay.listener(name).toString());
    const asked = ['--target', game!, '--login', login!, '--players', `${PLAYERS}`, '--json'];
    const times = ['--tick', '32', '--duration', '500ms', '--ramp', '100ms', '--warmup', '0ms'];
    const bots = stage.start(tickrelay('bots', ['bots', ...asked, ...times]));
    const summary = (await bots.event('summary', 60_000)) as { servers: Record<string, number> };
    expect(summary).toMatchObject({ lost: 0, wrongServer: 0, unansweredPlayers: 0 });
    // Round-robin gave each login service as many; each of these plays on the server beside it.
    expect(summary.servers).toEqual({ 1: PLAYERS / SERVERS, 2: PLAYERS / SERVERS, 3: PLAYERS / SERVERS });
    const played = await serversByIp(relay);
    expect(played.size).toBe(PLAYERS);
    for (const [ip, server] of played) {
      const { body } = await relay.request<object>(`/v1/pin-groups/players/pins/${ip}`);
      expect(body).toMatchObject({ backends: { 'game-servers': server, logins: server } });
      expect(await logIn(relay, ip)).toBe(server);
    }
    for (const { process } of servers) {
      process.signal('SIGTERM');
      const { logins } = (await process.event('summary')) as { logins: LoginCounts };
      expect(logins.welcomed).toBe(PLAYERS / SERVERS);
    }
  });

  test('login and play meet again when a server has died', async () => {
    const { relay, servers } = await start(config);
    const players = await stage.players(12, relay.listener('game'));
    const before = await serversByIp(relay);
    for (const [ip, server] of before) expect(await logIn(relay, ip)).toBe(server);

    const [lost] = before.values();
    servers.find(({ backendId }) => backendId === lost)!.process.signal('SIGKILL');
    const ids = servers.map(({ backendId }) => backendId);
    const states = (dead: string) => ids.map((id) => [id, id === lost ? dead : 'ready'] as const);
    await relay.untilStates(Object.fromEntries(states('unhealthy')), 'logins');
    await relay.untilStates(Object.fromEntries(states('ready').filter(([id]) => id !== lost)));
    await Promise.all(players.map((player) => player.answers(10)));
    const after = await serversByIp(relay);
    for (const [ip, server] of before) {
      if (server === lost) expect(after.get(ip)).not.toBe(server);
      else expect(after.get(ip)).toBe(server);
      expect(await logIn(relay, ip)).toBe(after.get(ip));
    }
  });

  test('a reload brings the group to players who play on, and takes it away', async () => {
    const { relay, logins } = await start(config, {});
    const players = await stage.players(12, relay.listener('game'));
    const before = await serversByIp(relay);
    const opened = await relay.metric('sessions_opened_total');
    relay.writeConfig(configOf(config, logins, GROUPED));
    expect(await relay.reload()).toBe(true);
    for (const [ip, server] of before) expect(await logIn(relay, ip)).toBe(server);
    relay.writeConfig(configOf(config, logins, {}));
    expect(await relay.reload()).toBe(true);
    const served = new Set<string>();
    for (let i = 0; i < SERVERS; i++) served.add(await logIn(relay, '127.20.0.1'));
    expect(served.size).toBe(SERVERS);
    await Promise.all(players.map((player) => player.answers(10)));
    expect(await serversByIp(relay)).toEqual(before);
    expect(await relay.metric('sessions_opened_total')).toBe(opened);
  });
});

const noKernel = whyUnavailable() ?? network;
if (noKernel !== undefined) test.skip(`skipped: ${noKernel}`, () => undefined);
else {
  test('a relay that takes over from a dead one sends logins to where the players still are', async () => {
    const bpffs = stage.closing(new BpfFileSystem());
    const rest = { engine: 'kernel', kernel: { bpffs: bpffs.path, sourceAddress: 'client' } };
    const { relay, servers, logins } = await start(rest);
    // The logins come first and in turn, so that the pins of the group are other ones than the hash would make.
    const before = new Map<string, string>();
    for (let i = 1; i <= 12; i++) before.set(`127.20.0.${i}`, await logIn(relay, `127.20.0.${i}`));
    const players = await stage.players(12, relay.listener('game'));
    expect(await serversByIp(relay)).toEqual(before);
    relay.process.signal('SIGKILL');
    await relay.process.ended(20_000);

    const config = configOf(rest, logins, GROUPED) as { listeners: object[]; pools: Record<string, object> };
    const registration = { ...LOOPBACK, settle: '2s' };
    const successor = await stage.relay({
      ...config,
      pools: { ...config.pools, 'game-servers': { registration, healthCheck: HEARTBEAT } },
      listeners: config.listeners.map((listener, i) => ({
        ...listener,
        listen: relay.listener(i === 0 ? 'game' : 'login').toString(),
      })),
      admin: { listen: relay.admin.replace('http://', '') },
    });
    const ready = Object.fromEntries(servers.map(({ backendId }) => [backendId, 'ready']));
    await successor.untilStates(ready);
    await Promise.all(players.map((player) => player.answers(10)));
    expect(await serversByIp(successor)).toEqual(before);
    for (const [ip, server] of before) expect(await logIn(successor, ip)).toBe(server);
  });
}
