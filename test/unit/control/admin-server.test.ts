import { request, type IncomingMessage } from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { createRig, RIG_CONFIG, type Rig } from './control-rig.ts';

const get = (rig: Rig, url: string, headers = {}) => rig.server.app.inject({ method: 'GET', url, headers });
const post = (rig: Rig, url: string, headers = {}) => rig.server.app.inject({ method: 'POST', url, headers });

test('/livez answers as long as the process does', async () => {
  const answer = await get(createRig(), '/livez');
  expect([answer.statusCode, answer.json()]).toEqual([200, { alive: true }]);
});

test('/readyz says why not', async () => {
  const rig = createRig();
  expect((await get(rig, '/readyz')).statusCode).toBe(200);
  rig.relay.state = { ready: false, reasons: ['draining'] };
  const answer = await get(rig, '/readyz');
  expect(answer.statusCode).toBe(503);
  expect(answer.json()).toEqual({ ready: false, reasons: ['draining'], poolsWithoutBackend: [] });
});

test('/readyz names a pool without a ready backend, and stays ready', async () => {
  const rig = createRig();
  rig.control.pool('db').disable('10.0.0.3:5432');
  const answer = await get(rig, '/readyz');
  expect([answer.statusCode, answer.json()]).toEqual([
    200,
    { ready: true, reasons: [], poolsWithoutBackend: ['db'] },
  ]);
});

test('/v1/pools lists every backend with its sessions and connections', async () => {
  const rig = createRig();
  const { pools } = (await get(rig, '/v1/pools')).json<{ pools: unknown[] }>();
  expect(pools).toEqual([
    {
      name: 'games',
      settling: false,
      ready: 1,
      backends: [
        {
          id: 'static-1',
          address: '10.0.0.1:7777',
          weight: 1,
          state: 'ready',
          origin: 'static',
          sessions: 3,
        },
      ],
    },
    {
      name: 'db',
      settling: false,
      ready: 1,
      backends: [
        {
          id: '10.0.0.3:5432',
          address: '10.0.0.3:5432',
          weight: 1,
          state: 'ready',
          origin: 'static',
          sessions: 1,
        },
      ],
    },
  ]);
  expect((await get(rig, '/v1/pools/db')).json()).toEqual(pools[1]);
  expect((await get(rig, '/v1/pools/nowhere')).statusCode).toBe(404);
});

test.each([
  ['drain', 'draining'],
  ['disable', 'disabled'],
  ['enable', 'ready'],
])('POST %s makes the backend %s', async (operation, state) => {
  const rig = createRig();
  const answer = await post(rig, `/v1/pools/db/backends/10.0.0.3:5432/${operation}`, {
    'content-type': 'application/json',
  });
  expect([answer.statusCode, answer.json<{ state: string }>().state]).toEqual([200, state]);
  await vi.waitFor(() => expect(rig.snapshots.at(-1)?.backends[0]?.state).toBe(state));
  expect((await post(rig, `/v1/pools/db/backends/nobody/${operation}`)).statusCode).toBe(404);
});

test('pin groups are listed with their listeners, and say where the pin of a client leads', async () => {
  const groups = (text: string) => text.replace(/pool: (games|db) /g, 'pool: $1, pinGroup: players ');
  const rig = createRig(groups(RIG_CONFIG));
  expect((await get(rig, '/v1/pin-groups')).json()).toEqual({
    groups: [
      {
        name: 'players',
        pinTimeoutMs: 600_000,
        listeners: [
          { name: 'game', protocol: 'udp', pool: 'games' },
          { name: 'login', protocol: 'tcp', pool: 'db' },
        ],
      },
    ],
  });
  const pin = await get(rig, '/v1/pin-groups/players/pins/192.0.2.1');
  expect(pin.json()).toEqual({ group: 'players', client: '192.0.2.1', backends: { db: 'eu-1' } });
  expect((await get(rig, '/v1/pin-groups/nobody/pins/192.0.2.1')).statusCode).toBe(404);
  expect((await get(rig, '/v1/pin-groups/players/pins/nowhere')).statusCode).toBe(400);
  expect((await get(createRig(), '/v1/pin-groups')).json()).toEqual({ groups: [] });
});

test('sessions and connections are listed by the query, with a limit of 100 unless told', async () => {
  const rig = createRig();
  const answer = await get(rig, '/v1/sessions?limit=5&listener=game&backend=a&client=192.0.2.1');
  expect(answer.json()).toEqual({ sessions: [{ client: '192.0.2.1:4000' }], total: 1, truncated: false });
  expect((await get(rig, '/v1/connections')).json()).toMatchObject({ connections: [{ id: 7 }] });
  expect(rig.relay.queries).toEqual([
    { limit: 5, listener: 'game', backend: 'a', clientIp: '192.0.2.1' },
    { limit: 100 },
  ]);
});

test.each([
  ['limit=-1', 'limit: "-1" should be'],
  ['limit=10001', 'limit: "10001" should be'],
  ['limit=x', 'limit: "x" should be'],
  ['lmit=1', '"lmit" is not a parameter here'],
  ['limit=1&limit=2', 'limit is given more than once'],
])('a query that is wrong is refused: %s', async (query, message) => {
  const answer = await get(createRig(), `/v1/sessions?${query}`);
  expect(answer.statusCode).toBe(400);
  expect(answer.json<{ message: string }>().message).toContain(message);
});

test('a session can be ended by its listener and client', async () => {
  const rig = createRig();
  const end = (client: string) =>
    rig.server.app.inject({ method: 'DELETE', url: `/v1/sessions/game/${encodeURIComponent(client)}` });
  expect((await end('192.0.2.1:4000')).statusCode).toBe(204);
  expect((await end('[2001:db8::1]:4001')).statusCode).toBe(404);
  expect((await end('nobody')).statusCode).toBe(400);
  expect(rig.relay.ended).toEqual(['game 192.0.2.1:4000', 'game [2001:db8::1]:4001']);
});

test('a connection can be ended by its id', async () => {
  const rig = createRig();
  const end = (id: string) => rig.server.app.inject({ method: 'DELETE', url: `/v1/connections/${id}` });
  expect((await end('7')).statusCode).toBe(204);
  expect((await end('8')).statusCode).toBe(404);
  expect((await end('x')).statusCode).toBe(404);
  expect(rig.relay.closed).toEqual([7, 8]);
});

test('the admin token guards everything but the probes and the metrics', async () => {
  const rig = createRig(RIG_CONFIG.replace('127.0.0.1:7900"', '127.0.0.1:7900", token: boss'));
  for (const url of ['/livez', '/readyz', '/metrics']) expect((await get(rig, url)).statusCode).toBe(200);
  for (const url of ['/v1/pools', '/v1/pools/db', '/v1/sessions', '/v1/connections', '/v1/config']) {
    const refused = await get(rig, url);
    expect([url, refused.statusCode, refused.headers['www-authenticate']]).toEqual([url, 401, 'Bearer']);
    expect((await get(rig, url, { authorization: 'Bearer bos' })).statusCode).toBe(401);
    expect((await get(rig, url, { authorization: 'Bearer boss' })).statusCode).toBe(200);
  }
  expect((await post(rig, '/v1/pools/db/backends/10.0.0.3:5432/drain')).statusCode).toBe(401);
  const put = await rig.server.app.inject({ method: 'PUT', url: '/v1/config', payload: RIG_CONFIG });
  expect(put.statusCode).toBe(401);
});

test('an internal failure is answered without its text', async () => {
  const rig = createRig();
  rig.relay.failure = new Error('password is hunter2 at /root/secret.ts');
  const answer = await get(rig, '/v1/sessions');
  expect([answer.statusCode, answer.json<{ code: string }>().code]).toEqual([500, 'TICKRELAY_ERR_INTERNAL']);
  expect(answer.body).not.toContain('hunter2');
});

test('an unknown page is answered in the same form', async () => {
  const answer = await get(createRig(), '/v2/pools');
  expect(answer.statusCode).toBe(404);
  expect(answer.json()).toMatchObject({ error: 'Not Found', code: 'TICKRELAY_ERR_REQUEST' });
});

test('a page of another site can not operate the relay', async () => {
  const rig = createRig();
  const url = '/v1/pools/db/backends/10.0.0.3:5432/drain';
  expect((await post(rig, url, { origin: 'http://evil.example', host: '127.0.0.1:7900' })).statusCode).toBe(
    403,
  );
  expect((await post(rig, url, { origin: 'http://127.0.0.1:7900', host: '127.0.0.1:7900' })).statusCode).toBe(
    200,
  );
});

test.each(['127.0.0.1', '[::1]'])(
  'serves over a real socket, and closes with a keep-alive connection open: %s',
  async (host) => {
    const rig = createRig();
    const bound = await rig.server.listen(Endpoint.parse(`${host}:0`));
    expect(bound.port).toBeGreaterThan(0);
    const answer = await fetch(`http://${bound.toString()}/livez`, { headers: { connection: 'keep-alive' } });
    expect(await answer.json()).toEqual({ alive: true });
    await Promise.all([rig.server.close(), rig.server.close()]);
    await expect(fetch(`http://${bound.toString()}/livez`)).rejects.toThrow();
  },
);

test('closes also while a request never ends', async () => {
  const rig = createRig();
  const bound = await rig.server.listen(Endpoint.parse('127.0.0.1:0'));
  const slow = request({ host: '127.0.0.1', port: bound.port, method: 'PUT', path: '/v1/config' });
  const failed = once(slow, 'error');
  slow.setHeader('content-length', '1000');
  slow.write('engine:');
  await once(rig.server.app.server, 'request');
  await rig.server.close();
  await failed;
});

test('a port that is taken is named', async () => {
  const holder = createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  onTestFinished(() => void holder.close());
  const address = Endpoint.parse(`127.0.0.1:${(holder.address() as AddressInfo).port}`);
  await expect(createRig().server.listen(address)).rejects.toMatchObject({
    code: 'TICKRELAY_ERR_BIND',
    message: expect.stringContaining(address.toString()) as string,
  });
});

test('a body over the limit is refused over a real socket too', async () => {
  const rig = createRig();
  const bound = await rig.server.listen(Endpoint.parse('127.0.0.1:0'));
  const client = request({
    host: '127.0.0.1',
    port: bound.port,
    method: 'PUT',
    path: '/v1/pools/games/backends/a',
    headers: {
      authorization: 'Bearer secret',
      'content-type': 'application/json',
      'transfer-encoding': 'chunked',
    },
  });
  client.on('error', () => undefined);
  client.write(`{"address":"${'x'.repeat(5_000)}`);
  const [answer] = (await once(client, 'response')) as [IncomingMessage];
  expect(answer.statusCode).toBe(413);
  client.destroy();
});

test('a drain takes a deadline, and says what is wrong with one', async () => {
  const { server } = createRig();
  const drain = (query: string) =>
    server.app.inject({ method: 'POST', url: `/v1/pools/games/backends/static-1/drain${query}` });
  expect((await drain('?deadline=5m')).json()).toMatchObject({ state: 'draining', drainLeftMs: 300_000 });
  expect((await drain('')).json()).not.toHaveProperty('drainLeftMs');
  for (const query of ['?deadline=5', '?deadline=60d', '?deadline=1s&deadline=2s']) {
    const { statusCode, body } = await drain(query);
    expect([statusCode, body]).toEqual([400, expect.stringContaining('should be a duration')]);
  }
  expect((await drain('?dedline=5m')).body).toContain('is not a parameter here');
});
