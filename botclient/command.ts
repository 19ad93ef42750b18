/** `tickrelay bots`: simulated players as a process, which measure what they get for what they send. */
import { availableParallelism } from 'node:os';
import type { ArgumentsCamelCase, CommandModule, InferredOptionTypes } from 'yargs';
import { createLogger, LOG_LEVELS, onStopSignal, printEvent } from '../command-line.ts';
import {
  addressFlag,
  durationFlag,
  flagOf,
  integerFlag,
  requireSingle,
  targetFlag,
  wrongFlag,
} from '../flag-values.ts';
import { RelayError } from '../net/relay-error.ts';
import { SOCKET_CHOICES } from '../net/socket-choice.ts';
import { CODEC_NAMES } from '../wire/codec.ts';
import { MAX_PLAYER_ID } from '../wire/position-update.ts';
import { BotCrew } from './bot-crew.ts';
import { showLive } from './live-view.ts';
import { REPLY_MODES } from './player.ts';
import { formatSummary } from './report.ts';

const MAX_WORKERS = 256;

const options = {
  target: {
    describe: 'Address and port to play on: a relay or a game server',
    demandOption: true,
    requiresArg: true,
    type: 'string',
    coerce: targetFlag('--target'),
  },
  login: {
    describe: 'Log in at this TCP address first, as player-0 and so on, and play with the ids that it gives',
    requiresArg: true,
    type: 'string',
    coerce: targetFlag('--login'),
  },
  players: {
    describe: `Players, 1 to ${MAX_PLAYER_ID + 1}`,
    default: 10,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--players', 1, MAX_PLAYER_ID + 1),
  },
  tick: {
    describe: 'Updates a second of each player, 1 to 1000',
    default: 128,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--tick', 1, 1000),
  },
  duration: {
    describe: 'Length of the measured part',
    default: '10s',
    requiresArg: true,
    type: 'string',
    coerce: durationFlag('--duration'),
  },
  ramp: {
    describe: 'Time over which the players join; nothing is measured yet',
    default: '1s',
    requiresArg: true,
    type: 'string',
    coerce: durationFlag('--ramp'),
  },
  warmup: {
    describe: 'Time after the ramp in which nothing is measured either',
    default: '500ms',
    requiresArg: true,
    type: 'string',
    coerce: durationFlag('--warmup'),
  },
  grace: {
    describe: 'Silence after the last update that ends the run; answers under way still count',
    default: '500ms',
    requiresArg: true,
    type: 'string',
    coerce: durationFlag('--grace'),
  },
  codec: { describe: 'Encoding of messages', choices: CODEC_NAMES, default: 'binary' },
  reply: {
    describe: 'How the game server answers: each update at once, or every player once a tick',
    choices: REPLY_MODES,
    default: 'immediate',
  },
  seed: {
    describe: 'Of the paths: the same seed walks the same way',
    default: 1,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--seed', 0, 0xffff_ffff),
  },
  'first-player': {
    describe: 'Id of the first player; the others count up from it',
    default: 0,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--first-player', 0, MAX_PLAYER_ID),
  },
  'first-address': {
    describe: 'IPv4 address of the first player; the others count up from it',
    defaultDescription: "127.1.0.1 for a target on loopback, else the system's choice",
    requiresArg: true,
    type: 'string',
    coerce: addressFlag('--first-address'),
  },
  workers: {
    describe: 'Threads that the players are divided over; auto is half of the cores',
    default: '1',
    requiresArg: true,
    type: 'string',
    coerce: flagOf('--workers', workerCount),
  },
  socket: {
    describe: 'Batched system calls (mmsg, on Linux), or the portable socket (dgram)',
    choices: SOCKET_CHOICES,
    default: 'auto',
  },
  live: { describe: 'Show one line a second on standard error', type: 'boolean', default: false },
  json: { describe: 'Print `ready` and `summary` as JSON lines', type: 'boolean', default: false },
  'log-level': { describe: 'What to log on standard error', choices: LOG_LEVELS, default: 'info' },
} as const;

type Options = InferredOptionTypes<typeof options>;
type Arguments = ArgumentsCamelCase<Options>;

export const command: CommandModule<object, Options> = {
  command: 'bots',
  describe: 'Run simulated players and measure round trip, loss and wrong servers',
  builder: (yargs) =>
    yargs
      .options(options)
      .example('$0 bots --target 127.0.0.1:7777', '10 players at 128 Hz for 10 s')
      .example('$0 bots --target 127.0.0.1:7777 --players 100 --live', '100 players, one line a second')
      .example('$0 bots --target 127.0.0.1:7777 --login 127.0.0.1:5433', 'log in first')
      .example('$0 bots --target 127.0.0.1:7777 --codec json --json | jq .loss', 'one figure of the summary')
      .example(
        '$0 bots --target 127.0.0.1:7777 --first-player 100 --first-address 127.2.0.1',
        'further players beside those of another process',
      )
      .epilogue(
        'SIGINT or SIGTERM ends the run early, with its summary. docs/bots.md explains the figures.\n\n' +
          'Exit codes: 0 measured, whatever the figures are; 1 no update was ever answered, a socket could not be had, or a player was not let in; ' +
          '2 a flag is wrong; 130 a second signal.',
      ),
  handler: runBots,
};

/**
 * @throws RelayError TICKRELAY_ERR_BIND, TICKRELAY_ERR_CONFIG, TICKRELAY_ERR_ENGINE, TICKRELAY_ERR_LOGIN; TICKRELAY_ERR_UNREACHABLE when
 *   nothing ever answered
 */
export async function runBots(args: Arguments): Promise<void> {
  const logger = createLogger('bots', args.logLevel);
  requireSingle(args);
  requirePlayerIds(args);
  const workers = Math.min(args.workers, args.players);
  const crew = new BotCrew({
    target: args.target.toString(),
    players: args.players,
    tickHz: args.tick,
    durationMs: args.duration,
    rampMs: args.ramp,
    warmupMs: args.warmup,
    graceMs: args.grace,
    codec: args.codec,
    reply: args.reply,
    seed: args.seed,
    firstPlayer: args.firstPlayer,
    firstAddress: args.firstAddress?.toString(),
    socket: args.socket,
    login: args.login?.toString(),
    workers,
  });
  const { socket, reason } = await crew.bound;
  logger.debug({ socket, reason, players: args.players }, 'players are bound');
  crew.start();
  const stopped = new AbortController();
  onStopSignal(() => {
    stopped.abort();
    crew.stop();
  });
  if (args.json) {
    printEvent('ready', { target: args.target.toString(), players: args.players, workers, socket });
  }
  const endLive = args.live ? showLive(() => crew.progress()) : undefined;
  const summary = await crew.finished.finally(() => endLive?.());
  if (args.json) printEvent('summary', { ...summary });
  else process.stdout.write(formatSummary(summary));
  if (!summary.generator.ok) logger.warn(`the generator was ${summary.generator.verdict}`);
  if (summary.unansweredPlayers === summary.players && !stopped.signal.aborted) {
    throw new RelayError(
      'TICKRELAY_ERR_UNREACHABLE',
      `no update was answered: is a relay or game server at ${summary.target}, and does it speak ${summary.codec}?`,
    );
  }
}

function requirePlayerIds({ players, firstPlayer }: Arguments): void {
  const last = firstPlayer + players - 1;
  if (last <= MAX_PLAYER_ID) return;
  throw wrongFlag(
    '--first-player',
    `${firstPlayer} and --players ${players} reach id ${last}; the highest is ${MAX_PLAYER_ID}`,
  );
}

function workerCount(text: string): number {
  if (text === 'auto') return Math.max(1, Math.floor(availableParallelism() / 2));
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= MAX_WORKERS) return count;
  throw wrongFlag('--workers', `takes auto or an integer from 1 to ${MAX_WORKERS}, not ${text}`);
}
