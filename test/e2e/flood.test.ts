/**
 * A flood from one address, from more ports than it may have sessions, lasts until everybody else has had what they need: the
 * relay's timers run, servers that send heartbeats and servers that are asked stay in their pools, the admin API answers, and
 * players on other addresses play on.
 */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadLibc } from '../../net/linux/libc.ts';
import { gameConfig, LOOPBACK } from '../support/game-fleet.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

const loaded = loadLibc();
const ENGINES = ['dgram', ...('libc' in loaded ? ['mmsg'] : [])];
if ('unavailable' in loaded) test.skip(`engine mmsg is skipped: ${loaded.unavailable}`, () => undefined);

/** The cap of one address by default is 1,024 sessions. */
const FLOOD_PORTS = 1_200;
/** If nobody ends it before. */
const FLOOD_MS = 30_000;
/** No game server answers it, so that the flood is the relay's to bear. */
const FLOOD_PAYLOAD = 'xyz';
const TIMEOUT_MS = 90_000;

/** Prints `ready`, floods until SIGTERM, and prints how much it sent. */
const FLOOD = `
  const { createSocket } = require('node:dgram');
  const [port, ports, floodMs, payload] = process.argv.slice(1);
  const print = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\\n');
  let sent = 0, bound = 0, isOver = false;
  const finish = () => { isOver = true; print('summary', { sent }); process.exit(); };
  process.on('SIGTERM', finish);
  setTimeout(finish, Number(floodMs));
  const sockets = Array.from({ length: Number(ports) }, () => {
    const socket = createSocket({ type: 'udp4', lookup: (host, _options, done) => done(null, host, 4) });
    return socket.bind(0, '127.66.0.1', () => { if (++bound === Number(ports)) setImmediate(begin); });
  });
  const bytes = Buffer.from(payload);
  function begin() {
    print('ready', {});
    burst();
  }
  function burst() {
    for (let i = 0; i < 64; i++) sockets[sent++ % sockets.length].send(bytes, Number(port), '127.0.0.1');
    if (!isOver) setImmediate(burst);
  }
`;

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

test.each(ENGINES)(
  'engine %s: a flood from one address starves no timer, no health check and no other player',
  async (engine) => {
    const healthCheck = { type: 'heartbeat', interval: '200ms', rise: 2, fall: 15 };
    const relay = await stage.relay(
      gameConfig({ pool: { healthCheck, registration: LOOPBACK }, rest: { engine } }),
    );
    const servers = await stage.gameServers(2, { register: relay });
    const ready = Object.fromEntries(servers.map(({ backendId }) => [backendId, 'ready']));
    await relay.untilStates(ready);
    const players = await stage.players(10, relay.listener());
    const before = players.map(({ servers: [server] }) => server);

    const args = [relay.listener().port, FLOOD_PORTS, FLOOD_MS, FLOOD_PAYLOAD].map(String);
    const flood = stage.start({ name: 'flood', args: ['-e', FLOOD, ...args] });
    await flood.event('ready');
    await until('the flood to reach its cap', async () => {
      if (flood.exit !== undefined) throw new Error(flood.stderr);
      const reason = 'source-session-limit';
      return ((await relay.metric('datagrams_dropped_total', { reason })) ?? 0) > 1_000;
    });
    const renewals = async (): Promise<number> =>
      (await relay.metric('registrations_total', { result: 'renewed' }))!;
    const renewedBefore = await renewals();
    await Promise.all(players.map((player) => player.answers(10)));
    await until('further heartbeats to be taken', async () => (await renewals()) >= renewedBefore + 10);
    expect((await relay.request('/livez')).status).toBe(200);
    expect(flood.exit).toBeUndefined();

    flood.signal('SIGTERM');
    const { sent } = await flood.event('summary');
    await Promise.all(players.map((player) => player.stop()));
    await until('all to be accounted for', async () => {
      const page = await relay.metrics();
      return page.unaccounted('game', 'downstream') === 0 && page.unaccounted('game', 'upstream') === 0;
    });
    expect(players.map(({ servers: list }) => list)).toEqual(before.map((server) => [server]));
    expect(players.map(({ strays }) => strays)).toEqual(players.map(() => 0));
    await relay.untilStates(ready);
    const page = await relay.metrics();
    expect(page.value('registrations_total', { result: 'expired' })).toBe(0);
    expect(page.value('sessions_repinned_total')).toBe(0);
    expect(page.value('sessions_evicted_total')).toBe(0);
    const received = page.value('datagrams_received_total', { direction: 'downstream' })!;
    expect(received).toBeLessThanOrEqual(
      Number(sent) + players.reduce((sum, { answered, unanswered }) => sum + answered + unanswered, 0),
    );
    const rows = await relay.sessions('&client=127.66.0.1');
    expect(rows.length).toBeLessThanOrEqual(1_024);
  },
  TIMEOUT_MS,
);
