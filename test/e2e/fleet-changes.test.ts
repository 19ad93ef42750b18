/** Servers come and go under load, by registration, by reload and by drain: only who must move does, once. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { gameConfig, HEARTBEAT, LOOPBACK, type GameServerProcess } from '../support/game-fleet.ts';
import type { Answer, BackendRow } from '../support/relay-process.ts';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const onServer = (players: readonly SteadyPlayer[], id: number): SteadyPlayer[] =>
  players.filter(({ server }) => server === id);
const notOnServer = (players: readonly SteadyPlayer[], id: number): SteadyPlayer[] =>
  players.filter(({ server }) => server !== id);

async function untilMoved(players: readonly SteadyPlayer[], id: number): Promise<void> {
  await until(`players to leave server ${id}`, () => onServer(players, id).length === 0);
}

test('servers that register and leave under load take only their own players with them', async () => {
  const relay = await stage.relay(gameConfig({ pool: { healthCheck: HEARTBEAT, registration: LOOPBACK } }));
  await stage.gameServers(2, { register: relay });
  await relay.untilStates({ 'server-1': 'ready', 'server-2': 'ready' });
  const players = await stage.players(24, relay.listener());

  const third = await stage.gameServer({ id: 3, register: relay });
  await relay.untilStates({ 'server-1': 'ready', 'server-2': 'ready', 'server-3': 'ready' });
  const newcomers = await stage.players(24, relay.listener(), '127.20.1');
  await Promise.all(players.map((player) => player.answers(10)));
  expect(players.map(({ servers }) => servers.length)).toEqual(players.map(() => 1));
  const leavers = onServer(newcomers, 3);
  expect(leavers.length).toBeGreaterThan(0);

  third.process.signal('SIGTERM');
  await untilMoved(leavers, 3);
  await Promise.all(newcomers.map((player) => player.answers(10)));
  await settle([...players, ...newcomers]);
  expect(disturbed([...players, ...newcomers.filter((player) => !leavers.includes(player))])).toEqual([]);
  for (const { servers } of leavers) expect(servers).toHaveLength(2);
  expect(await relay.metric('sessions_repinned_total')).toBe(leavers.length);
  expect(await relay.metric('registrations_total', { result: 'left' })).toBe(1);
  expect((await third.process.ended(20_000)).code).toBe(0);
});

test('a backend registered by hand and removed again moves nobody who was not on it', async () => {
  const relay = await stage.relay(
    gameConfig({
      pool: {
        registration: { ...LOOPBACK, settle: '0ms' },
        healthCheck: { type: 'none', interval: '60s' },
      },
    }),
  );
  const [first, second] = (await stage.gameServers(2)) as [GameServerProcess, GameServerProcess];
  const path = (id: string): string => `/v1/pools/game-servers/backends/${id}`;
  const body = ({ endpoint }: GameServerProcess): object => ({ address: endpoint.toString() });
  await relay.request(path('a'), { method: 'PUT', body: body(first) });
  const players = await stage.players(16, relay.listener());
  expect((await relay.request(path('b'), { method: 'PUT', body: body(second) })).status).toBe(200);
  const newcomers = await stage.players(16, relay.listener(), '127.20.1');
  const onSecond = onServer(newcomers, 2);
  expect(onSecond.length).toBeGreaterThan(0);
  expect((await relay.request(path('b'), { method: 'DELETE' })).status).toBe(204);
  await untilMoved(onSecond, 2);
  await Promise.all(newcomers.map((player) => player.answers(10)));
  await settle([...players, ...newcomers]);
  expect(disturbed([...players, ...newcomers.filter((player) => !onSecond.includes(player))])).toEqual([]);
  expect(await relay.metric('sessions_repinned_total')).toBe(onSecond.length);
});

test('a reload that adds a server moves nobody, one that removes a server moves its players', async () => {
  const servers = await stage.gameServers(3);
  const [a, b, c] = servers.map(({ endpoint }) => endpoint.toString());
  const relay = await stage.relay(gameConfig({ pool: { backends: [a, b] } }));
  const players = await stage.players(24, relay.listener());
  const leavers = onServer(players, 1);
  expect(leavers.length).toBeGreaterThan(0);

  relay.writeConfig(gameConfig({ pool: { backends: [a, b, c] } }));
  expect(await relay.reload()).toBe(true);
  await Promise.all(players.map((player) => player.answers(10)));
  expect(players.map((player) => player.servers.length)).toEqual(players.map(() => 1));

  relay.writeConfig(gameConfig({ pool: { backends: [b, c] } }));
  expect(await relay.reload()).toBe(true);
  await untilMoved(leavers, 1);
  await Promise.all(players.map((player) => player.answers(10)));
  await settle(players);
  expect(disturbed(players.filter((player) => !leavers.includes(player)))).toEqual([]);
  for (const player of leavers) expect(player.servers).toHaveLength(2);
  expect(await relay.metric('sessions_repinned_total')).toBe(leavers.length);
});

test('a draining server keeps its players and gets no new ones until it is enabled', async () => {
  const servers = await stage.gameServers(2);
  const backends = servers.map(({ backendId, endpoint }) => ({
    id: backendId,
    address: endpoint.toString(),
  }));
  const relay = await stage.relay(gameConfig({ pool: { backends } }));
  const players = await stage.players(16, relay.listener());
  expect(onServer(players, 1).length).toBeGreaterThan(0);

  const operate = (what: string): Promise<Answer<BackendRow>> =>
    relay.request(`/v1/pools/game-servers/backends/server-1/${what}`, { method: 'POST' });
  expect(await operate('drain')).toMatchObject({ status: 200, body: { state: 'draining' } });
  const duringDrain = await stage.players(16, relay.listener(), '127.20.1');
  expect(duringDrain.map(({ server }) => server)).toEqual(duringDrain.map(() => 2));
  const rejoined = stage.player(`${onServer(players, 1)[0]!.address.split(':')[0]}:0`, relay.listener());
  await rejoined.start();
  expect(rejoined.server).toBe(1);

  expect(await operate('enable')).toMatchObject({ status: 200, body: { state: 'ready' } });
  const afterDrain = await stage.players(16, relay.listener(), '127.20.2');
  expect(onServer(afterDrain, 1).length).toBeGreaterThan(0);
  const everybody = [...players, ...duringDrain, rejoined, ...afterDrain];
  await Promise.all(everybody.map((player) => player.answers(10)));
  await settle(everybody);
  expect(disturbed(everybody)).toEqual([]);
  expect(await relay.metric('sessions_repinned_total')).toBe(0);
});

test('a disabled server loses its players at once and gets new ones when it is enabled', async () => {
  const servers = await stage.gameServers(2);
  const backends = servers.map(({ backendId, endpoint }) => ({
    id: backendId,
    address: endpoint.toString(),
  }));
  const relay = await stage.relay(gameConfig({ pool: { backends } }));
  const players = await stage.players(16, relay.listener());
  const leavers = onServer(players, 1);
  const stayers = notOnServer(players, 1);
  const operate = (what: string): Promise<Answer<BackendRow>> =>
    relay.request(`/v1/pools/game-servers/backends/server-1/${what}`, { method: 'POST' });
  expect(await operate('disable')).toMatchObject({ status: 200, body: { state: 'disabled' } });
  await untilMoved(leavers, 1);
  expect(await operate('enable')).toMatchObject({ status: 200, body: { state: 'ready' } });
  const newcomers = await stage.players(16, relay.listener(), '127.20.1');
  expect(onServer(newcomers, 1).length).toBeGreaterThan(0);
  await Promise.all(players.map((player) => player.answers(10)));
  await settle(players);
  expect(disturbed(stayers)).toEqual([]);
  for (const { servers: visited } of leavers) expect(visited).toEqual([1, 2]);
});
