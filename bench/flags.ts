/** The benchmark's flags: what each takes, and the error when it is something else. */
import { durationFlag, flagOf, integerFlag, wrongFlag } from '../flag-values.ts';
import { availableEngines, ENGINES, PEERS } from './routes.ts';

/** The generators share these out, and each player needs an id. */
const MAX_PLAYERS = 10_000;
/** Of a search for the most players. */
const LEAST_TOP = 4;
/** What a relay holds by default. */
const MAX_SESSIONS = 65_536;
/** Of --scale: more than the few that many are set against, and what a machine has kernel memory for. */
const LEAST_SCALE = 10_000;
const MOST_SCALE = 4_000_000;
/** What the relay takes as --coalesce. */
const MAX_COALESCE_US = 10_000;
/** At least three samples. */
const MIN_SOAK_MS = 3_000;

export const options = {
  players: {
    describe: `Players of the main load, 2 to ${MAX_PLAYERS}`,
    default: 100,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--players', 2, MAX_PLAYERS),
  },
  loads: {
    describe: 'Players of each load at which the routes are compared',
    defaultDescription:
      '--players and three times as many; with --quick, or more than three relays, --players',
    requiresArg: true,
    type: 'string',
    coerce: flagOf('--loads', ascending('--loads', [2, MAX_PLAYERS])),
  },
  ladder: {
    describe: 'Players of each step of the ladder',
    defaultDescription: '50,100,150,... up to 1000, as far as time allows',
    requiresArg: true,
    type: 'string',
    coerce: flagOf('--ladder', ascending('--ladder', [1, MAX_PLAYERS])),
  },
  rounds: {
    describe: 'Rounds of the comparison, in which all routes take turns, 1 to 100',
    defaultDescription: '3, with --quick 1',
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--rounds', 1, 100),
  },
  engine: {
    describe: `Engines of the relay to compare: auto, or a list of ${Object.keys(ENGINES).join(', ')}`,
    default: 'auto',
    requiresArg: true,
    type: 'string',
    coerce: flagOf('--engine', engineNames),
  },
  peers: {
    describe: `Other relays to compare with: none, auto (those installed) or a list of ${Object.keys(PEERS).join(', ')}`,
    defaultDescription: 'auto, with --quick none',
    requiresArg: true,
    type: 'string',
    coerce: flagOf('--peers', peerNames),
  },
  pin: {
    describe:
      'One processor for the relay, the others for players and game servers; --no-pin lets all run anywhere',
    defaultDescription: 'where taskset and two processors are there',
    type: 'boolean',
  },
  share: {
    describe:
      'As root: the relay or peer gets this part of its processor, in percent, 1 to 99, so that it is at its limit before the load is',
    defaultDescription: 'all of it',
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--share', 1, 99),
  },
  dial: {
    describe: 'Compares these values of --coalesce, in µs, like 0,200',
    requiresArg: true,
    type: 'string',
    coerce: flagOf('--dial', ascending('--dial', [0, MAX_COALESCE_US])),
  },
  soak: {
    describe:
      'Instead of all that: one engine under the main load for this long, watched for growth, like 10m',
    requiresArg: true,
    type: 'string',
    coerce: durationFlag('--soak', MIN_SOAK_MS),
  },
  sessions: {
    describe: `Instead of all that: what so many live sessions cost one engine, 100 to ${MAX_SESSIONS}`,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--sessions', 100, MAX_SESSIONS),
  },
  netns: {
    describe:
      'As root: players, relays and game servers in network namespaces of their own, with veth pairs between them',
    type: 'boolean',
    default: false,
  },
  latency: {
    describe: 'Instead of all that: round trips with one datagram in flight, through every route in turns',
    type: 'boolean',
    default: false,
  },
  scale: {
    describe: `Instead of all that, as root: the engine kernel with so many sessions, ${LEAST_SCALE} to ${MOST_SCALE}`,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--scale', LEAST_SCALE, MOST_SCALE),
  },
  tcp: {
    describe:
      'Instead of all that: PostgreSQL and a bulk transfer, directly, through the relay and through peers',
    type: 'boolean',
    default: false,
  },
  most: {
    describe: `Instead of all that: the most players that each engine and peer carries, up to this many, ${LEAST_TOP} to ${MAX_PLAYERS}`,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--most', LEAST_TOP, MAX_PLAYERS),
  },
  seed: {
    describe: "Of the players' paths",
    default: 1,
    requiresArg: true,
    type: 'string',
    coerce: integerFlag('--seed', 0, 0xffff_ffff),
  },
  out: { describe: 'Directory of the results', default: 'bench-results', requiresArg: true, type: 'string' },
  quick: {
    describe: 'Fewer and shorter runs, under 20 s: rough figures',
    type: 'boolean',
    default: false,
  },
} as const;

/** Those whose values are lists. */
export const LIST_FLAGS = ['engine', 'peers', 'loads', 'ladder', 'dial'];

function ascending(
  flag: string,
  [min, max]: readonly [min: number, max: number],
): (text: string) => readonly number[] {
  return (text) => {
    const values = text.split(',').map((part) => (part.trim() === '' ? NaN : Number(part)));
    const isAscending = values.every((value, i) => i === 0 || value > values[i - 1]!);
    if (isAscending && values.every((value) => Number.isInteger(value) && value >= min && value <= max)) {
      return values;
    }
    throw wrongFlag(
      flag,
      `takes ascending integers from ${min} to ${max}, separated by commas, not "${text}"`,
    );
  };
}

function engineNames(text: string): readonly string[] {
  return text === 'auto' ? availableEngines() : names('--engine', text, Object.keys(ENGINES));
}

function peerNames(text: string): readonly string[] {
  if (text === 'none') return [];
  return text === 'auto' ? Object.keys(PEERS) : names('--peers', text, Object.keys(PEERS));
}

function names(flag: string, text: string, known: readonly string[]): readonly string[] {
  const asked = text.split(',');
  const unknown = asked.find((name) => !known.includes(name));
  if (unknown !== undefined) throw wrongFlag(flag, `takes a list of ${known.join(', ')}, not "${unknown}"`);
  return [...new Set(asked)];
}
