import { expect, test } from 'vitest';
import { createRig, RIG_CONFIG, type Rig } from './control-rig.ts';

const TOKEN = { authorization: 'Bearer secret' };
const URL = '/v1/pools/games/backends/gs-1';
const BODY = { address: '10.0.0.9:7777', weight: 1, players: 12 };

const put = (
  rig: Rig,
  { url = URL, body = BODY, headers = {} }: { url?: string; body?: unknown; headers?: object } = {},
) =>
  rig.server.app.inject({
    method: 'PUT',
    url,
    headers: { ...TOKEN, 'content-type': 'application/json', ...headers },
    payload: typeof body === 'string' ? body : JSON.stringify(body),
  });

const backendsOf = (rig: Rig): unknown =>
  rig.control.pools().map((pool) => pool.view().backends.map(({ id, address }) => [id, address]));

test('a game server joins, repeats itself as a heartbeat, and leaves', async () => {
  const rig = createRig();
  const joined = await put(rig);
  expect(joined.statusCode).toBe(200);
  expect(joined.json()).toMatchObject({
    id: 'gs-1',
    address: '10.0.0.9:7777',
    weight: 1,
    state: 'ready',
    origin: 'registered',
    players: 12,
  });
  const repeated = await put(rig, { body: { ...BODY, players: 13 } });
  expect(repeated.json()).toMatchObject({ state: 'ready', players: 13 });
  const left = await rig.server.app.inject({ method: 'DELETE', url: URL, headers: TOKEN });
  expect(left.statusCode).toBe(204);
  expect(
    rig.control
      .pool('games')
      .view()
      .backends.map(({ id }) => id),
  ).toEqual(['static-1']);
  const again = await rig.server.app.inject({ method: 'DELETE', url: URL, headers: TOKEN });
  expect(again.statusCode).toBe(404);
});

test('weight and players may be left out', async () => {
  const rig = createRig();
  const joined = await put(rig, { body: { address: '[fd00::9]:7777' } });
  expect(joined.json()).toMatchObject({ address: '[fd00::9]:7777', weight: 1 });
});

test('a static backend may report by its own id', async () => {
  const rig = createRig();
  const answer = await put(rig, {
    url: '/v1/pools/games/backends/static-1',
    body: { address: '10.0.0.1:7777', players: 3 },
  });
  expect(answer.json()).toMatchObject({ id: 'static-1', origin: 'static', players: 3 });
});

const bad = (change: object): { body: unknown } => ({ body: { ...BODY, ...change } });

test.each<[string, Parameters<typeof put>[1], number, string, string]>([
  ['a truncated body', { body: '{"address":"10.0.0' }, 400, 'REQUEST', ''],
  ['no JSON', { body: 'hello' }, 400, 'REQUEST', ''],
  ['an empty body', { body: '' }, 400, 'REGISTRATION', 'the body should be a JSON object'],
  ['a list', { body: [] }, 400, 'REGISTRATION', 'the body should be a JSON object'],
  ['null', { body: 'null' }, 400, 'REGISTRATION', 'the body should be a JSON object'],
  ['an oversize body', { body: { ...BODY, address: 'x'.repeat(5_000) } }, 413, 'REQUEST', 'too large'],
  ['another media type', { headers: { 'content-type': 'text/plain' } }, 415, 'REQUEST', ''],
  [
    'an unknown pool',
    { url: '/v1/pools/nowhere/backends/gs-1' },
    404,
    'POOL',
    'no such pool "nowhere"; the pools are games, db',
  ],
  [
    'a pool without registration',
    { url: '/v1/pools/db/backends/gs-1' },
    403,
    'REGISTRATION',
    'takes no registrations',
  ],
  ['no token', { headers: { authorization: '' } }, 401, 'UNAUTHORIZED', 'a bearer token is needed'],
  [
    'a bad token',
    { headers: { authorization: 'Bearer secreT' } },
    401,
    'UNAUTHORIZED',
    'a bearer token is needed',
  ],
  ['a token as a password', { headers: { authorization: 'Basic secret' } }, 401, 'UNAUTHORIZED', ''],
  [
    'an id with a slash',
    { url: '/v1/pools/games/backends/a%2Fb' },
    400,
    'REGISTRATION',
    'the backend id "a/b" should be',
  ],
  [
    'an id of 65 characters',
    { url: `/v1/pools/games/backends/${'a'.repeat(65)}` },
    400,
    'REGISTRATION',
    'should be a name',
  ],
  [
    'an id with a newline',
    { url: '/v1/pools/games/backends/a%0Ab' },
    400,
    'REGISTRATION',
    'should be a name',
  ],
  [
    'the id __proto__',
    { url: '/v1/pools/games/backends/__proto__' },
    400,
    'REGISTRATION',
    'should be a name',
  ],
  ['the pool __proto__', { url: '/v1/pools/__proto__/backends/a' }, 404, 'POOL', 'no such pool'],
  ['a __proto__ key', { body: '{"address":"10.0.0.9:7777","__proto__":{"x":1}}' }, 400, 'REQUEST', ''],
  [
    'a constructor.prototype key',
    { body: '{"address":"10.0.0.9:7777","constructor":{"prototype":{}}}' },
    400,
    'REQUEST',
    '',
  ],
  ['an unknown key', bad({ adress: 1 }), 400, 'REGISTRATION', '"adress" is not a key here'],
  ['no address', { body: { weight: 1 } }, 400, 'REGISTRATION', 'address: null should be'],
  ['an address that is a number', bad({ address: 7 }), 400, 'REGISTRATION', 'address: 7 should be'],
  ['a host name', bad({ address: 'localhost:7777' }), 400, 'REGISTRATION', 'should be an IP address'],
  ['no port', bad({ address: '10.0.0.9' }), 400, 'REGISTRATION', 'should be an IP address with a port'],
  [
    'port 65536',
    bad({ address: '10.0.0.9:65536' }),
    400,
    'REGISTRATION',
    'should be an IP address with a port',
  ],
  ['port 0', bad({ address: '10.0.0.9:0' }), 403, 'REGISTRATION', 'port 0'],
  ['unspecified', bad({ address: '0.0.0.0:7000' }), 403, 'REGISTRATION', 'unspecified'],
  ['IPv6 unspecified', bad({ address: '[::]:7000' }), 403, 'REGISTRATION', 'unspecified'],
  ['multicast', bad({ address: '224.0.0.5:7000' }), 403, 'REGISTRATION', 'multicast'],
  ['IPv6 multicast', bad({ address: '[ff02::1]:7000' }), 403, 'REGISTRATION', 'multicast'],
  ['broadcast', bad({ address: '255.255.255.255:7000' }), 403, 'REGISTRATION', 'broadcast'],
  ['broadcast of a subnet', bad({ address: '127.255.255.255:7000' }), 403, 'REGISTRATION', 'of 127.0.0.0/8'],
  ['link-local', bad({ address: '169.254.169.254:80' }), 403, 'REGISTRATION', 'link-local'],
  ['IPv6 link-local', bad({ address: '[fe80::1]:7000' }), 403, 'REGISTRATION', 'link-local'],
  [
    'v4-mapped link-local',
    bad({ address: '[::ffff:169.254.169.254]:80' }),
    403,
    'REGISTRATION',
    'link-local',
  ],
  ['outside the allow list', bad({ address: '192.0.2.1:7000' }), 403, 'REGISTRATION', 'outside the blocks'],
  [
    'the relay through its wildcard',
    bad({ address: '127.0.0.1:7777' }),
    403,
    'REGISTRATION',
    'is the relay itself',
  ],
  [
    'the relay through another loopback address',
    bad({ address: '127.1.2.3:7777' }),
    403,
    'REGISTRATION',
    'is the relay itself',
  ],
  [
    'the relay as v4-mapped',
    bad({ address: '[::ffff:127.0.0.1]:7777' }),
    403,
    'REGISTRATION',
    'is the relay itself',
  ],
  [
    'another listener of the relay',
    bad({ address: '10.9.9.9:5432' }),
    403,
    'REGISTRATION',
    'is the relay itself',
  ],
  ['the admin address', bad({ address: '127.0.0.1:7900' }), 403, 'REGISTRATION', 'is the relay itself'],
  ['weight 0', bad({ weight: 0 }), 400, 'REGISTRATION', 'weight: 0 should be a whole number from 1 to 256'],
  ['weight 257', bad({ weight: 257 }), 400, 'REGISTRATION', 'weight: 257'],
  ['weight 1.5', bad({ weight: 1.5 }), 400, 'REGISTRATION', 'weight: 1.5'],
  ['weight as text', bad({ weight: '1' }), 400, 'REGISTRATION', 'weight: "1"'],
  ['players below 0', bad({ players: -1 }), 400, 'REGISTRATION', 'players: -1'],
  ['players without bound', bad({ players: 1e9 }), 400, 'REGISTRATION', 'players: 1000000000'],
  [
    'the address of another backend',
    bad({ address: '10.0.0.1:7777' }),
    409,
    'REGISTRATION',
    'already in the pool under another id',
  ],
  [
    'another address for a static backend',
    { url: '/v1/pools/games/backends/static-1' },
    409,
    'REGISTRATION',
    'stands in the configuration with 10.0.0.1:7777',
  ],
])('is refused with no state changed: %s', async (_name, request, status, code, message) => {
  const rig = createRig();
  const before = backendsOf(rig);
  const published = rig.snapshots.length;
  const answer = await put(rig, request);
  const { error, code: answered, message: text, ...rest } = answer.json<Record<string, string>>();
  expect([answer.statusCode, answered, rest]).toEqual([status, `TICKRELAY_ERR_${code}`, {}]);
  expect(error).toMatch(/^[A-Z]/);
  expect(text).toContain(message);
  expect(answer.body).not.toContain('secret');
  expect(backendsOf(rig)).toEqual(before);
  expect(rig.snapshots).toHaveLength(published);
  expect(Object.prototype).not.toHaveProperty('x');
});

test('every refusal is counted under its pool', async () => {
  const rig = createRig();
  await put(rig, { headers: { authorization: 'Bearer no' } });
  await put(rig, { body: 'hello' });
  await put(rig, bad({ address: '192.0.2.1:1' }));
  await put(rig, { url: '/v1/pools/nowhere/backends/a' });
  await put(rig);
  expect(rig.control.pool('games').counts().registrations).toMatchObject({ refused: 3, registered: 1 });
});

test('a pool without a token falls back to the admin token', async () => {
  const rig = createRig(
    RIG_CONFIG.replace(', token: secret', '').replace('127.0.0.1:7900"', '127.0.0.1:7900", token: boss'),
  );
  expect((await put(rig)).statusCode).toBe(401);
  expect((await put(rig, { headers: { authorization: 'Bearer boss' } })).statusCode).toBe(200);
});

test('without any token whoever reaches the admin address may register', async () => {
  const rig = createRig(RIG_CONFIG.replace(', token: secret', ''));
  expect((await put(rig, { headers: { authorization: '' } })).statusCode).toBe(200);
});

test('a page of another site can not register', async () => {
  const rig = createRig();
  expect((await put(rig, { headers: { origin: 'http://evil.example' } })).statusCode).toBe(403);
});
