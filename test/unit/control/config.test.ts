import { describe, expect, test } from 'vitest';
import { RelayError } from '../../../net/relay-error.ts';
import { loadConfig, parseConfig } from '../../../relay/control/config.ts';
import { formatConfig } from '../../../relay/control/config-format.ts';
import { pinGroupsOf } from '../../../relay/control/pin-groups.ts';

const EXAMPLE = `
engine: auto            # auto | dgram | mmsg | kernel
listeners:
  - { name: game,  protocol: udp, listen: "0.0.0.0:7777", pool: game-servers, algorithm: ip-hash, idleTimeout: 120s }
  - { name: login, protocol: tcp, listen: "0.0.0.0:5432", pool: postgres, algorithm: least-connections }
pools:
  game-servers:
    healthCheck: { type: heartbeat, interval: 1s, timeout: 500ms, rise: 2, fall: 3 }
    registration: { allow: ["10.0.0.0/24"], token: "\${TICKRELAY_TOKEN}" }
    backends: [ { address: "10.0.0.3:7777", weight: 1 } ]
  postgres:
    healthCheck: { type: tcp, interval: 1s }
    backends: [ "10.0.0.3:5432", "10.0.0.5:5432" ]
admin: { listen: "127.0.0.1:7900" }
`;

const MINIMAL = `
listeners: [ { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: servers } ]
pools: { servers: { backends: [ "10.0.0.3:7777" ] } }
`;

const errorOf = (text: string, env = {}): RelayError => {
  try {
    parseConfig(text, { env, source: 'relay.yaml' });
  } catch (error) {
    if (error instanceof RelayError) return error;
    throw error;
  }
  throw new Error('the configuration was accepted');
};

/** The minimal configuration with a change to its one listener, pool or root. */
const withListener = (keys: string): string => MINIMAL.replace('pool: servers', `pool: servers, ${keys}`);
const withPool = (keys: string): string => MINIMAL.replace('backends:', `${keys}, backends:`);
const withBackends = (list: string): string => MINIMAL.replace('"10.0.0.3:7777"', list);

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

test.each([
  ['healthCheck: { type: postgres, role: primary }', 'healthCheck.user: is missing; the role is asked'],
  ['healthCheck: { type: postgres, role: leader }', 'healthCheck.role: "leader" should be one of'],
  ['healthCheck: { type: none, connectFailures: 3 }', 'healthCheck.connectFailures: needs a type'],
])('a health check that can not work is refused: %s', (keys, problem) => {
  expect(errorOf(withPool(keys)).message).toContain(problem);
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

test.each([
  ['a root key', `${MINIMAL}\nlimts: {}`, 'line 5: limts: is not a key here; did you mean "limits"?'],
  [
    'a key of a listener',
    withListener('idleTimout: 2m'),
    'line 2: listeners[0].idleTimout: is not a key here; did you mean "idleTimeout"?',
  ],
  [
    'a key far from any',
    withPool('zzzzzzzzzz: 1'),
    'line 3: pools.servers.zzzzzzzzzz: is not a key here; the keys are healthCheck, registration, backends',
  ],
  [
    'a key of the limits',
    withListener('limits: { sessionRat: 1 }'),
    'line 2: listeners[0].limits.sessionRat: is not a key here; did you mean "sessionRate"?',
  ],
  [
    'a key of another type of health check',
    withPool('healthCheck: { type: tcp, path: / }'),
    'line 3: pools.servers.healthCheck.path: is not a key here',
  ],
  [
    'a udp key on a tcp listener',
    withListener('receiveBufferBytes: 65536').replace('udp', 'tcp'),
    'line 2: listeners[0].receiveBufferBytes: is not a key here',
  ],
  ['__proto__', withPool('__proto__: { x: 1 }'), 'line 3: pools.servers.__proto__: is not a key'],
  ['a pool called __proto__', MINIMAL.replace('servers: {', '__proto__: {'), 'pools.__proto__: is not a key'],
])('an unknown key fails with its path and a suggestion: %s', (_name, text, message) => {
  const error = errorOf(text);
  expect(error.code).toBe('TICKRELAY_ERR_CONFIG');
  expect(error.message).toContain(message);
});

test.each([
  [
    'a duration without a unit',
    withListener('idleTimeout: 120'),
    'idleTimeout: 120 should be a duration with a unit',
  ],
  [
    'an unknown engine',
    `${MINIMAL}engine: kernal`,
    'engine: "kernal" should be one of auto, dgram, mmsg, kernel; did you mean "kernel"?',
  ],
  [
    'an unknown protocol',
    MINIMAL.replace('udp', 'sctp'),
    'listeners[0].protocol: "sctp" should be one of udp, tcp',
  ],
  [
    'no protocol',
    MINIMAL.replace('protocol: udp,', ''),
    'listeners[0].protocol: is missing; it should be one of udp, tcp',
  ],
  ['no name', MINIMAL.replace('name: game,', ''), 'listeners[0].name: is missing; it should be a name'],
  [
    'an address without a port',
    MINIMAL.replace('0.0.0.0:7777', '0.0.0.0'),
    '"0.0.0.0" should be an IP address with a port',
  ],
  [
    'a host name',
    withBackends('"db.example:5432"'),
    'backends[0].address: "db.example:5432" should be an IP address',
  ],
  ['no listeners', 'listeners: []\npools: {}', 'listeners: has no listener'],
  [
    'a listener that is a number',
    MINIMAL.replace(/\[ \{ name.*\} \]/, '[7]'),
    'listeners[0]: 7 should be a section of keys',
  ],
  [
    'a weight of 0',
    withBackends('{ address: "10.0.0.3:1", weight: 0 }'),
    'weight: 0 should be a whole number from 1 to 256',
  ],
  ['a weight of 257', withBackends('{ address: "10.0.0.3:1", weight: 257 }'), 'weight: 257 should be'],
  ['a backend with port 0', withBackends('"10.0.0.3:0"'), '"10.0.0.3:0" has port 0'],
  ['an unspecified backend', withBackends('"0.0.0.0:7000"'), 'is the unspecified address'],
  ['an unspecified IPv6 backend', withBackends('"[::]:7000"'), 'is the unspecified address'],
  ['a multicast backend', withBackends('"224.0.0.5:7000"'), 'is a multicast address'],
  ['an IPv6 multicast backend', withBackends('"[ff02::1]:7000"'), 'is a multicast address'],
  ['a broadcast backend', withBackends('"255.255.255.255:7000"'), 'is the broadcast address'],
  [
    "the broadcast address of one of the machine's networks",
    withBackends('"127.255.255.255:7000"'),
    'is the broadcast address of 127.0.0.0/8',
  ],
  ['a v4-mapped multicast backend', withBackends('"[::ffff:224.0.0.5]:7000"'), 'is a multicast address'],
  [
    'the same backend twice',
    withBackends('"10.0.0.3:1", "10.0.0.3:1"'),
    'backends[1]: "10.0.0.3:1" is already a backend',
  ],
  [
    'the same id twice',
    withBackends('{ id: a, address: "10.0.0.3:1" }, { id: a, address: "10.0.0.3:2" }'),
    'backends[1].id: "a" is the id of another backend',
  ],
  ['a backend that is the listener', withBackends('"127.0.0.1:7777"'), 'is the relay\'s own listener "game"'],
  [
    'an unknown pool',
    MINIMAL.replace('pool: servers', 'pool: server'),
    '"server" is not one of the pools; did you mean "servers"?',
  ],
  [
    'a timeout above the interval',
    withPool('healthCheck: { type: tcp, interval: 1s, timeout: 2s }'),
    'timeout: 2000ms should be at most the interval',
  ],
  [
    'a probe that is no hex',
    withPool('healthCheck: { type: udp, payload: xyz }'),
    'payload: "xyz" should be 1 to 512 bytes in hex',
  ],
  [
    'a bad block of addresses',
    withPool('registration: { allow: ["10.0.0.0/99"] }'),
    'allow[0]: "10.0.0.0/99" should be a block',
  ],
  [
    'a pool name with a space',
    MINIMAL.replace('{ servers:', '{ "a b": {}, servers:'),
    'pools.a b: should be a name',
  ],
  ['an empty file', '', 'the configuration: should have the keys listeners and pools'],
  ['a list', '- 1', 'the configuration: should have the keys listeners and pools'],
  [
    'broken YAML',
    'listeners: [',
    'line 1, column 12: is not valid YAML: the bracket that opens here is not closed',
  ],
  [
    'a key given twice',
    `${MINIMAL}pools: {}`,
    'is not valid YAML: the key "pools" is given twice, first on line 3',
  ],
])('is refused with path, value and what would be right: %s', (_name, text, message) => {
  expect(errorOf(text).message).toContain(message);
});

test('all problems are reported at once, in the order of the lines', () => {
  const { message } = errorOf(`
engine: fast
listeners:
  - { name: a, protocol: udp, listen: "0.0.0.0:1", pool: nowhere }
  - { name: a, protocol: udp, listen: "127.0.0.1:1", pool: p, bad: 1, worse: 2 }
pools:
  p: { backends: [ nonsense ] }
  q: { healthCheck: { type: tpc } }
`);
  const [head, ...lines] = message.split('\n');
  expect(head).toBe('relay.yaml: 6 problems');
  expect(lines.map((line) => /line \d+: ([^:]+)/.exec(line)?.[0])).toEqual([
    'line 2: engine',
    'line 4: listeners[0].pool',
    'line 5: listeners[1].bad',
    'line 5: listeners[1].worse',
    'line 7: pools.p.backends[0].address',
    'line 8: pools.q.healthCheck.type',
  ]);
});

test.each([
  ['the same', '0.0.0.0:7777'],
  ['one within a wildcard', '127.0.0.1:7777'],
  ['one within the IPv6 wildcard', '[::]:7777'],
])('two listeners of one protocol can not share an address: %s', (_name, address) => {
  const second = `{ name: more, protocol: udp, listen: "${address}", pool: servers } ]\npools`;
  expect(errorOf(MINIMAL.replace(/\]\npools/, `, ${second}`)).message).toContain(
    'is already taken by another udp listener',
  );
  expect(() => parseConfig(MINIMAL.replace(/\]\npools/, `, ${second.replace('udp', 'tcp')}`))).not.toThrow();
});

test('the admin address and a tcp listener can not share an address', () => {
  const text = `${MINIMAL.replace('udp', 'tcp')}admin: { listen: "127.0.0.1:7777" }`;
  expect(errorOf(text).message).toContain('listeners[0].listen: "0.0.0.0:7777" is already taken');
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

test('a variable that is not set is named, beside the other problems', () => {
  const { message } = errorOf(
    withPool('registration: { allow: ["10.0.0.0/8"], token: "${SECRET}" }, nope: 1'),
  );
  expect(message).toContain(
    'line 3: pools.servers.registration.token: needs the environment variable SECRET, which is not set',
  );
  expect(message).toContain('pools.servers.nope');
});

test('a value from the environment is text and never more YAML', () => {
  const text = withPool('registration: { allow: ["10.0.0.0/8"], token: "${SECRET}" }');
  const env = { SECRET: '"x",backends:[]' };
  expect(parseConfig(text, { env }).config.pools[0]?.registration?.token).toBe('"x",backends:[]');
});

test('a token never appears in a message', () => {
  expect(
    errorOf(withPool('registration: { allow: ["10.0.0.0/8"], token: "has a space" }')).message,
  ).not.toContain('has a space');
});

test('aliases of aliases are refused within bounds', () => {
  const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]'];
  for (let i = 1; i < 9; i++)
    lines.push(
      `a${i}: &a${i} [${Array(9)
        .fill(`*a${i - 1}`)
        .join(', ')}]`,
    );
  expect(errorOf(lines.join('\n')).message).toContain('too many YAML aliases');
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

test('a file that can not be read is named with the reason', async () => {
  await expect(loadConfig('/nonexistent/relay.yaml')).rejects.toThrow(
    "/nonexistent/relay.yaml can't be read (ENOENT)",
  );
});

describe('pin groups', () => {
  interface Group {
    readonly game?: string;
    readonly login?: string;
    readonly games?: string;
    readonly logins?: string;
  }
  const grouped = ({ game = 'pinGroup: players', login = 'pinGroup: players', ...pools }: Group): string => `
listeners:
  - { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: games, ${game} }
  - { name: login, protocol: tcp, listen: "0.0.0.0:5432", pool: logins, ${login} }
pools:
  games: { healthCheck: { type: tcp }, backends: [ ${pools.games ?? '{ id: eu-1, address: "10.0.0.3:7777" }'} ] }
  logins: { backends: [ ${pools.logins ?? '{ id: eu-1, address: "10.0.0.3:5432" }'} ] }`;

  test('are taken from the listeners that name them', () => {
    const { config, warnings } = parseConfig(grouped({ game: 'pinGroup: players, pinTimeout: 5m' }));
    expect(warnings).toEqual([]);
    const spec = { name: 'players', pools: ['games', 'logins'], pinTimeoutMs: 300_000 };
    expect(pinGroupsOf(config.listeners)).toEqual([spec]);
    expect(parseConfig(formatConfig(config)).config).toEqual(config);
    expect(pinGroupsOf(parseConfig(MINIMAL).config.listeners)).toEqual([]);
  });

  test('of TCP listeners alone have the default timeout, or the one that is given', () => {
    const tcpOnly = (more: string): number | undefined => {
      const text = grouped({ game: more, login: more }).replace('udp', 'tcp');
      return pinGroupsOf(parseConfig(text).config.listeners)[0]?.pinTimeoutMs;
    };
    expect(tcpOnly('pinGroup: players')).toBe(600_000);
    expect(tcpOnly('pinGroup: players, pinTimeout: 1h')).toBe(3_600_000);
  });

  test.each([
    [
      'a timeout of TCP without a group',
      { game: '', login: 'pinTimeout: 5m' },
      'line 4: listeners[1].pinTimeout: says nothing without pinGroup',
    ],
    [
      'two timeouts',
      { login: 'pinGroup: players, pinTimeout: 5m' },
      'line 4: listeners[1].pinTimeout: 300000ms should be 600000ms, as listener "game" has it',
    ],
    [
      'no id in common',
      { logins: '"10.0.0.3:5432"' },
      'line 4: listeners[1].pinGroup: no backend of pool "logins" has the id of one of pool "games"',
    ],
    ['a bad name', { login: 'pinGroup: "a b"' }, 'line 4: listeners[1].pinGroup: "a b" should be a name'],
  ])('are refused with the reason: %s', (_name, group, message) => {
    expect(errorOf(grouped(group)).message).toContain(message);
  });

  test.each([
    ['a group of one', { login: '' }, 'listeners[0].pinGroup: no other listener is of the group "players"'],
    [
      'a server that one pool lacks',
      { games: '{ id: eu-1, address: "10.0.0.3:7777" }, { id: eu-2, address: "10.0.0.4:7777" }' },
      'listeners[0].pinGroup: pool "logins" has no backend with the id eu-2 of pool "games"',
    ],
  ])('are warned of: %s', (_name, group, warning) => {
    expect(parseConfig(grouped(group)).warnings.join('\n')).toContain(warning);
  });

  test('of pools that servers register with are taken as they are', () => {
    const text = grouped({ logins: '"10.0.0.3:5432"' }).replace(
      'games: { healthCheck: { type: tcp }',
      'games: { healthCheck: { type: heartbeat }, registration: { allow: ["10.0.0.0/8"] }',
    );
    expect(() => parseConfig(text)).not.toThrow();
  });
});
