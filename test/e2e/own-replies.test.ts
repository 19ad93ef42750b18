/** Whoever shares an address, or changes its port, gets the answers to its own updates and nobody else's. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';
import { Stage } from '../support/stage.ts';
import type { RelayProcess } from '../support/relay-process.ts';

const fleet = new Stage();
let backends: string[];
let stage: Stage;
let relay: RelayProcess;

beforeAll(async () => {
  backends = (await fleet.gameServers(3)).flatMap(({ endpoint }) => ['--backend', endpoint.toString()]);
});
afterAll(() => fleet.close());

beforeEach(async () => {
  stage = new Stage();
  relay = await stage.relayFromFlags(['--udp', '127.0.0.1:0', ...backends, '--admin', '127.0.0.1:0']);
});

afterEach(() => stage.close());

test('two clients on one IP share a server and each get their own replies', async () => {
  const players = [
    stage.player('127.20.0.1:0', relay.listener()),
    stage.player('127.20.0.1:0', relay.listener()),
  ];
  await Promise.all(players.map((player) => player.start()));
  await Promise.all(players.map((player) => player.answers(20)));
  await settle(players);
  expect(disturbed(players)).toEqual([]);
  expect(players[0]!.servers).toHaveLength(1);
  expect(players[1]!.servers).toEqual(players[0]!.servers);
});

test('a client that changes its port stays on its server and gets no reply twice', async () => {
  const first = stage.player('127.20.0.7:0', relay.listener());
  await first.start();
  const moves: SteadyPlayer[] = [first];
  for (let i = 0; i < 5; i++) {
    const next = stage.player('127.20.0.7:0', relay.listener());
    await next.start();
    await next.answers(5);
    moves.push(next);
  }
  await settle(moves);
  expect(disturbed(moves)).toEqual([]);
  expect(new Set(moves.flatMap(({ servers }) => servers)).size).toBe(1);
});

test('players on ten addresses with four ports each, over three servers, are never mixed up', async () => {
  const players = Array.from({ length: 40 }, (_, i) =>
    stage.player(`127.20.1.${(i % 10) + 1}:0`, relay.listener()),
  );
  await Promise.all(players.map((player) => player.start()));
  await Promise.all(players.map((player) => player.answers(10)));
  await settle(players);
  expect(disturbed(players)).toEqual([]);
  players.forEach(({ servers }, i) => expect(servers).toEqual(players[i % 10]!.servers));
  expect(new Set(players.map(({ server }) => server)).size).toBeGreaterThan(1);

  const page = await relay.metrics();
  const [listener] = relay.listenerNames as [string];
  expect(page.value('sessions', { listener })).toBe(40);
  expect(page.unaccounted(listener, 'downstream')).toBe(0);
  expect(page.unaccounted(listener, 'upstream')).toBe(0);
});
