/**
 * The processes of the demo: database, relay, and game servers with login services beside them; and what their relay says of the
 * players who log in there.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { logIn } from '../../botclient/login.ts';
import { playerAddresses } from '../../botclient/player-address.ts';
import { createPlayers } from '../../gameserver/postgres-accounts.ts';
import { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { stubCredentials } from '../../wire/login.ts';
import { freeTcpPort } from '../free-port.ts';
import { PostgresCluster, postgresPrograms, POSTGRES_USER } from '../postgres-cluster.ts';
import { tickrelay, type ProcessGroup } from '../process-group.ts';
import { relayAddresses } from '../routes.ts';

export const GAME_SERVERS = 3;
export const PLAYERS = 10;
/** The pools of game servers, and of the login services beside them. */
const POOL = 'game-servers';
const LOGINS = 'logins';
const PIN_GROUP = 'players';
/** How long the game servers may take to register and be found ready, in ms. */
const READY_DEADLINE_MS = 15_000;
const POLL_INTERVAL_MS = 50;

/** @returns undefined where PostgreSQL is not installed */
export async function startDatabase(group: ProcessGroup, folder: string): Promise<Endpoint | undefined> {
  const programs = postgresPrograms();
  if (programs === undefined) return undefined;
  const { endpoint } = await PostgresCluster.start({ group, programs, folder });
  await createPlayers(databaseUrl(endpoint), PLAYERS);
  return endpoint;
}

export interface Addresses {
  readonly udp: string;
  readonly admin: string;
  /** Where players log in. */
  readonly login: Endpoint;
  /** The login services behind it, one for each game server. */
  readonly loginServices: readonly Endpoint[];
  /** Where the login services reach the database. */
  readonly database: Endpoint | undefined;
}

export async function startRelay(
  group: ProcessGroup,
  { folder, database: behind }: { readonly folder: string; readonly database: Endpoint | undefined },
): Promise<Addresses> {
  const login = await freeTcpPort();
  const loginServices = await Promise.all(Array.from({ length: GAME_SERVERS }, () => freeTcpPort()));
  const database = behind === undefined ? undefined : await freeTcpPort();
  const file = join(folder, 'relay.yaml');
  // JSON is YAML.
  writeFileSync(file, JSON.stringify(relayConfig({ login, loginServices, database, behind })));
  const relay = group.start(tickrelay('relay', ['relay', '--config', file, '--json']));
  return { ...relayAddresses(await relay.event('ready')), login, loginServices, database };
}

function relayConfig({
  login,
  loginServices,
  database,
  behind,
}: Pick<Addresses, 'login' | 'loginServices' | 'database'> & {
  readonly behind: Endpoint | undefined;
}): object {
  const healthCheck = { type: 'tcp', interval: '250ms', timeout: '250ms' };
  const tcp = { protocol: 'tcp' } as const;
  const shared = { pinGroup: PIN_GROUP };
  // The game comes first: relayAddresses takes it for the players' address.
  const listeners: object[] = [
    { name: 'game', protocol: 'udp', listen: '127.0.0.1:0', pool: POOL, ...shared },
    { name: 'login', ...tcp, listen: login.toString(), pool: LOGINS, ...shared },
  ];
  const pools: Record<string, object> = {
    [POOL]: { registration: { allow: ['127.0.0.0/8', '::1/128'] } },
    [LOGINS]: {
      healthCheck,
      // Under the ids that the game servers beside them register with.
      backends: loginServices.map((at, i) => ({ id: backendId(i + 1), address: at.toString() })),
    },
  };
  if (database !== undefined && behind !== undefined) {
    listeners.push({ name: 'database', ...tcp, listen: database.toString(), pool: 'database' });
    pools['database'] = { healthCheck, backends: [behind.toString()] };
  }
  return { listeners, pools, admin: { listen: '127.0.0.1:0' }, shutdown: { deadline: '1ms' } };
}

/** Of the game server with this id, where it registers. */
const backendId = (serverId: number): string => `server-${serverId}`;

const databaseUrl = (at: Endpoint): string => `postgres://${POSTGRES_USER}@${at.toString()}/postgres`;

/** Starts the game servers and waits until the relay takes players for each of them. */
export async function startGameServers(group: ProcessGroup, addresses: Addresses): Promise<void> {
  const { admin, loginServices, database } = addresses;
  const servers = Array.from({ length: GAME_SERVERS }, (_, i) => {
    const args = [
      '--id',
      `${i + 1}`,
      '--backend-id',
      backendId(i + 1),
      '--register',
      `http://${admin}`,
      '--pool',
      POOL,
      '--json',
    ];
    const login = ['--login', loginServices[i]!.toString(), '--accounts', `${PLAYERS}`];
    const accounts = database === undefined ? [] : ['--database', databaseUrl(database)];
    return group.start(tickrelay(`game server ${i + 1}`, ['gameserver', ...args, ...login, ...accounts]));
  });
  await Promise.all(servers.map((server) => server.event('ready')));
  const deadline = performance.now() + READY_DEADLINE_MS;
  while (Math.min(await countReady(admin, POOL), await countReady(admin, LOGINS)) < GAME_SERVERS) {
    if (performance.now() > deadline) {
      const said = servers.map(({ stderr }) => stderr).join('');
      throw new RelayError(
        'TICKRELAY_ERR_LOAD',
        `the game servers did not register with the relay. They said:\n${said}`,
      );
    }
    await sleep(POLL_INTERVAL_MS);
  }
}

/** Backends of the pool that take players, by the relay's own word. */
async function countReady(admin: string, pool: string): Promise<number> {
  const response = await fetch(`http://${admin}/v1/pools/${pool}`);
  const { ready } = (await response.json()) as { readonly ready?: number };
  return ready ?? 0;
}

/** The addresses are those that the players play from: the relay sees one client in both. */
export function logInPlayers(login: Endpoint, udp: string): Promise<number[]> {
  const addresses = playerAddresses(PLAYERS, Endpoint.parse(udp));
  return logIn(
    login,
    addresses.map((address, i) => ({ credentials: stubCredentials(i), address })),
  );
}

/** The game server beside the login service that each player came to, by the relay's own word: the pin that the login made. */
export function readLoginServers(admin: string, udp: string): Promise<(number | undefined)[]> {
  const addresses = playerAddresses(PLAYERS, Endpoint.parse(udp));
  return Promise.all(
    addresses.map(async (address) => {
      const response = await fetch(
        `http://${admin}/v1/pin-groups/${PIN_GROUP}/pins/${encodeURIComponent(address.toString())}`,
      );
      const { backends } = (await response.json()) as { readonly backends?: Record<string, string> };
      const ids = Array.from({ length: GAME_SERVERS }, (_, i) => i + 1);
      return ids.find((id) => backends?.[LOGINS] === backendId(id));
    }),
  );
}
