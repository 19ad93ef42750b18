/** What is no configuration: refused with the path, the value and what would be right. */
import { describe, expect, test } from 'vitest';
import { loadConfig, parseConfig } from '../../../relay/control/config.ts';
import { errorOf, MINIMAL, withBackends, withListener, withPool } from './config-texts.ts';

test.each([
  ['healthCheck: { type: postgres, role: primary }', 'healthCheck.user: is missing; the role is asked'],
  ['healthCheck: { type: postgres, role: leader }', 'healthCheck.role: "leader" should be one of'],
  ['healthCheck: { type: none, connectFailures: 3 }', 'healthCheck.connectFailures: needs a type'],
])('a health check that can not work is refused: %s', (keys, problem) => {
  expect(errorOf(withPool(keys)).message).toContain(problem);
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

test('a variable that is not set is named, beside the other problems', () => {
  const { message } = errorOf(
    withPool('registration: { allow: ["10.0.0.0/8"], token: "${SECRET}" }, nope: 1'),
  );
  expect(message).toContain(
    'line 3: pools.servers.registration.token: needs the environment variable SECRET, which is not set',
  );
  expect(message).toContain('pools.servers.nope');
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

test('a file that can not be read is named with the reason', async () => {
  await expect(loadConfig('/nonexistent/relay.yaml')).rejects.toThrow(
    "/nonexistent/relay.yaml can't be read (ENOENT)",
  );
});

describe('a listener on one of the relay’s own ports', () => {
  const text = (kernel: string, listen: string, engine = 'kernel'): string =>
    `engine: ${engine}\nkernel: ${kernel}\n${MINIMAL.replace('0.0.0.0:7777', listen)}`;

  test.each([
    ['{ sourceAddress: relay }', '0.0.0.0:61500', 'port 61500 is one of kernel.relayPorts, 61000-65535'],
    ['{ sourceAddress: relay, relayPorts: 7770-7800 }', '0.0.0.0:7770', '7770-7800'],
    ['{ sourceAddress: relay, relayPorts: 7770-7800 }', '[::]:7800', '7770-7800'],
  ])('is refused: %s and %s', (kernel, listen, message) => {
    const { message: said } = errorOf(text(kernel, listen));
    expect(said).toContain('listeners[0].listen');
    expect(said).toContain(message);
  });

  test('is no matter outside of them, with the players’ own address, or on another engine', () => {
    for (const fine of [
      text('{ sourceAddress: relay, relayPorts: 7770-7800 }', '0.0.0.0:7801'),
      text('{ sourceAddress: client }', '0.0.0.0:61500'),
      text('{ sourceAddress: relay }', '0.0.0.0:61500', 'mmsg'),
    ])
      expect(() => parseConfig(fine)).not.toThrow();
  });
});

describe('more pools than the engine kernel has room for', () => {
  /** A listener with these keys for each of so many pools. */
  const text = (engine: string, count: number, keys: string): string => {
    const numbers = Array.from({ length: count }, (_, i) => i);
    return [
      `engine: ${engine}`,
      'listeners:',
      ...numbers.map((i) => `  - { name: l${i}, listen: "0.0.0.0:${7000 + i}", pool: p${i}, ${keys} }`),
      'pools:',
      ...numbers.map((i) => `  p${i}: { backends: [ "10.0.0.3:7777" ] }`),
    ].join('\n');
  };

  test.each(['protocol: udp', 'protocol: tcp, engine: kernel'])('are refused: %s', (keys) => {
    const { code, message } = errorOf(text('kernel', 66, keys));
    expect(code).toBe('TICKRELAY_ERR_CONFIG');
    expect(message).toMatch(
      /1 problem\n {2}line 67: listeners\[64\]\.pool: "p64" is one of 66 pools .*has room for 64; let listeners share pools, .*engine auto or mmsg/,
    );
  });

  test('are no matter where they fit, share pools, may be in user space, or another engine may run', () => {
    for (const fine of [
      text('kernel', 64, 'protocol: udp'),
      text('kernel', 66, 'protocol: udp').replace('pool: p65', 'pool: p0').replace('pool: p64', 'pool: p0'),
      text('kernel', 66, 'protocol: tcp'),
      text('kernel', 66, 'protocol: tcp, engine: userspace'),
      text('auto', 66, 'protocol: udp'),
      text('mmsg', 66, 'protocol: udp'),
    ])
      expect(() => parseConfig(fine)).not.toThrow();
  });
});
