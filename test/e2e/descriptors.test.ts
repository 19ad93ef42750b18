/** After the load a relay has the descriptors that it had before. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { gameConfig } from '../support/game-fleet.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

/** An upstream socket rests for 30 seconds before it is closed. */
const REST_MS = 30_000;

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

test(
  'sessions, upstream sockets and descriptors return to where they were',
  async () => {
    const server = await stage.gameServer({ id: 1 });
    const backends = [server.endpoint.toString()];
    const relay = await stage.relay(
      gameConfig({ listener: { idleTimeout: '500ms', pinTimeout: '500ms' }, pool: { backends } }),
    );
    const before = relay.descriptors;
    const players = await stage.players(60, relay.listener());
    expect(relay.descriptors).toBeGreaterThanOrEqual(before + 60);
    expect(await relay.metric('upstream_sockets')).toBe(60);

    await Promise.all(players.map((player) => player.close()));
    await relay.untilMetric('sessions', {}, 0);
    await until('the pins to end', async () => (await relay.metric('pins')) === 0);
    await until('the descriptors to be closed', () => relay.descriptors <= before, 2 * REST_MS);
    expect(await relay.metric('upstream_sockets')).toBe(0);
  },
  4 * REST_MS,
);

test('a listener that a reload removes gives its descriptors back at once', async () => {
  const server = await stage.gameServer({ id: 1 });
  const backends = [server.endpoint.toString()];
  const game = { name: 'game', protocol: 'udp', listen: '127.0.0.1:0', pool: 'game-servers' };
  const arena = { ...game, name: 'arena' };
  const config = (...listeners: object[]): object => gameConfig({ pool: { backends }, rest: { listeners } });
  const relay = await stage.relay(config(game, arena));
  const before = relay.descriptors;
  const players = await stage.players(20, relay.listener('arena'));
  expect(relay.descriptors).toBeGreaterThanOrEqual(before + 20);
  await Promise.all(players.map((player) => player.close()));
  relay.writeConfig(config(game));
  expect(await relay.reload()).toBe(true);
  await until('the descriptors to be closed', () => relay.descriptors < before);
});
