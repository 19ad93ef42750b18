/** A game server that dies, hangs or comes back moves its own players and nobody else. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { tickrelay } from '../../bench/process-group.ts';
import { gameConfig, HEARTBEAT, LOOPBACK, UDP_PROBE, type GameServerProcess } from '../support/game-fleet.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const READY = { 'server-1': 'ready', 'server-2': 'ready', 'server-3': 'ready' };

async function relayWithRegisteredServers(): Promise<[RelayProcess, GameServerProcess[]]> {
  const relay = await stage.relay(gameConfig({ pool: { healthCheck: HEARTBEAT, registration: LOOPBACK } }));
  const servers = await stage.gameServers(3, { register: relay });
  await relay.untilStates(READY);
  return [relay, servers];
}

async function relayWithProbedServers(): Promise<[RelayProcess, GameServerProcess[]]> {
  const servers = await stage.gameServers(3);
  const backends = servers.map(({ backendId, endpoint }) => ({
    id: backendId,
    address: endpoint.toString(),
  }));
  const relay = await stage.relay(gameConfig({ pool: { healthCheck: UDP_PROBE, backends } }));
  return [relay, servers];
}

/** Those who play on the server, and the others. */
function split(
  players: readonly SteadyPlayer[],
  { id }: GameServerProcess,
): [SteadyPlayer[], SteadyPlayer[]] {
  return [players.filter(({ server }) => server === id), players.filter(({ server }) => server !== id)];
}

/** Waits until each was answered by another server than this one. */
async function untilMoved(players: readonly SteadyPlayer[], { id }: GameServerProcess): Promise<void> {
  await until(`players to leave server ${id}`, () => players.every(({ server }) => server !== id));
}

test('kill -9 of one of three servers moves its players and loses nothing of the others', async () => {
  const [relay, [first]] = (await relayWithRegisteredServers()) as [RelayProcess, [GameServerProcess]];
  const players = await stage.players(30, relay.listener());
  const [orphans, others] = split(players, first);
  expect(orphans.length).toBeGreaterThan(0);

  first.process.signal('SIGKILL');
  await untilMoved(orphans, first);
  await Promise.all(players.map((player) => player.answers(20)));
  await settle(players);

  expect(disturbed(others)).toEqual([]);
  for (const { servers, strays } of orphans) {
    expect(servers).toHaveLength(2);
    expect(strays).toBe(0);
  }
  const page = await relay.metrics();
  expect(page.value('sessions_repinned_total')).toBe(orphans.length);
  expect(page.value('sessions_opened_total')).toBe(30);
  expect(page.value('sessions')).toBe(30);
  expect(page.value('registrations_total', { result: 'expired' })).toBe(1);
  expect(page.value('backend_sessions', { backend: 'server-1' })).toBeUndefined();
  expect(page.value('backend_sessions')).toBe(30);
  expect(page.unaccounted('game', 'downstream')).toBe(0);
  expect(page.unaccounted('game', 'upstream')).toBe(0);
});

test('the bots see each player of a killed server change its server once, and no other', async () => {
  const [relay, servers] = await relayWithRegisteredServers();
  const load = ['--players', '40', '--tick', '64', '--ramp', '200ms', '--duration', '60s'];
  const bots = stage.start(
    tickrelay('bots', ['bots', '--json', '--target', relay.listener().toString(), ...load]),
  );
  await bots.event('ready');
  await relay.untilMetric('sessions', {}, 40);
  const before = await relay.serversByClient();
  const orphans = [...before].filter(([, id]) => id === 'server-2').map(([client]) => client);
  expect(orphans.length).toBeGreaterThan(0);

  servers[1]!.process.signal('SIGKILL');
  await relay.untilMetric('sessions_repinned_total', {}, orphans.length);
  const moved = new Map((await relay.sessions()).map((row) => [row.client, row]));
  await until('answers to the moved players', async () =>
    (await relay.sessions())
      .filter(({ client }) => orphans.includes(client))
      .every(({ client, upstreamDatagrams }) => upstreamDatagrams > moved.get(client)!.upstreamDatagrams),
  );
  for (const [client, id] of before) {
    if (id === 'server-2') expect(moved.get(client)!.backend).not.toBe('server-2');
    else expect(moved.get(client)!.backend).toBe(id);
  }

  bots.signal('SIGTERM');
  const summary = await bots.event('summary');
  expect(summary).toMatchObject({ players: 40, wrongServer: orphans.length, unansweredPlayers: 0 });
  expect(summary).toMatchObject({ foreign: 0, unknown: 0, malformed: 0, wrongSource: 0, duplicates: 0 });
  expect(Object.keys(summary['servers'] as object).sort()).toEqual(['1', '3']);
});

test('a stopped server is ejected, comes back when it goes on, and nobody else moves', async () => {
  const [relay, [, second]] = (await relayWithProbedServers()) as [
    RelayProcess,
    [GameServerProcess, GameServerProcess],
  ];
  const players = await stage.players(30, relay.listener());
  const [orphans, others] = split(players, second);
  expect(orphans.length).toBeGreaterThan(0);

  second.process.signal('SIGSTOP');
  await relay.untilStates({ ...READY, 'server-2': 'unhealthy' });
  await untilMoved(orphans, second);
  second.process.signal('SIGCONT');
  await relay.untilStates(READY);
  const newcomers = await stage.players(30, relay.listener(), '127.20.1');
  await Promise.all(players.map((player) => player.answers(20)));
  await settle(players);

  expect(disturbed(others)).toEqual([]);
  for (const { servers } of orphans) expect(servers.filter((id) => id !== second.id)).toHaveLength(1);
  for (const { server } of orphans) expect(server).not.toBe(second.id);
  expect(newcomers.some(({ server }) => server === second.id)).toBe(true);
  expect(await relay.metric('sessions_repinned_total')).toBe(orphans.length);
});

test('with every server down datagrams are counted drops, and service resumes without a restart', async () => {
  const [relay, servers] = await relayWithProbedServers();
  const players = await stage.players(12, relay.listener());
  for (const server of servers) server.process.signal('SIGSTOP');
  await relay.untilStates({ 'server-1': 'unhealthy', 'server-2': 'unhealthy', 'server-3': 'unhealthy' });
  const newcomer = stage.player('127.20.2.1:0', relay.listener());
  newcomer.begin();
  const noBackend = { listener: 'game', direction: 'downstream', reason: 'no-backend' };
  await until('drops of the reason no-backend', async () => {
    const drops = await relay.metric('datagrams_dropped_total', noBackend);
    return drops !== undefined && drops >= 20;
  });
  expect((await relay.request('/readyz')).body).toMatchObject({
    ready: true,
    poolsWithoutBackend: ['game-servers'],
  });

  for (const server of servers) server.process.signal('SIGCONT');
  await relay.untilStates(READY);
  await Promise.all([...players, newcomer].map((player) => player.answers(10)));
  await settle([...players, newcomer]);
  expect((await relay.metrics()).unaccounted('game', 'downstream')).toBe(0);
  expect(relay.process.exit).toBeUndefined();
});
