import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { expect, onTestFinished, test, vi } from 'vitest';
import { parseConfig } from '../../../relay/control/config.ts';
import { createRig } from './control-rig.ts';

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
  await rig.control.applyConfig(next);
  expect(rig.snapshots.map(({ pool, ready }) => [pool, ready.length])).toEqual([
    ['old', 0],
    ['more', 1],
  ]);
  expect(() => rig.control.pool('old')).toThrow('no such pool');
});
