/**
 * `npm run demo`: the whole system in one terminal. A relay, game servers that register themselves with it, and players,
 * with one line that says how they fare.
 *
 *   database -> relay -> game servers register -> all are ready -> players log in -> players join -> one line a second
 *   -> Ctrl-C, or --duration -> players end -> game servers leave -> relay ends -> a last line
 *
 * Players log in over TCP through the relay, at a login service beside each game server. The accounts are in PostgreSQL, where
 * it is installed: the login services reach it through the relay, too. Else each login service has them itself. Login and game share
 * their pins, so that each player plays on the server whose login service it came to; the last line says for how many that held.
 *
 * Database, relay and game servers are processes of their own; the players live in this one, so that it can show what they see.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { clearLine, cursorTo } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import yargs from 'yargs';
import { BotFleet } from '../botclient/bot-fleet.ts';
import { logIn } from '../botclient/login.ts';
import { playerAddresses } from '../botclient/player-address.ts';
import { describeFailure, EXIT_OK, onStopSignal } from '../command-line.ts';
import { durationFlag } from '../flag-values.ts';
import { createPlayers } from '../gameserver/postgres-accounts.ts';
import { Endpoint } from '../net/address.ts';
import { openDgramSocket } from '../net/dgram-socket.ts';
import { RelayError } from '../net/relay-error.ts';
import { CODECS } from '../wire/codec.ts';
import { stubCredentials } from '../wire/login.ts';
import { freeTcpPort } from './free-port.ts';
import { PostgresCluster, postgresPrograms, POSTGRES_USER } from './postgres-cluster.ts';
import { tickrelay, ProcessGroup } from './process-group.ts';
import { readRelayMetrics } from './relay-metrics.ts';
import { formatNumber, formatShare, formatTime } from './report/section.ts';
import { relayAddresses } from './routes.ts';

const GAME_SERVERS = 3;
const PLAYERS = 10;
const TICK_HZ = 128;
/** The pools of game servers, and of the login services beside them. */
const POOL = 'game-servers';
const LOGINS = 'logins';
const PIN_GROUP = 'players';
const STATUS_INTERVAL_MS = 1_000;
/** How long the game servers may take to register and be found ready, in ms. */
const READY_DEADLINE_MS = 15_000;
const POLL_INTERVAL_MS = 50;

interface Fleet {
  readonly bots: BotFleet;
  readonly admin: string;
}

async function runDemo(durationMs: number): Promise<void> {
  const group = new ProcessGroup();
  const folder = mkdtempSync(join(tmpdir(), 'tickrelay-demo-'));
  let bots: BotFleet | undefined;
  const stop = new AbortController();
  onStopSignal(() => {
    stop.abort();
    // Players end first; before there are any, the processes do, and whoever waits for one learns of it.
    if (bots === undefined) void group.close();
    else void bots.stop();
  });
  try {
    const database = await startDatabase(group, folder);
    const addresses = await startRelay(group, { folder, database });
    const { udp, admin, login } = addresses;
    await startGameServers(group, addresses);
    const playerIds = await logInPlayers(login, udp);
    const loginServers = await readLoginServers(admin, udp);
    const store = database === undefined ? 'their own accounts' : 'accounts in PostgreSQL';
    print(`${PLAYERS} players logged in on ${login.toString()}: three login services with ${store}.\n`);
    bots = createFleet(udp, durationMs, playerIds);
    bots.start();
    print(
      `${PLAYERS} players at ${TICK_HZ} Hz on ${udp}, ${GAME_SERVERS} game servers behind it. Ctrl-C ends it.\n`,
    );
    const endStatus = showStatus({ bots, admin });
    const summary = await bots.finished.finally(endStatus);
    const atHome = bots.players.filter(({ serverId }, i) => serverId === loginServers[i]).length;
    print(
      `${formatNumber(summary.sent)} updates sent, ${formatNumber(summary.lost)} lost, ` +
        `${formatNumber(summary.wrongServer)} times a wrong server; ` +
        `round trip p50 ${formatTime(summary.roundTripUs.p50)} µs, p99 ${formatTime(summary.roundTripUs.p99)} µs. ` +
        `${atHome} of ${PLAYERS} played on the server where they logged in.\n`,
    );
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  } finally {
    await group.close();
    rmSync(folder, { recursive: true, force: true });
  }
  print('All processes of the demo have ended.\n');
}

/** @returns undefined where PostgreSQL is not installed */
async function startDatabase(group: ProcessGroup, folder: string): Promise<Endpoint | undefined> {
  const programs = postgresPrograms();
  if (programs === undefined) return undefined;
  const { endpoint } = await PostgresCluster.start({ group, programs, folder });
  await createPlayers(databaseUrl(endpoint), PLAYERS);
  return endpoint;
}

interface Addresses {
  readonly udp: string;
  readonly admin: string;
  /** Where players log in. */
  readonly login: Endpoint;
  /** The login services behind it, one for each game server. */
  readonly loginServices: readonly Endpoint[];
  /** Where the login services reach the database. */
  readonly database: Endpoint | undefined;
}

async function startRelay(
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
async function startGameServers(group: ProcessGroup, addresses: Addresses): Promise<void> {
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
function logInPlayers(login: Endpoint, udp: string): Promise<number[]> {
  const addresses = playerAddresses(PLAYERS, Endpoint.parse(udp));
  return logIn(
    login,
    addresses.map((address, i) => ({ credentials: stubCredentials(i), address })),
  );
}

/** The game server beside the login service that each player came to, by the relay's own word: the pin that the login made. */
function readLoginServers(admin: string, udp: string): Promise<(number | undefined)[]> {
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

function createFleet(udp: string, durationMs: number, playerIds: readonly number[]): BotFleet {
  return new BotFleet({
    playerIds,
    target: Endpoint.parse(udp),
    players: PLAYERS,
    tickHz: TICK_HZ,
    durationMs,
    rampMs: 500,
    warmupMs: 0,
    graceMs: 300,
    codec: CODECS.binary,
    reply: 'immediate',
    seed: 1,
    firstPlayer: 0,
    openSocket: openDgramSocket,
  });
}

/** One line a second, rewritten in place on a terminal. @returns a function that ends it */
function showStatus(fleet: Fleet): () => void {
  const { stdout } = process;
  const describe = statusLine(fleet);
  const timer = setInterval(() => {
    describe().then(
      (line) => {
        if (!stdout.isTTY) {
          print(`${line}\n`);
          return;
        }
        cursorTo(stdout, 0);
        clearLine(stdout, 1);
        // A line that wraps could not be rewritten.
        print(line.slice(0, stdout.columns - 1));
      },
      // The relay is ending; the summary follows.
      () => undefined,
    );
  }, STATUS_INTERVAL_MS);
  return () => {
    clearInterval(timer);
    if (stdout.isTTY) print('\n');
  };
}

/** @returns a function that says what happened since its last call */
function statusLine({ bots, admin }: Fleet): () => Promise<string> {
  let before = { atMs: performance.now(), forwarded: 0, sent: 0 };
  return async () => {
    const {
      counts: { forwarded },
    } = await readRelayMetrics(admin);
    const atMs = performance.now();
    const { players, sent, matched, recentUs } = bots.progress();
    const perSecond = (1000 * (forwarded - before.forwarded)) / (atMs - before.atMs);
    // Updates sent before the last line should have been answered by now.
    const lost = Math.max(0, before.sent - matched);
    before = { atMs, forwarded, sent };
    return [
      `${players} players (${playersByServer(bots)})`,
      `${formatNumber(perSecond)} datagrams/s`,
      `p50 ${formatTime(recentUs.p50)} µs`,
      `p99 ${formatTime(recentUs.p99)} µs`,
      `loss ${formatShare(lost / Math.max(1, sent))}`,
    ].join('  ');
  };
}

/** Players on each server, in order: `4+3+3`. */
function playersByServer({ players }: BotFleet): string {
  const counts = Array.from({ length: GAME_SERVERS }, (_, i) => {
    return players.filter(({ serverId }) => serverId === i + 1).length;
  });
  return counts.join('+');
}

function print(text: string): void {
  process.stdout.write(text);
}

try {
  const { duration } = await yargs(process.argv.slice(2))
    .scriptName('npm run demo --')
    .usage('$0\n\nA relay, three game servers and ten players on this machine, until Ctrl-C.')
    .option('duration', {
      describe: 'End by itself after this time, like 10s',
      type: 'string',
      requiresArg: true,
      coerce: durationFlag('--duration'),
    })
    .strict()
    .fail((message, error: Error | undefined) => {
      // Of yargs itself, or of a flag's check, which yargs wraps.
      throw error === undefined || error.name === 'YError'
        ? new RelayError('TICKRELAY_ERR_CONFIG', message)
        : error;
    })
    .parseAsync();
  await runDemo(duration ?? Infinity);
  process.exitCode = EXIT_OK;
} catch (error) {
  const { exitCode, text } = describeFailure(error);
  process.stderr.write(`${text}\n`);
  process.exitCode = exitCode;
}
