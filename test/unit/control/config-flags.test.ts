import { expect, test } from 'vitest';
import { configFromFlags } from '../../../relay/control/config-flags.ts';
import { parseConfig } from '../../../relay/control/config.ts';

test('flags become the same configuration as the file', () => {
  const fromFlags = configFromFlags({
    udp: '0.0.0.0:7777',
    backend: ['10.0.0.3:7777', '10.0.0.5:7777'],
    tcp: ['5432=10.0.0.3:5432', '127.0.0.1:6432=10.0.0.3:5432,10.0.0.5:5432'],
    engine: 'dgram',
    admin: '127.0.0.1:7900',
    registerToken: 'secret',
  });
  const fromFile = parseConfig(`
engine: dgram
listeners:
  - { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: game-servers }
  - { name: tcp-5432, protocol: tcp, listen: "0.0.0.0:5432", pool: tcp-5432 }
  - { name: tcp-6432, protocol: tcp, listen: "127.0.0.1:6432", pool: tcp-6432 }
pools:
  game-servers:
    registration: { allow: ["127.0.0.0/8", "::1/128"], token: secret }
    backends: ["10.0.0.3:7777", "10.0.0.5:7777"]
  tcp-5432: { backends: ["10.0.0.3:5432"] }
  tcp-6432: { backends: ["10.0.0.3:5432", "10.0.0.5:5432"] }
admin: { listen: "127.0.0.1:7900" }
`);
  expect(fromFlags).toEqual(fromFile);
});

test('two addresses may share a TCP port', () => {
  const { config } = configFromFlags({
    tcp: ['127.0.0.1:5432=10.0.0.3:5432', '127.0.0.2:5432=10.0.0.5:5432', '[::1]:5432=10.0.0.7:5432'],
  });
  expect(config.listeners.map(({ name, listen }) => [name, listen.toString()])).toEqual([
    ['tcp-5432', '127.0.0.1:5432'],
    ['tcp-5432-2', '127.0.0.2:5432'],
    ['tcp-5432-3', '[::1]:5432'],
  ]);
  expect(config.pools.map(({ backends }) => backends[0]?.endpoint.toString())).toEqual([
    '10.0.0.3:5432',
    '10.0.0.5:5432',
    '10.0.0.7:5432',
  ]);
});

test.each([
  ['without an admin address', {}, false],
  ['with a loopback admin address', { admin: '[::1]:7900' }, true],
  ['with a loopback admin address and a backend', { admin: '[::1]:7900', backend: ['10.0.0.3:7777'] }, false],
  [
    'with a backend and a token',
    { admin: '[::1]:7900', backend: ['10.0.0.3:7777'], registerToken: 'secret' },
    true,
  ],
  ['with a public admin address', { admin: '0.0.0.0:7900' }, false],
  ['with a public admin address and a token', { admin: '0.0.0.0:7900', registerToken: 'secret' }, true],
  [
    'with a public admin address and an allow list',
    { admin: '0.0.0.0:7900', registerAllow: ['10.0.0.0/8'] },
    true,
  ],
])('game servers may register only where that is safe or asked for: %s', (_name, flags, allowed) => {
  const { config } = configFromFlags({ udp: '0.0.0.0:7777', ...flags });
  expect(config.pools[0]?.registration !== undefined).toBe(allowed);
});

test.each([
  [{ udp: 'x' }, '--udp: "x" should be an IP address with a port'],
  [{ udp: '0.0.0.0:7777', backend: ['10.0.0.3:0'] }, '--backend: "10.0.0.3:0" has port 0'],
  [
    { udp: '0.0.0.0:7777', backend: ['127.0.0.1:7777'] },
    '--backend: "127.0.0.1:7777" is the relay\'s own listener',
  ],
  [{ udp: '0.0.0.0:7777', engine: 'fast' }, '--engine: "fast" should be one of auto'],
  [{ udp: '0.0.0.0:7777', idleTimeout: '5' }, '--idle-timeout: "5" should be a duration'],
  [{ udp: '0.0.0.0:7777', maxSessions: 'many' }, '--max-sessions: "many" should be a whole number'],
  [{ udp: '0.0.0.0:7777', admin: '127.0.0.1' }, '--admin: "127.0.0.1" should be'],
  [{ tcp: ['nonsense'] }, '--tcp: "nonsense" should be like 5432=10.0.0.3:5432'],
  [{ tcp: ['5432=10.0.0.3'] }, '--tcp: "10.0.0.3" should be an IP address with a port'],
  [{ backend: ['10.0.0.3:7777'] }, '--backend: needs --udp'],
  [{ tcp: ['5432=10.0.0.3:5432'], algorithm: 'ip-hash' }, '--algorithm: says nothing without --udp'],
  [{ tcp: ['5432=10.0.0.3:5432'], idleTimeout: '5m' }, '--idle-timeout: says nothing without --udp'],
  [{ udp: '0.0.0.0:7777', registerToken: 'x' }, '--register-token: says nothing without --admin'],
  [{ udp: '0.0.0.0:7777', adminToken: 'x' }, '--admin-token: says nothing without --admin'],
  [{}, '--udp: is missing'],
])('a wrong flag is named: %j', (flags, message) => {
  expect(() => configFromFlags(flags)).toThrow(message);
});
