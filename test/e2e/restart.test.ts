/** What a crash of the relay costs players whose servers register themselves: datagrams, never their server. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { testOnce } from '../support/engine-pass.ts';
import { gameConfig, HEARTBEAT, LOOPBACK } from '../support/game-fleet.ts';
import { Stage } from '../support/stage.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const READY = { 'server-1': 'ready', 'server-2': 'ready', 'server-3': 'ready' };

test('after kill -9 and a restart every player is on its server again, though servers register one by one', async () => {
  const pool = { healthCheck: HEARTBEAT, registration: { ...LOOPBACK, settle: '3s' } };
  const first = await stage.relay(gameConfig({ pool }));
  await stage.gameServers(3, { register: first });
  await first.untilStates(READY);
  const players = await stage.players(24, first.listener());
  expect(new Set(players.map(({ server }) => server)).size).toBe(3);
  first.process.signal('SIGKILL');
  await first.process.ended(20_000);

  const second = await stage.relay(
    gameConfig({
      listener: { listen: first.listener().toString() },
      pool,
      rest: { admin: { listen: first.admin.replace('http://', '') } },
    }),
  );
  expect(await second.request('/readyz')).toMatchObject({
    status: 503,
    body: { ready: false, reasons: ['pool "game-servers" is settling: its servers register again'] },
  });
  await second.untilStates(READY);
  await Promise.all(players.map((player) => player.answers(10)));
  expect(players.map(({ servers }) => servers.length)).toEqual(players.map(() => 1));
  const noBackend = { listener: 'game', direction: 'downstream', reason: 'no-backend' };
  expect(await second.metric('datagrams_dropped_total', noBackend)).toBeGreaterThan(0);
  expect(await second.metric('sessions_repinned_total')).toBe(0);
});

testOnce('a server that registers with an empty relay that has settled is ready at once', async () => {
  const pool = { healthCheck: HEARTBEAT, registration: LOOPBACK };
  const relay = await stage.relay(gameConfig({ pool }));
  await relay.untilStates({});
  const path = '/v1/pools/game-servers/backends/late';
  const joined = await relay.request(path, { method: 'PUT', body: { address: '127.0.0.3:7777' } });
  expect(joined).toMatchObject({ status: 200, body: { state: 'ready' } });
  expect((await relay.request('/readyz')).body).toMatchObject({ ready: true, poolsWithoutBackend: [] });
});
