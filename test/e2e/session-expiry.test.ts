/** A session ends when its client has been silent for the idle timeout, and only then. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { gameConfig } from '../support/game-fleet.ts';
import { Stage } from '../support/stage.ts';
import { UdpPeer } from '../support/udp-peer.ts';
import { until } from '../support/until.ts';

const fleet = new Stage();
let backends: readonly string[];
let stage: Stage;

beforeAll(async () => {
  backends = (await fleet.gameServers(3)).map(({ endpoint }) => endpoint.toString());
});
afterAll(() => fleet.close());

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

test('a silent client loses its session and a sending one keeps it', async () => {
  const relay = await stage.relay(
    gameConfig({ listener: { idleTimeout: '2s' }, pool: { backends: backends.slice(0, 1) } }),
  );
  expect(relay.process.stderr).toContain(
    'listeners[0].idleTimeout: 2000ms is below the 120s of RFC 4787 REQ-5',
  );

  const [silent, sending] = await stage.players(2, relay.listener());
  await silent!.stop();
  const before = await relay.sessions();
  expect(before.map(({ client }) => client).sort()).toEqual([silent!.address, sending!.address].sort());
  const kept = before.find(({ client }) => client === sending!.address)!;

  await until('the silent session to end', async () => (await relay.sessions()).length === 1);
  const [left] = await relay.sessions();
  expect(left).toMatchObject({ client: sending!.address, upstreamPort: kept.upstreamPort });
  expect(left!.downstreamDatagrams).toBeGreaterThan(kept.downstreamDatagrams);
  expect(await relay.metric('sessions_expired_total')).toBe(1);
  expect(await relay.metric('pins')).toBe(2);
});

test('a client that comes back after its session ended finds its server again', async () => {
  const relay = await stage.relay(gameConfig({ listener: { idleTimeout: '100ms' }, pool: { backends } }));
  const players = await stage.players(12, relay.listener());
  await Promise.all(players.map((player) => player.stop()));
  await relay.untilMetric('sessions', {}, 0);

  const again = await stage.players(12, relay.listener());
  expect(again.map(({ server }) => server)).toEqual(players.map(({ server }) => server));
});

test('a client keeps its session when it was silent for less than the timeout, and gets another one after more', async () => {
  const echo = new UdpPeer('127.0.0.1:0', ({ payload }) => payload);
  const client = new UdpPeer('127.20.0.9:0');
  try {
    const relay = await stage.relay(
      gameConfig({ listener: { idleTimeout: '4s' }, pool: { backends: [echo.local.toString()] } }),
    );
    await client.ask(relay.listener(), 'first');
    const [opened] = await relay.sessions();

    await sleep(2_000);
    await client.ask(relay.listener(), 'before the timeout');
    const [kept] = await relay.sessions();
    expect(kept).toMatchObject({
      upstreamPort: opened!.upstreamPort,
      downstreamDatagrams: 2,
      upstreamDatagrams: 2,
    });
    expect(await relay.metric('sessions_expired_total')).toBe(0);

    await sleep(4_200);
    await client.ask(relay.listener(), 'after the timeout');
    expect(await relay.sessions()).toMatchObject([{ downstreamDatagrams: 1, upstreamDatagrams: 1 }]);
    expect(await relay.metric('sessions_opened_total')).toBe(2);
    expect(await relay.metric('sessions_expired_total')).toBe(1);
  } finally {
    await Promise.all([client.close(), echo.close()]);
  }
}, 20_000);
