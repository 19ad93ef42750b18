/**
 * The keys of the configuration: type, bounds and default of each, in the operator's units, turned into the relay's.
 * docs/configuration.md describes every one of them.
 */
import { z } from 'zod';
import { Cidr, Endpoint } from '../../net/address.ts';
import { parseDurationMs } from '../../net/duration.ts';
import * as limits from '../core/limits.ts';
import { ALGORITHMS } from '../core/select.ts';
import { shown, suggestion } from './config-problems.ts';
import { unusableTarget } from './target-address.ts';

export const ENGINE_CHOICES = ['auto', 'dgram', 'mmsg', 'kernel'] as const;
const TCP_ENGINE_CHOICES = ['auto', 'userspace', 'kernel'] as const;
export const SOURCE_ADDRESSES = ['client', 'relay'] as const;
const HEALTH_CHECK_TYPES = ['none', 'heartbeat', 'tcp', 'http', 'udp', 'postgres'] as const;
const PROXY_VERSIONS = ['none', 'v1', 'v2'] as const;
const POSTGRES_ROLES = ['any', 'primary', 'replica'] as const;
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;

/** What `config show` and the admin API print in place of a token. */
export const HIDDEN_TOKEN = '********';

/** Ids of backends that register, and names of listeners and pools: safe in a URL, a label and a file name. */
export const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
export const NAME_RULE =
  'a name of 1 to 64 letters, digits, dots, dashes and underscores that begins with a letter or digit';

/** The longest time that a timer can wait: 2^31 - 1 ms, 24.8 days. */
export const MAX_DURATION_MS = 2_147_483_647;
export const DEFAULT_KEEP_ALIVE_MS = 60_000;
const DEFAULT_SHUTDOWN_DEADLINE_MS = 30_000;
const MAX_PROBE_BYTES = 512;
/** The kernel counts twice what is asked for in 32 bits with a sign. */
const MIN_RECEIVE_BUFFER_BYTES = 4_096;
const MAX_RECEIVE_BUFFER_BYTES = 1_073_741_823;
const MAX_WORKERS = 64;
const MAX_COALESCE_US = 10_000;
const MAX_CONNECTIONS = 1_000_000;

/** One value. `read` returns undefined, or throws, for what is not `what`. */
function scalar<T>(what: string, read: (input: unknown) => T | undefined) {
  return z.unknown().transform((input, context): T => {
    let value: T | undefined;
    try {
      value = read(input);
    } catch {
      value = undefined;
    }
    if (value !== undefined) return value;
    const message =
      input === undefined ? `is missing; it should be ${what}` : `${shown(input)} should be ${what}`;
    context.addIssue({ code: 'custom', message });
    return z.NEVER;
  });
}

const text = (what: string, accept: (input: string) => boolean) =>
  scalar(what, (input) => (typeof input === 'string' && accept(input) ? input : undefined));

const name = text(NAME_RULE, (input) => NAME_PATTERN.test(input));

/** Numbers may come as text, since `${NAME}` fills in text. */
const integer = (min: number, max: number) =>
  scalar(`a whole number from ${min} to ${max}`, (input) => {
    const value = typeof input === 'string' && /^\d{1,16}$/.test(input) ? Number(input) : input;
    return Number.isInteger(value) && Number(value) >= min && Number(value) <= max
      ? Number(value)
      : undefined;
  });

const flag = scalar('true or false', (input) => {
  if (input === 'true' || input === 'false') return input === 'true';
  return typeof input === 'boolean' ? input : undefined;
});

const portRange = scalar('a range of ports, such as "61000-65535"', (input) => {
  const match = typeof input === 'string' ? /^(\d{1,5})-(\d{1,5})$/.exec(input) : null;
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  return first >= 1 && last >= first && last <= 65_535 ? { first, last } : undefined;
});

/** The kernel takes up to 15 bytes, without spaces and slashes. */
const interfaceName = text('the name of an interface, such as eth0', (input) => /^[^\s/]{1,15}$/.test(input));

/** `auto` is undefined: the engine counts cores, or descriptors. */
const countOrAuto = (max: number) =>
  scalar(`auto or a whole number from 1 to ${max}`, (input) => {
    if (input === 'auto') return { count: undefined };
    const value = typeof input === 'string' && /^\d{1,7}$/.test(input) ? Number(input) : input;
    const ok = Number.isInteger(value) && Number(value) >= 1 && Number(value) <= max;
    return ok ? { count: Number(value) } : undefined;
  });

const duration = (minMs: number) =>
  scalar(`a duration with a unit, such as 500ms, 120s or 2h, from ${minMs}ms to 24d`, (input) => {
    const value = typeof input === 'string' ? Math.round(parseDurationMs(input)) : Number.NaN;
    return value >= minMs && value <= MAX_DURATION_MS ? value : undefined;
  });

const endpoint = scalar(
  'an IP address with a port up to 65535, such as "10.0.0.3:7777" or "[2001:db8::1]:7777"',
  (input) => (typeof input === 'string' ? Endpoint.parse(input) : undefined),
);

const cidr = scalar('a block of addresses, such as "10.0.0.0/24" or "2001:db8::/32"', (input) =>
  typeof input === 'string' ? Cidr.parse(input) : undefined,
);

const hex = scalar(`1 to ${MAX_PROBE_BYTES} bytes in hex, such as "ffffffff54"`, (input) => {
  const ok =
    typeof input === 'string' && /^([0-9a-fA-F]{2})+$/.test(input) && input.length <= MAX_PROBE_BYTES * 2;
  return ok ? Uint8Array.from(Buffer.from(input, 'hex')) : undefined;
});

/** The message of a bad token never shows it. */
const token = z.unknown().transform((input, context) => {
  if (typeof input === 'string' && /^[\x21-\x7e]{1,256}$/.test(input) && input !== HIDDEN_TOKEN) return input;
  const message =
    input === HIDDEN_TOKEN
      ? `${HIDDEN_TOKEN} stands where a token was hidden; write the token itself`
      : 'should be 1 to 256 printable characters without spaces, in quotes';
  context.addIssue({ code: 'custom', message });
  return z.NEVER;
});

const oneOf = <const T extends string>(choices: readonly T[]) =>
  z.enum(choices, {
    error: ({ input }) => {
      if (input === undefined) return `is missing; it should be one of ${choices.join(', ')}`;
      const hint = typeof input === 'string' ? suggestion(input, choices) : '';
      return `${shown(input)} should be one of ${choices.join(', ')}${hint}`;
    },
  });

/** A section of keys that takes no others. The message for unknown ones has a line for each. */
const section = <T extends z.ZodRawShape>(shape: T) =>
  z.strictObject(shape, {
    error: (issue) => {
      if (issue.code !== 'unrecognized_keys') return undefined;
      const known = Object.keys(shape);
      return issue.keys
        .map((key) => `is not a key here${suggestion(key, known) || `; the keys are ${known.join(', ')}`}`)
        .join('\n');
    },
  });

/** Sections of one kind out of several; `key` tells which. */
const variant = (key: string, choices: readonly string[]) => ({
  error: ({ code, input }: { code: string; input?: unknown }) => {
    if (code !== 'invalid_union') return undefined;
    const value = (input as Record<string, unknown>)[key];
    if (value === undefined) return `is missing; it should be one of ${choices.join(', ')}`;
    const hint = typeof value === 'string' ? suggestion(value, choices) : '';
    return `${shown(value)} should be one of ${choices.join(', ')}${hint}`;
  },
});

const udpListener = section({
  protocol: z.literal('udp'),
  name,
  listen: endpoint,
  pool: name,
  algorithm: oneOf(ALGORITHMS).default('ip-hash'),
  pinGroup: name.optional(),
  idleTimeout: duration(10).default(limits.DEFAULT_IDLE_TIMEOUT_MS),
  pinTimeout: duration(0).default(limits.DEFAULT_PIN_TIMEOUT_MS),
  receiveBufferBytes: integer(MIN_RECEIVE_BUFFER_BYTES, MAX_RECEIVE_BUFFER_BYTES).default(
    limits.DEFAULT_RECEIVE_BUFFER_BYTES,
  ),
  limits: section({
    sessionsPerSource: integer(0, limits.MAX_RECORDS).default(limits.DEFAULT_SESSIONS_PER_SOURCE),
    sessionRatePerSource: integer(0, 1_000_000).default(0),
    sessionRate: integer(0, 10_000_000).default(0),
    amplification: integer(0, 1_000_000).default(0),
  }).prefault({}),
}).transform(({ idleTimeout, pinTimeout, ...rest }) => ({
  ...rest,
  idleTimeoutMs: idleTimeout,
  pinTimeoutMs: pinTimeout,
}));

const tcpListener = section({
  protocol: z.literal('tcp'),
  name,
  listen: endpoint,
  pool: name,
  engine: oneOf(TCP_ENGINE_CHOICES).default('auto'),
  algorithm: oneOf(ALGORITHMS).default('least-connections'),
  pinGroup: name.optional(),
  pinTimeout: duration(0).optional(),
  idleTimeout: duration(10).default(limits.DEFAULT_TCP_IDLE_TIMEOUT_MS),
  connectTimeout: duration(1).default(limits.DEFAULT_CONNECT_TIMEOUT_MS),
  maxConnections: integer(1, MAX_CONNECTIONS).default(limits.DEFAULT_MAX_CONNECTIONS),
  keepAlive: duration(0).default(DEFAULT_KEEP_ALIVE_MS),
  slowStart: duration(0).default(0),
  limits: section({
    connectionsPerSource: integer(0, MAX_CONNECTIONS).default(0),
    connectionRatePerSource: integer(0, 1_000_000).default(0),
  }).prefault({}),
  queue: section({
    size: integer(0, limits.MAX_QUEUE).default(0),
    timeout: duration(1).default(limits.DEFAULT_QUEUE_TIMEOUT_MS),
  })
    .transform(({ size, timeout }) => ({ size, timeoutMs: timeout }))
    .prefault({}),
  proxyProtocol: section({
    accept: z.array(cidr).default([]),
    timeout: duration(1).default(limits.DEFAULT_PROXY_HEADER_TIMEOUT_MS),
    send: oneOf(PROXY_VERSIONS).default('none'),
  })
    .transform(({ accept, timeout, send }) => ({ accept, timeoutMs: timeout, send }))
    .prefault({}),
}).transform(({ idleTimeout, pinTimeout, connectTimeout, keepAlive, slowStart, ...rest }) => ({
  ...rest,
  pinTimeoutMs: pinTimeout,
  idleTimeoutMs: idleTimeout,
  connectTimeoutMs: connectTimeout,
  keepAliveMs: keepAlive,
  slowStartMs: slowStart,
}));

export const listenerSchema = z.discriminatedUnion(
  'protocol',
  [udpListener, tcpListener],
  variant('protocol', ['udp', 'tcp']),
);

const timing = {
  interval: duration(10).default(1_000),
  timeout: duration(1).optional(),
  rise: integer(1, 100).default(2),
  fall: integer(1, 100).default(3),
  connectFailures: integer(0, 1_000).default(0),
};
const port = integer(1, 65_535).optional();
const account = text('a name of 1 to 63 printable characters', (input) => /^[\x21-\x7e]{1,63}$/.test(input));

const healthCheck = z
  .discriminatedUnion(
    'type',
    [
      section({ type: z.literal('none'), ...timing }),
      section({ type: z.literal('heartbeat'), ...timing }),
      section({ type: z.literal('tcp'), ...timing, port }).transform((check) => ({
        port: undefined,
        ...check,
      })),
      section({
        type: z.literal('http'),
        ...timing,
        port,
        path: text('a path, such as /healthz', (input) => /^\/[\x21-\x7e]*$/.test(input)).default('/'),
        expectStatus: integer(100, 599).default(200),
      }).transform((check) => ({ port: undefined, ...check })),
      section({
        type: z.literal('udp'),
        ...timing,
        port,
        payload: hex,
        expect: hex.default(() => new Uint8Array(0)),
      }).transform((check) => ({ port: undefined, ...check })),
      section({
        type: z.literal('postgres'),
        ...timing,
        port,
        user: account.optional(),
        password: token.optional(),
        database: account.default('postgres'),
        role: oneOf(POSTGRES_ROLES).default('any'),
      }).transform((check) => ({ port: undefined, user: undefined, password: undefined, ...check })),
    ],
    variant('type', HEALTH_CHECK_TYPES),
  )
  .transform(({ interval, timeout = Math.min(500, interval), ...check }, context) => {
    if (timeout > interval) {
      const message = `${timeout}ms should be at most the interval, ${interval}ms`;
      context.addIssue({ code: 'custom', path: ['timeout'], message });
    }
    if (check.type === 'postgres' && check.role !== 'any' && check.user === undefined) {
      const message = `is missing; the role is asked of the server, which takes an account`;
      context.addIssue({ code: 'custom', path: ['user'], message });
    }
    if (check.type === 'none' && check.connectFailures > 0) {
      const message = `needs a type of health check other than none, which brings a backend back`;
      context.addIssue({ code: 'custom', path: ['connectFailures'], message });
    }
    return { ...check, intervalMs: interval, timeoutMs: timeout };
  });

const weight = integer(1, limits.MAX_WEIGHT);

/** An address that datagrams can be sent to; target-address.ts has the rules. */
const target = endpoint.transform((value, context) => {
  const reason = unusableTarget(value);
  if (reason !== undefined) context.addIssue({ code: 'custom', message: `"${value.toString()}" ${reason}` });
  return value;
});

/** A backend's id by default is its address. */
const backend = z.preprocess(
  (input) => (typeof input === 'string' ? { address: input } : input),
  section({
    id: name.optional(),
    address: target,
    weight: weight.default(1),
    maxConnections: integer(0, MAX_CONNECTIONS).default(0),
  }).transform(({ id, address, ...rest }) => ({ id: id ?? address.toString(), endpoint: address, ...rest })),
);

/** @param defaultCheck type of the health check where none is given */
export const poolSchema = (defaultCheck: 'none' | 'tcp') =>
  section({
    healthCheck: healthCheck.prefault({ type: defaultCheck }),
    registration: section({
      allow: z.array(cidr).min(1, 'is an empty list, so nothing could register'),
      token: token.optional(),
      settle: duration(0).optional(),
    }).optional(),
    backends: z
      .array(backend)
      .max(limits.MAX_BACKENDS, `has more than ${limits.MAX_BACKENDS} backends`)
      .default([]),
  }).transform(({ registration, ...pool }) => {
    const { intervalMs, timeoutMs } = pool.healthCheck;
    return {
      ...pool,
      registration: registration && {
        allow: registration.allow,
        token: registration.token,
        // Within an interval every live server sends a heartbeat; the timeout is its way here.
        settleMs: registration.settle ?? intervalMs + timeoutMs,
      },
    };
  });

/** The root; listeners and pools are read one by one (config.ts), so that a fault in one hides none in another. */
export const rootSchema = section({
  name: name.default('tickrelay'),
  engine: oneOf(ENGINE_CHOICES).default('auto'),
  workers: countOrAuto(MAX_WORKERS).default({ count: undefined }),
  coalesceUs: integer(0, MAX_COALESCE_US).default(0),
  hashSeed: integer(0, 0xffff_ffff).default(0),
  kernel: section({
    interfaces: z.array(interfaceName).default([]),
    sourceAddress: oneOf(SOURCE_ADDRESSES).optional(),
    relayPorts: portRange.default(limits.DEFAULT_RELAY_PORTS),
    bpffs: text('an absolute path, or none', (input) => input === 'none' || /^\/[^\0]*$/.test(input)).default(
      limits.DEFAULT_BPFFS,
    ),
    keepAttached: flag.default(false),
  })
    .transform(({ sourceAddress, ...rest }) => ({ ...rest, sourceAddress }))
    .prefault({}),
  listeners: z
    .array(z.unknown())
    .min(1, 'has no listener; there should be at least one')
    .max(limits.MAX_LISTENERS, `has more than ${limits.MAX_LISTENERS} listeners`),
  pools: z.record(z.string(), z.unknown()),
  admin: section({ listen: endpoint, token: token.optional() })
    .transform(({ listen, token: secret }) => ({ listen, token: secret }))
    .optional(),
  limits: section({
    maxSessions: integer(1, limits.MAX_RECORDS).default(limits.DEFAULT_MAX_SESSIONS),
    maxUpstreamSockets: countOrAuto(limits.MAX_UPSTREAM_SOCKETS).default({ count: undefined }),
  })
    .transform(({ maxSessions, maxUpstreamSockets }) => {
      return { maxSessions, maxUpstreamSockets: maxUpstreamSockets.count };
    })
    .prefault({}),
  shutdown: section({
    delay: duration(0).default(0),
    deadline: duration(0).default(DEFAULT_SHUTDOWN_DEADLINE_MS),
  })
    .transform(({ delay, deadline }) => ({ delayMs: delay, deadlineMs: deadline }))
    .prefault({}),
  log: section({ level: oneOf(LOG_LEVELS).default('info') }).prefault({}),
}).transform(({ name: own, engine, workers: threads, coalesceUs, hashSeed, kernel, ...rest }) => {
  const { admin, limits: bounds, shutdown, log } = rest;
  return {
    name: own,
    engine,
    workers: threads.count,
    coalesceUs,
    hashSeed,
    kernel,
    admin,
    limits: bounds,
    shutdown,
    log,
  };
});
