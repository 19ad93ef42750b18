/** What a configuration says, with its defaults, and what it is warned of. */
import { expect, test } from 'vitest';
import { parseConfig } from '../../../relay/control/config.ts';
import { formatConfig } from '../../../relay/control/config-format.ts';
import { errorOf, EXAMPLE, MINIMAL, withListener, withPool } from './config-texts.ts';

test('the example of the design becomes a typed configuration', () => {
  const { config, warnings } = parseConfig(EXAMPLE, { env: { TICKRELAY_TOKEN: 'secret' } });
  expect(warnings).toEqual([]);
  expect(config.listeners.map(({ listen }) => listen.toString())).toEqual(['0.0.0.0:7777', '0.0.0.0:5432']);
  const [games, postgres] = config.pools;
  expect(games?.registration?.token).toBe('secret');
  expect(games?.registration?.allow.map(String)).toEqual(['10.0.0.0/24']);
  expect(games?.healthCheck).toEqual({
    type: 'heartbeat',
    intervalMs: 1000,
    timeoutMs: 500,
    rise: 2,
    fall: 3,
    connectFailures: 0,
  });
  expect(postgres?.backends.map(({ id, weight }) => ({ id, weight }))).toEqual([
    { id: '10.0.0.3:5432', weight: 1 },
    { id: '10.0.0.5:5432', weight: 1 },
  ]);
});

test('what is not given has its default', () => {
  const { config } = parseConfig(MINIMAL);
  expect(config).toMatchObject({
    engine: 'auto',
    workers: undefined,
    coalesceUs: 0,
    hashSeed: 0,
    limits: { maxSessions: 65_536, maxUpstreamSockets: undefined },
    shutdown: { delayMs: 0, deadlineMs: 30_000 },
    log: { level: 'info' },
  });
  expect(config.admin).toBeUndefined();
  expect(config.listeners[0]).toMatchObject({
    algorithm: 'ip-hash',
    idleTimeoutMs: 120_000,
    pinTimeoutMs: 600_000,
    receiveBufferBytes: 4_194_304,
    limits: { sessionsPerSource: 1_024, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 },
  });
  expect(config.pools[0]?.healthCheck.type).toBe('none');
  const tcp = parseConfig(MINIMAL.replace('udp', 'tcp')).config.listeners[0];
  expect(tcp).toMatchObject({
    algorithm: 'least-connections',
    idleTimeoutMs: 7_440_000,
    connectTimeoutMs: 3_000,
    maxConnections: 10_000,
    keepAliveMs: 60_000,
    slowStartMs: 0,
    limits: { connectionsPerSource: 0, connectionRatePerSource: 0 },
    queue: { size: 0, timeoutMs: 5_000 },
    proxyProtocol: { accept: [], timeoutMs: 5_000, send: 'none' },
  });
  expect(config.pools[0]?.backends[0]).toMatchObject({ weight: 1, maxConnections: 0 });
});

test('a TCP listener with every key reads back as it was written', () => {
  const text = `
listeners:
  - name: login
    protocol: tcp
    listen: "0.0.0.0:5432"
    pool: db
    slowStart: 30s
    limits: { connectionsPerSource: 8, connectionRatePerSource: 20 }
    queue: { size: 100, timeout: 2s }
    proxyProtocol: { accept: ["10.0.0.0/8", "2001:db8::/32"], timeout: 3s, send: v2 }
pools:
  db: { backends: [ { address: "10.0.0.3:5432", maxConnections: 90 } ] }
`;
  const { config, warnings } = parseConfig(text);
  expect(warnings).toEqual([]);
  expect(config.listeners[0]).toMatchObject({
    slowStartMs: 30_000,
    limits: { connectionsPerSource: 8, connectionRatePerSource: 20 },
    queue: { size: 100, timeoutMs: 2_000 },
    proxyProtocol: { timeoutMs: 3_000, send: 'v2' },
  });
  expect(config.pools[0]?.backends[0]?.maxConnections).toBe(90);
  expect(parseConfig(formatConfig(config)).config).toEqual(config);
});

test('a postgres check reads back as it was written, its password hidden', () => {
  const text = withPool(
    'healthCheck: { type: postgres, user: probe, password: secret, role: replica, connectFailures: 5 }',
  );
  const { config } = parseConfig(text);
  expect(config.pools[0]?.healthCheck).toMatchObject({
    type: 'postgres',
    user: 'probe',
    password: 'secret',
    database: 'postgres',
    role: 'replica',
    connectFailures: 5,
  });
  const shown = formatConfig(config);
  expect(shown).not.toContain('secret');
  expect(parseConfig(shown.replace('"********"', 'secret')).config).toEqual(config);
});

test.each(['0.0.0.0/0', '::/0'])('a PROXY header from anybody, %s, is a warning', (block) => {
  const trusting = withListener(`proxyProtocol: { accept: ["${block}"] }`).replace('udp', 'tcp');
  expect(parseConfig(trusting).warnings).toContain(
    'listeners[0].proxyProtocol.accept: trusts every address, so whoever connects may say to be another client; name the proxies',
  );
});

test('backends behind TCP listeners only are checked by TCP where nothing else is said', () => {
  const typeOf = (text: string): string | undefined => parseConfig(text).config.pools[0]?.healthCheck.type;
  const tcp = MINIMAL.replace('udp', 'tcp');
  expect(typeOf(tcp)).toBe('tcp');
  expect(typeOf(tcp.replace('backends:', 'healthCheck: { type: none }, backends:'))).toBe('none');
  const udpToo = '{ name: too, protocol: udp, listen: "0.0.0.0:7777", pool: servers } ]';
  expect(typeOf(tcp.replace('} ]', `}, ${udpToo}`))).toBe('none');
});

test('static backends that nobody checks are a warning', () => {
  const warning =
    'pools.servers.healthCheck: is none, so a backend that dies keeps getting players; give healthCheck';
  expect(parseConfig(MINIMAL).warnings).toEqual([warning]);
  expect(parseConfig(withPool('healthCheck: { type: heartbeat }')).warnings).toEqual([]);
});

test('the effective configuration reads back as the same configuration, with its tokens hidden', () => {
  const { config } = parseConfig(EXAMPLE, { env: { TICKRELAY_TOKEN: 'secret' } });
  const shown = formatConfig(config);
  expect(shown).not.toContain('secret');
  expect(parseConfig(shown.replace('"********"', 'secret')).config).toEqual(config);
  expect(errorOf(shown).message).toContain('stands where a token was hidden');
});

test('several listeners may ask for any free port', () => {
  const text = MINIMAL.replace('0.0.0.0:7777', '127.0.0.1:0').replace(
    ' ]\npools',
    ', { name: more, protocol: udp, listen: "127.0.0.1:0", pool: servers } ]\npools',
  );
  expect(parseConfig(text).config.listeners).toHaveLength(2);
});

test('variables of the environment are filled in, also in numbers, with a default after :-', () => {
  const text = `
listeners: [ { name: "\${NAME}-1", protocol: udp, listen: "\${HOST:-0.0.0.0}:\${PORT}", pool: servers } ]
pools: { servers: { backends: [ { address: "10.0.0.3:7777", weight: "\${WEIGHT:-7}" } ] } }`;
  const { config } = parseConfig(text, { env: { NAME: 'game', PORT: '7000' } });
  expect(config.listeners[0]?.name).toBe('game-1');
  expect(config.listeners[0]?.listen.toString()).toBe('0.0.0.0:7000');
  expect(config.pools[0]?.backends[0]?.weight).toBe(7);
});

test('a value from the environment is text and never more YAML', () => {
  const text = withPool('registration: { allow: ["10.0.0.0/8"], token: "${SECRET}" }');
  const env = { SECRET: '"x",backends:[]' };
  expect(parseConfig(text, { env }).config.pools[0]?.registration?.token).toBe('"x",backends:[]');
});

test.each([
  [
    'a short idle timeout',
    withListener('idleTimeout: 30s'),
    'listeners[0].idleTimeout: 30000ms is below the 120s',
  ],
  ['an empty pool', MINIMAL.replace('[ "10.0.0.3:7777" ]', '[]'), 'pools.servers: has no backends'],
  [
    'a pool that nobody uses',
    MINIMAL.replace('{ servers:', '{ spare: { backends: ["10.0.0.9:1"] }, servers:'),
    'pools.spare: no listener uses it',
  ],
  [
    'registration without an admin address',
    withPool('registration: { allow: ["10.0.0.0/8"] }'),
    'there is no admin address',
  ],
  [
    'an admin address that others reach, without a token',
    `${MINIMAL}admin: { listen: "0.0.0.0:7900" }`,
    'admin.token: is missing, and "0.0.0.0:7900" is no loopback address',
  ],
])('a warning says what is probably not meant: %s', (_name, text, warning) => {
  expect(parseConfig(text).warnings.join('\n')).toContain(warning);
});

test('registration without a token is no warning where only this machine reaches the admin address', () => {
  const keys = 'healthCheck: { type: heartbeat }, registration: { allow: ["10.0.0.0/8"] }';
  const text = `${withPool(keys)}admin: { listen: "127.0.0.1:7900" }`;
  expect(parseConfig(text).warnings).toEqual([]);
});
