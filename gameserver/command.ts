/** `tickrelay gameserver`: one stub game server as a process, which may register itself with a relay. */
import type { Logger } from 'pino';
import type { CommandModule } from 'yargs';
import { createLogger, onStopSignal, printEvent } from '../command-line.ts';
import { requireSingle } from '../flag-values.ts';
import { Endpoint } from '../net/address.ts';
import { RelayError } from '../net/relay-error.ts';
import { type ChosenSocket, chooseSocket, type SocketKind } from '../net/socket-choice.ts';
import { CODECS } from '../wire/codec.ts';
import type { GameServerArguments, GameServerFlags } from './flags.ts';
import { flags } from './flags.ts';
import type { GameServerCounts } from './game-server.ts';
import { GameServer } from './game-server.ts';
import { type Accounts, MemoryAccounts } from './accounts.ts';
import { LoginService, type LoginCounts } from './login-service.ts';
import { Registration } from './registration.ts';

/** Time between two looks at the overruns of the tick loop, in ms. */
const OVERRUN_REPORT_MS = 10_000;

export const command: CommandModule<object, GameServerFlags> = {
  command: 'gameserver',
  describe: 'Run a stub game server that answers position updates with the world state',
  builder: (yargs) =>
    yargs
      .options(flags)
      .example('$0 gameserver --listen 127.0.0.1:4567', 'answer players on this port')
      .example(
        '$0 gameserver --id 2 --register http://127.0.0.1:7900',
        'join the pool game-servers of a relay',
      )
      .example(
        '$0 gameserver --listen 0.0.0.0:4567 --register http://10.0.0.2:7900 --advertise 10.0.0.5',
        'the same from another machine',
      )
      .example('$0 gameserver --login 127.0.0.1:5433', 'let players log in over TCP, too')
      .example('$0 gameserver --reply tick --tick 64', 'one world state for each player, 64 times a second')
      .epilogue(
        'Runs until SIGINT or SIGTERM, then leaves the pool and prints its counts.\n\n' +
          "Exit codes: 0 ended by a signal; 1 the address is taken, or the socket can't be had; " +
          '2 a flag is wrong; 130 a second signal.',
      ),
  handler: runGameServer,
};

/** Serves until a signal. @throws RelayError TICKRELAY_ERR_BIND, TICKRELAY_ERR_CONFIG, TICKRELAY_ERR_ENGINE */
export async function runGameServer(args: GameServerArguments): Promise<void> {
  requireSingle(args);
  const logger = createLogger('gameserver', args.logLevel);
  requireReachable(args);
  const socket = chooseSocket(args.socket);
  logger.debug({ socket: socket.kind, reason: socket.reason }, 'socket chosen');
  try {
    await serve(args, socket, logger);
  } finally {
    socket.close();
  }
}

async function serve(args: GameServerArguments, socket: ChosenSocket, logger: Logger): Promise<void> {
  const server = new GameServer({
    openSocket: socket.open,
    metronome: socket.metronome,
    listen: args.listen,
    serverId: args.id,
    codec: CODECS[args.codec],
    reply: args.reply,
    tickHz: args.tick,
    matchPlayers: args.match,
    forgetMs: args.forget,
  });
  const login = await openLogin(args).catch(async (error: unknown) => {
    await server.close();
    throw error;
  });
  const stopped = new Promise<void>((resolve) => onStopSignal(() => resolve()));
  const registration = register(server, args, logger);
  const overrunTimer = setInterval(reportOverruns(server, logger), OVERRUN_REPORT_MS);
  printReady(server, args, { socket: socket.kind, login: login?.service.local });
  await stopped;
  await registration?.leave();
  clearInterval(overrunTimer);
  await login?.service.close();
  await login?.accounts.close();
  await server.close();
  printSummary(server.counts, login?.service.counts, args);
}

/** A relay can't send to 0.0.0.0, so a server that receives on every address must say which one to use. */
function requireReachable({ listen, register, advertise }: GameServerArguments): void {
  if (register === undefined || advertise !== undefined || listen.ip.range !== 'unspecified') return;
  throw new RelayError(
    'TICKRELAY_ERR_CONFIG',
    `--listen ${listen.toString()} is every address of this machine and --register needs one: ` +
      'say where the relay reaches it, like --advertise 10.0.0.5',
  );
}

function register(server: GameServer, args: GameServerArguments, logger: Logger): Registration | undefined {
  if (args.register === undefined) return undefined;
  const { ip, port } = args.advertise ?? server.local;
  const address = new Endpoint(ip, port === 0 ? server.local.port : port);
  const registration = new Registration({
    relay: args.register,
    pool: args.pool,
    backendId: args.backendId ?? nameOf(address),
    address,
    weight: args.weight,
    token: args.token ?? process.env['TICKRELAY_TOKEN'],
    intervalMs: args.interval,
    players: () => server.counts.players,
    logger,
  });
  registration.start();
  return registration;
}

/** No two servers of a pool have the same. An id in a pool has no colons, so those of IPv6 become dashes. */
function nameOf({ ip, port }: Endpoint): string {
  return `server-${ip.toString().replaceAll(':', '-')}-${port}`;
}

/** @returns a function that logs the overruns since its last call */
function reportOverruns(server: GameServer, logger: Logger): () => void {
  let lateBefore = 0;
  let skippedBefore = 0;
  return () => {
    const { lateTicks, skippedTicks } = server.counts;
    const late = lateTicks - lateBefore;
    const skipped = skippedTicks - skippedBefore;
    lateBefore = lateTicks;
    skippedBefore = skippedTicks;
    if (late + skipped > 0)
      logger.warn({ late, skipped }, 'the tick loop is behind: this machine is too busy');
  };
}

/** Loads the client of PostgreSQL only where there is one: every start would pay for it. */
async function openDatabase(url: string): Promise<Accounts> {
  const { PostgresAccounts } = await import('./postgres-accounts.ts');
  return new PostgresAccounts(url);
}

/** Opens the login service, if there is to be one. @throws RelayError TICKRELAY_ERR_BIND */
async function openLogin({ login, accounts: count, database }: GameServerArguments) {
  if (login === undefined) return undefined;
  const url = database ?? process.env['TICKRELAY_DATABASE'];
  const accounts = url === undefined ? await MemoryAccounts.create(count) : await openDatabase(url);
  return { accounts, service: await LoginService.open({ listen: login, accounts }) };
}

interface Opened {
  readonly socket: SocketKind;
  readonly login: Endpoint | undefined;
}

function printReady(server: GameServer, args: GameServerArguments, { socket, login }: Opened): void {
  const { json, id, codec, reply, tick } = args;
  const udp = server.local.toString();
  if (json) {
    printEvent('ready', { udp, id, socket, ...(login && { login: login.toString() }) });
    return;
  }
  const manner = reply === 'tick' ? `${tick} times a second` : 'at once';
  process.stdout.write(`game server ${id} on ${udp}: ${codec}, answers ${manner}\n`);
  if (login !== undefined) process.stdout.write(`players log in on ${login.toString()}\n`);
}

function printSummary(
  counts: GameServerCounts,
  logins: LoginCounts | undefined,
  { json, id, reply }: GameServerArguments,
): void {
  if (json) {
    printEvent('summary', { id, ...counts, ...(logins && { logins }) });
    return;
  }
  const { received, accepted, malformed, sent, sendFailed, sendQueueFull } = counts;
  const { ticks, lateTicks, skippedTicks } = counts;
  const loop = reply === 'tick' ? `; ${ticks} ticks, ${lateTicks} late, ${skippedTicks} skipped` : '';
  process.stdout.write(
    `game server ${id}: received ${received} (${accepted} accepted, ${malformed} malformed), ` +
      `sent ${sent} (${sendFailed} failed, ${sendQueueFull} met a full queue)${loop}\n`,
  );
  if (logins === undefined) return;
  const { welcomed, denied, unavailable, malformed: strange } = logins;
  process.stdout.write(
    `logins: ${welcomed} welcomed, ${denied} denied, ${unavailable} unavailable, ${strange} malformed\n`,
  );
}
