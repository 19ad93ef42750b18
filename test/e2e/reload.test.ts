/** A new configuration is taken over whole or not at all, and players who are not concerned notice nothing. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { testOnce } from '../support/engine-pass.ts';
import { gameConfig } from '../support/game-fleet.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

const fleet = new Stage();
let backends: string[];
let stage: Stage;
let relay: RelayProcess;

/** The first listener, which every configuration here has. */
const GAME = { name: 'game', protocol: 'udp', listen: '127.0.0.1:0', pool: 'game-servers' };

beforeAll(async () => {
  backends = (await fleet.gameServers(2)).map(({ endpoint }) => endpoint.toString());
});
afterAll(() => fleet.close());

beforeEach(async () => {
  stage = new Stage();
  relay = await stage.relay(config());
});

afterEach(() => stage.close());

function config(listeners: readonly object[] = [GAME], rest: object = {}): object {
  return gameConfig({ pool: { backends }, rest: { listeners, ...rest } });
}

/** Plays on, stops, and shows that the player noticed nothing. */
async function expectUndisturbed(players: readonly SteadyPlayer[]): Promise<void> {
  await Promise.all(players.map((player) => player.answers(10)));
  await settle(players);
  expect(disturbed(players)).toEqual([]);
}

/** The running configuration, as the admin API shows it. */
async function running(): Promise<unknown> {
  return (await relay.request<object>('/v1/config')).body;
}

/** A UDP port that somebody else has. */
async function takenUdpPort(): Promise<Endpoint> {
  const socket: Socket = createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  stage.closing({ close: () => void socket.close() });
  return Endpoint.parse(`127.0.0.1:${socket.address().port}`);
}

/** A UDP port that nobody has, a moment ago. */
async function freeUdpPort(): Promise<Endpoint> {
  const peer = stage.peer('127.0.0.1:0');
  await peer.close();
  return peer.local;
}

testOnce('a broken file leaves the old configuration in force, and the log names what is wrong', async () => {
  const players = await stage.players(6, relay.listener());
  const before = await running();

  relay.writeConfig(config([{ ...GAME, idleTimeout: 'soon', algorythm: 'ip-hash' }]));
  expect(await relay.reload()).toBe(false);
  const log = relay.process.stderr;
  expect(log).toContain('the old one stays in force');
  expect(log).toContain('relay.yaml');
  expect(log).toContain('listeners[0].idleTimeout: \\"soon\\" should be a duration with a unit');
  expect(log).toContain('listeners[0].algorythm: is not a key here; did you mean \\"algorithm\\"?');
  expect(await running()).toEqual(before);

  relay.writeConfig('listeners: [ {');
  expect(await relay.reload()).toBe(false);
  expect(await running()).toEqual(before);
  expect(await relay.metric('config_reloads_total', { result: 'failed' })).toBe(2);
  await expectUndisturbed(players);
});

testOnce(
  'bad YAML sent to the admin API is refused with the key and value, and nothing changes',
  async () => {
    const players = await stage.players(6, relay.listener());
    const before = await running();
    const yaml = [
      'listeners:',
      '  - { name: game, protocol: udp, listen: "127.0.0.1", pool: game-server }',
      'pools: { game-servers: {} }',
    ].join('\n');
    const { status, body } = await relay.request('/v1/config', { method: 'PUT', body: yaml });
    expect(status).toBe(422);
    expect(body.code).toBe('TICKRELAY_ERR_CONFIG');
    expect(body.message).toContain('listeners[0].listen: "127.0.0.1" should be an IP address with a port');
    expect(await relay.metric('config_last_reload_successful')).toBe(0);
    expect(await running()).toEqual(before);
    await expectUndisturbed(players);
  },
);

testOnce('a reload without an admin section leaves the admin server as closed as it was', async () => {
  const token = 'a-token-of-the-admin-api';
  const closed = await stage.relay(config([GAME], { admin: { listen: '127.0.0.1:0', token } }));
  const { listeners, pools } = config() as { listeners: object; pools: object };
  const { status } = await closed.request('/v1/config', { method: 'PUT', body: { listeners, pools }, token });
  expect(status).toBe(200);
  expect((await closed.request('/v1/config')).status).toBe(401);
  expect((await closed.request('/v1/config', { token })).status).toBe(200);
});

test('after a bad reload a good one works: listeners come and go, rules change, players stay', async () => {
  const players = await stage.players(6, relay.listener());
  relay.writeConfig('nonsense');
  expect(await relay.reload()).toBe(false);

  const arena = await freeUdpPort();
  relay.writeConfig(
    config([
      { ...GAME, idleTimeout: '90s' },
      { ...GAME, name: 'arena', listen: arena.toString() },
    ]),
  );
  expect(await relay.reload()).toBe(true);
  const visitors = await stage.players(3, arena, '127.20.5');
  expect(await running()).toMatchObject({
    listeners: [{ name: 'game', idleTimeout: '90s' }, { name: 'arena' }],
  });
  expect(await relay.metric('sessions', { listener: 'arena' })).toBe(3);

  await settle(visitors);
  const { status, body } = await relay.request<{ applied: boolean }>('/v1/config', {
    method: 'PUT',
    body: JSON.stringify(config([{ ...GAME, idleTimeout: '200ms' }])),
  });
  expect({ status, applied: body.applied }).toEqual({ status: 200, applied: true });
  expect(await relay.metric('sessions', { listener: 'arena' })).toBeUndefined();
  // Its address is free again.
  stage.peer(arena.toString());

  const [leaver, ...stayers] = players;
  await leaver!.stop();
  await until('the session of the silent player to end by the new rule', async () =>
    (await relay.sessions()).every(({ client }) => client !== leaver!.address),
  );
  expect(await relay.metric('config_last_reload_successful')).toBe(1);
  await expectUndisturbed(stayers);
});

test('a reload whose new listener address is taken leaves everything as it was', async () => {
  const players = await stage.players(6, relay.listener());
  const before = await running();
  const taken = await takenUdpPort();
  const free = await freeUdpPort();
  relay.writeConfig(
    config([
      { ...GAME, idleTimeout: '1s' },
      { ...GAME, name: 'first', listen: free.toString() },
      { ...GAME, name: 'second', listen: taken.toString() },
    ]),
  );
  expect(await relay.reload()).toBe(false);
  expect(relay.process.stderr).toContain(`can't bind UDP ${taken.toString()}`);
  expect(await running()).toEqual(before);
  expect(await relay.metric('sessions', { listener: 'first' })).toBeUndefined();
  stage.peer(free.toString());
  await expectUndisturbed(players);
});

test('a reload that moves a listener to a taken address leaves its players where they are', async () => {
  const players = await stage.players(6, relay.listener());
  const before = await running();
  const taken = await takenUdpPort();
  const answer = await relay.request('/v1/config', {
    method: 'PUT',
    body: JSON.stringify(config([{ ...GAME, listen: taken.toString() }])),
  });
  expect(answer).toMatchObject({ status: 422, body: { code: 'TICKRELAY_ERR_BIND' } });
  expect(answer.body.message).toContain(taken.toString());
  expect(await running()).toEqual(before);
  expect(await relay.metric('sessions')).toBe(6);
  await expectUndisturbed(players);
});

test('a reload may move a listener, and give its address to another one', async () => {
  const [here, there] = [await freeUdpPort(), await freeUdpPort()];
  relay.writeConfig(config([GAME, { ...GAME, name: 'arena', listen: here.toString() }]));
  expect(await relay.reload()).toBe(true);
  relay.writeConfig(
    config([
      GAME,
      { ...GAME, name: 'arena', listen: there.toString() },
      { ...GAME, name: 'duel', listen: here.toString() },
    ]),
  );
  expect(await relay.reload()).toBe(true);
  await stage.players(2, there, '127.20.6');
  await stage.players(3, here, '127.20.7');
  expect(await relay.metric('sessions', { listener: 'arena' })).toBe(2);
  expect(await relay.metric('sessions', { listener: 'duel' })).toBe(3);
});

test('a reload may rename a listener and keep its address', async () => {
  const here = await freeUdpPort();
  relay.writeConfig(config([GAME, { ...GAME, name: 'arena', listen: here.toString() }]));
  expect(await relay.reload()).toBe(true);
  relay.writeConfig(config([GAME, { ...GAME, name: 'colosseum', listen: here.toString() }]));
  expect(await relay.reload()).toBe(true);
  await stage.players(2, here, '127.20.6');
  expect(await relay.metric('sessions', { listener: 'colosseum' })).toBe(2);
  expect(await relay.metric('sessions', { listener: 'arena' })).toBeUndefined();
});

test('a TCP listener can be added and removed by reloads', async () => {
  const backend = createServer((socket) => socket.end('hello'));
  backend.listen(0, '127.0.0.1');
  await once(backend, 'listening');
  stage.closing({ close: () => void backend.close() });
  const { port } = backend.address() as { port: number };
  const pools = { 'game-servers': { backends }, postgres: { backends: [`127.0.0.1:${port}`] } };
  const login = { name: 'login', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'postgres' };
  relay.writeConfig(config([GAME, login], { pools }));
  expect(await relay.reload()).toBe(true);
  expect(await relay.metric('tcp_connections', { listener: 'login' })).toBe(0);
  relay.writeConfig(config());
  expect(await relay.reload()).toBe(true);
  expect(await relay.metric('tcp_connections', { listener: 'login' })).toBeUndefined();
});

testOnce('a relay that was started with flags has no file to read again, and says so', async () => {
  const flagged = await stage.relayFromFlags([
    '--udp',
    '127.0.0.1:0',
    '--backend',
    backends[0]!,
    '--admin',
    '127.0.0.1:0',
  ]);
  const answer = await flagged.request('/v1/config', { method: 'PUT' });
  expect(answer).toMatchObject({ status: 422, body: { code: 'TICKRELAY_ERR_CONFIG' } });
  expect(answer.body.message).toContain('started without a configuration file');
  await stage.players(1, flagged.listener());
});

testOnce('flags beside the file hold through a reload', async () => {
  const silent = await stage.relay(config(), ['--log-level', 'silent']);
  expect(await silent.reload()).toBe(true);
  silent.writeConfig('nonsense');
  expect(await silent.reload()).toBe(false);
  expect(silent.process.stderr).toBe('');
  expect((await silent.request('/v1/config')).body).toMatchObject({ log: { level: 'silent' } });
});
