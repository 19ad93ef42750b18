/** The flags of `tickrelay gameserver`, and the checks of their values. */
import { isIP } from 'node:net';
import type { ArgumentsCamelCase, InferredOptionTypes } from 'yargs';
import { LOG_LEVELS } from '../command-line.ts';
import { durationFlag, endpointFlag, flagOf, integerFlag, wrongFlag } from '../flag-values.ts';
import { Endpoint, IpAddress } from '../net/address.ts';
import { SOCKET_CHOICES } from '../net/socket-choice.ts';
import { CODEC_NAMES } from '../wire/codec.ts';
import { MAX_SERVER_ID, MAX_WORLD_PLAYERS } from '../wire/world-state.ts';
import { REPLY_MODES } from './game-server.ts';

/** Heartbeats in ms: more of them would tell the relay nothing. */
const MIN_INTERVAL_MS = 100;

const MAX_ACCOUNTS = 65_536;

export const flags = {
  listen: {
    describe: 'Address and port to receive on; port 0 takes a free one',
    default: '127.0.0.1:0',
    requiresArg: true,
    type: 'string',
    coerce: endpointFlag('--listen'),
  },
  id: {
    describe: 'Server id in every world state, 0 to 65535',
    default: 1,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--id', 0, MAX_SERVER_ID),
  },
  codec: { describe: 'Encoding of messages', choices: CODEC_NAMES, default: 'binary' },
  reply: {
    describe: 'Answer each update at once, or every player once a tick',
    choices: REPLY_MODES,
    default: 'immediate',
  },
  tick: {
    describe: 'Ticks a second, 1 to 1000',
    default: 128,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--tick', 1, 1000),
  },
  match: {
    describe: `Players of one match, 1 to ${MAX_WORLD_PLAYERS}; ids 0 to 9 are the first match of 10`,
    default: 10,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--match', 1, MAX_WORLD_PLAYERS),
  },
  forget: {
    describe: 'Silence after which a player is forgotten',
    default: '10s',
    requiresArg: true,
    type: 'string',
    coerce: durationFlag('--forget', 1),
  },
  register: {
    describe: 'Admin address of a relay to register with, like http://127.0.0.1:7900',
    requiresArg: true,
    type: 'string',
    coerce: flagOf('--register', relayUrl),
  },
  pool: { describe: 'Pool to register in', default: 'game-servers', type: 'string', requiresArg: true },
  'backend-id': {
    describe: 'Name in the pool',
    defaultDescription: 'server-<address>-<port>',
    type: 'string',
    requiresArg: true,
  },
  advertise: {
    describe: 'Address where the relay reaches this server',
    defaultDescription: 'the bound one',
    requiresArg: true,
    type: 'string',
    coerce: flagOf('--advertise', advertisedEndpoint),
  },
  token: {
    describe: 'Bearer token of the pool',
    defaultDescription: '$TICKRELAY_TOKEN',
    type: 'string',
    requiresArg: true,
  },
  interval: {
    describe: 'Time between two heartbeats to the relay',
    default: '1s',
    requiresArg: true,
    type: 'string',
    coerce: durationFlag('--interval', MIN_INTERVAL_MS),
  },
  weight: {
    describe: "Share of new players relative to the pool's other servers, 1 to 256",
    default: 1,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--weight', 1, 256),
  },
  login: {
    describe: 'Address and port of a login service over TCP; without it there is none',
    requiresArg: true,
    type: 'string',
    coerce: endpointFlag('--login'),
  },
  accounts: {
    describe: 'Accounts of the login service, player-0 and so on, where there is no --database',
    default: 100,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--accounts', 0, MAX_ACCOUNTS),
  },
  database: {
    describe: 'PostgreSQL database with the accounts, like postgres://user@10.0.0.3:5432/login',
    defaultDescription: '$TICKRELAY_DATABASE, or accounts in this process',
    type: 'string',
    requiresArg: true,
  },
  socket: {
    describe: 'Batched system calls (mmsg, on Linux), or the portable socket (dgram)',
    choices: SOCKET_CHOICES,
    default: 'auto',
  },
  json: { describe: 'Print `ready` and `summary` as JSON lines', type: 'boolean', default: false },
  'log-level': { describe: 'What to log on standard error', choices: LOG_LEVELS, default: 'info' },
} as const;

export type GameServerFlags = InferredOptionTypes<typeof flags>;
export type GameServerArguments = ArgumentsCamelCase<GameServerFlags>;

function relayUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url;
  throw wrongFlag(
    '--register',
    `${text} is not the URL of a relay's admin address (like http://127.0.0.1:7900)`,
  );
}

/** An address with a port, or without one for the port that was bound (as port 0). */
function advertisedEndpoint(text: string): Endpoint {
  return isIP(text) === 0 ? Endpoint.parse(text) : new Endpoint(IpAddress.parse(text), 0);
}
