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
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import yargs from 'yargs';
import { BotFleet } from '../botclient/bot-fleet.ts';
import { describeFailure, EXIT_OK, onStopSignal } from '../command-line.ts';
import { durationFlag } from '../flag-values.ts';
import { Endpoint } from '../net/address.ts';
import { openDgramSocket } from '../net/dgram-socket.ts';
import { RelayError } from '../net/relay-error.ts';
import { CODECS } from '../wire/codec.ts';
import {
  GAME_SERVERS,
  logInPlayers,
  PLAYERS,
  readLoginServers,
  startDatabase,
  startGameServers,
  startRelay,
} from './demo/site.ts';
import { print, showStatus } from './demo/status.ts';
import { ProcessGroup } from './process-group.ts';
import { formatNumber, formatTime } from './report/section.ts';

const TICK_HZ = 128;

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
