/** The whole way of a player: login over TCP through the relay, checked against PostgreSQL through the relay, then play. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { freeTcpPort } from '../../bench/free-port.ts';
import { postgresPrograms, POSTGRES_USER } from '../../bench/postgres-cluster.ts';
import { tickrelay } from '../../bench/process-group.ts';
import { createPlayers } from '../../gameserver/postgres-accounts.ts';
import type { LoginCounts } from '../../gameserver/login-service.ts';
import type { Endpoint } from '../../net/address.ts';
import { testOnce } from '../support/engine-pass.ts';
import { Stage } from '../support/stage.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const PLAYERS = 12;
/** Of player-0, so that an id can only come from the accounts. */
const FIRST_ID = 5_000;

const databaseUrl = (at: Endpoint): string => `postgres://${POSTGRES_USER}@${at.toString()}/postgres`;

/** Runs bots that log in first. @returns their summary */
async function play(
  target: Endpoint,
  login: Endpoint,
  ...flags: string[]
): Promise<Readonly<Record<string, unknown>>> {
  const asked = ['--target', target.toString(), '--login', login.toString(), '--players', `${PLAYERS}`];
  const times = ['--tick', '32', '--duration', '500ms', '--ramp', '100ms', '--warmup', '0ms'];
  const bots = stage.start(tickrelay('bots', ['bots', ...asked, ...times, ...flags, '--json']));
  return bots.event('summary', 60_000);
}

test('players log in against two databases, one of which dies, and play with the ids that they got', async ({
  skip,
}) => {
  const programs = postgresPrograms();
  if (programs === undefined) return skip('there is no PostgreSQL server in /usr/lib/postgresql');
  const primary = await stage.postgres(programs);
  await createPlayers(databaseUrl(primary.endpoint), PLAYERS, FIRST_ID);
  const replica = stage.closing(await primary.replicate({}));
  await replica.untilAnswers();

  const logins = [await freeTcpPort(), await freeTcpPort()];
  const relay = await stage.relay({
    listeners: [
      { name: 'game', protocol: 'udp', listen: '127.0.0.1:0', pool: 'game-servers' },
      { name: 'login', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins' },
      { name: 'db', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'postgres' },
    ],
    pools: {
      'game-servers': {
        registration: { allow: ['127.0.0.0/8'], settle: '0ms' },
        healthCheck: { type: 'heartbeat' },
      },
      logins: { healthCheck: { type: 'none' }, backends: logins.map(String) },
      postgres: {
        healthCheck: { type: 'postgres', interval: '250ms', timeout: '250ms', fall: 2 },
        backends: [
          { id: 'primary', address: primary.endpoint.toString() },
          { id: 'replica', address: replica.endpoint.toString() },
        ],
      },
    },
    admin: { listen: '127.0.0.1:0' },
  });
  const servers = logins.map((login, i) => {
    const args = ['gameserver', '--id', `${i + 1}`, '--login', login.toString(), '--json'];
    const further = ['--register', relay.admin, '--database', databaseUrl(relay.listener('db'))];
    return stage.start(tickrelay(`game server ${i + 1}`, [...args, ...further]));
  });
  for (const [i, server] of servers.entries()) {
    expect(await server.event('ready')).toMatchObject({ login: logins[i]!.toString() });
  }
  await relay.untilMetric('backend_state', { pool: 'game-servers', state: 'ready' }, 2);

  expect(await play(relay.listener('game'), relay.listener('login'))).toMatchObject({
    lost: 0,
    wrongServer: 0,
  });
  replica.process.signal('SIGKILL');
  await relay.untilStates({ primary: 'ready', replica: 'unhealthy' }, 'postgres');
  expect(await play(relay.listener('game'), relay.listener('login'))).toMatchObject({
    lost: 0,
    wrongServer: 0,
  });

  let welcomed = 0;
  for (const server of servers) {
    server.signal('SIGTERM');
    const { logins: counts } = (await server.event('summary')) as { logins: LoginCounts };
    expect(counts).toMatchObject({ denied: 0, unavailable: 0, malformed: 0 });
    welcomed += counts.welcomed;
  }
  expect(welcomed).toBe(2 * PLAYERS);
});

testOnce(
  'without a database the accounts are in the game server, and who has none does not play',
  async () => {
    const server = stage.start(
      tickrelay('game server', [
        'gameserver',
        '--login',
        '127.0.0.1:0',
        '--accounts',
        `${PLAYERS}`,
        '--json',
      ]),
    );
    const { udp, login } = (await server.event('ready')) as { udp: string; login: string };
    const bots = ['bots', '--target', udp, '--login', login, '--tick', '32', '--json', '--duration', '300ms'];
    const welcome = stage.start(tickrelay('bots', [...bots, '--players', `${PLAYERS}`]));
    expect(await welcome.event('summary', 60_000)).toMatchObject({ lost: 0 });
    const stranger = stage.start(
      tickrelay('bots', [...bots, '--players', '1', '--first-player', `${PLAYERS}`]),
    );
    expect(await stranger.ended(60_000)).toEqual({ code: 1, signal: null });
    expect(stranger.stderr).toContain(`TICKRELAY_ERR_LOGIN: ${login} does not let "player-${PLAYERS}" in`);
  },
);
