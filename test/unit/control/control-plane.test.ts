import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { parseConfig } from '../../../relay/control/config.ts';
import { createRig, RIG_CONFIG } from './control-rig.ts';

const config = (pools: string): string => `
listeners: [ { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: games } ]
pools: { ${pools} }`;

const openServer = async (port = 0) => {
  const server = createServer((socket) => socket.on('error', () => undefined));
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  return { server, port: (server.address() as AddressInfo).port };
};

test('a backend that stops is found, and one that comes back serves again', async () => {
  const { server, port } = await openServer();
  const other = await openServer();
  const rig = createRig(
    config(
      `games: { healthCheck: { type: tcp, interval: 50ms, rise: 2, fall: 3 }, backends: ["127.0.0.1:${port}", "127.0.0.1:${other.port}"] }`,
    ),
  );
  const states = (): string[] =>
    rig.control
      .pool('games')
      .view()
      .backends.map(({ state }) => state);
  await vi.waitFor(() => expect(rig.control.pool('games').counts().checks.ok).toBeGreaterThan(2));
  expect(states()).toEqual(['ready', 'ready']);
  server.close();
  await vi.waitFor(() => expect(states()).toEqual(['unhealthy', 'ready']), 10_000);
  expect(rig.control.pool('games').view().backends[0]?.failure).toBe('ECONNREFUSED');
  await openServer(port);
  await vi.waitFor(() => expect(states()).toEqual(['ready', 'ready']), 10_000);
});

test('all backends down and back: the pool empties and fills again by itself', async () => {
  const { server, port } = await openServer();
  const rig = createRig(
    config(
      `games: { healthCheck: { type: tcp, interval: 50ms, rise: 1, fall: 1 }, backends: ["127.0.0.1:${port}"] }`,
    ),
  );
  server.close();
  await vi.waitFor(() => expect(rig.snapshots.at(-1)?.ready).toHaveLength(0), 10_000);
  await openServer(port);
  await vi.waitFor(() => expect(rig.snapshots.at(-1)?.ready).toHaveLength(1), 10_000);
});

test('a reload opens new pools, publishes removed ones empty, and leaves the others alone', async () => {
  const rig = createRig(config('games: { backends: ["10.0.0.1:1"] }, old: { backends: ["10.0.0.2:1"] }'));
  expect(rig.snapshots.map(({ pool }) => pool)).toEqual(['games', 'old']);
  rig.snapshots.length = 0;
  const next = parseConfig(
    config('games: { backends: ["10.0.0.1:1"] }, more: { backends: ["10.0.0.3:1"] }'),
  ).config;
  const published = (): unknown[] => rig.snapshots.map(({ pool, ready }) => [pool, ready.length]);
  expect(await rig.control.openNew(next)).toEqual(['more']);
  expect(published()).toEqual([['more', 1]]);
  await rig.control.applyConfig(next);
  expect(published()).toEqual([
    ['more', 1],
    ['old', 0],
  ]);
  expect(() => rig.control.pool('old')).toThrow('no such pool');
});

test('pools that were opened for listeners that could not be had are dropped again', async () => {
  const rig = createRig(config('games: { backends: ["10.0.0.1:1"] }'));
  const next = parseConfig(
    config('games: { backends: ["10.0.0.1:1"] }, more: { backends: ["10.0.0.3:1"] }'),
  ).config;
  await rig.control.abandon(await rig.control.openNew(next));
  expect(rig.control.pools().map((pool) => pool.config.name)).toEqual(['games']);
  expect(rig.snapshots.at(-1)).toMatchObject({ pool: 'more', ready: new Uint16Array(0) });
});

test('a reload whose backends have no room beside the registered ones is refused whole', async () => {
  const rig = createRig();
  const pool = rig.control.pool('games');
  pool.register('a', { endpoint: Endpoint.parse('10.1.0.9:7777'), weight: 1, players: 0 });
  const addresses = Array.from({ length: 1_024 }, (_, i) => `"10.0.0.1:${i + 1}"`).join(', ');
  const text = RIG_CONFIG.replace('{ id: static-1, address: "10.0.0.1:7777" }', addresses);
  const answer = await rig.server.app.inject({
    method: 'PUT',
    url: '/v1/config',
    payload: text.replace('pools:', 'pools:\n  more: { backends: ["10.0.0.3:1"] }'),
    headers: { 'content-type': 'application/yaml' },
  });
  expect([answer.statusCode, answer.json()]).toMatchObject([
    422,
    {
      code: 'TICKRELAY_ERR_LIMIT',
      message:
        'pools.games.backends: 1024 backends beside 1 that registered are more than the 1024 of a pool',
    },
  ]);
  expect(pool.view().backends.map(({ id }) => id)).toEqual(['static-1', 'a']);
  expect(rig.control.pools()).toHaveLength(2);
});
