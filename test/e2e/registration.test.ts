/** Who may join a pool: what the relay refuses changes nothing, and says what would be right. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { gameConfig, HEARTBEAT } from '../support/game-fleet.ts';
import type { Answer, ErrorBody, RelayProcess, RequestOptions } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

const TOKEN = 'correct-horse';

let stage: Stage;
let relay: RelayProcess;

beforeEach(async () => {
  stage = new Stage();
  relay = await stage.relay(
    gameConfig({
      listener: { listen: '0.0.0.0:0' },
      pool: {
        healthCheck: HEARTBEAT,
        registration: { allow: ['127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4'], token: TOKEN },
        backends: [{ id: 'fixed', address: '127.0.0.9:4567' }],
      },
    }),
  );
});

afterEach(() => stage.close());

function register(
  id: string,
  body: object | string,
  options: RequestOptions = {},
): Promise<Answer<ErrorBody>> {
  return relay.request(`/v1/pools/game-servers/backends/${id}`, {
    method: 'PUT',
    body,
    token: TOKEN,
    ...options,
  });
}

/** The pool without what changes by itself. */
async function members(): Promise<unknown> {
  return [...(await relay.backends()).values()].map(({ id, address }) => ({ id, address }));
}

test('a target that is the relay, out of bounds or no single host is refused, and the pool stays as it is', async () => {
  const before = await members();
  const own = `127.0.0.1:${relay.listener().port}`;
  const admin = relay.admin.replace('http://', '');
  const refusals: [address: string, reason: string][] = [
    [own, 'is the relay itself'],
    [admin, 'is the relay itself'],
    ['10.0.0.3:7777', 'is outside the blocks that may register'],
    ['[2001:db8::1]:7777', 'is outside the blocks that may register'],
    ['[::ffff:10.0.0.3]:7777', 'is outside the blocks that may register'],
    ['169.254.169.254:80', 'is a link-local address'],
    ['224.0.0.1:7777', 'is a multicast address'],
    ['255.255.255.255:7777', 'is the broadcast address'],
    ['0.0.0.0:7777', 'is the unspecified address'],
    ['127.0.0.3:0', 'has port 0'],
  ];
  for (const [address, reason] of refusals) {
    const { status, body } = await register('intruder', { address });
    expect({ address, status, code: body.code }).toEqual({
      address,
      status: 403,
      code: 'TICKRELAY_ERR_REGISTRATION',
    });
    expect(body.message).toContain(reason);
  }
  expect(await members()).toEqual(before);
  expect(await relay.metric('registrations_total', { result: 'refused' })).toBe(refusals.length);
  expect(await relay.metric('registrations_total', { result: 'registered' })).toBe(0);
});

test('a request that is malformed, oversize or unknown is refused, and the pool stays as it is', async () => {
  const before = await members();
  const address = '127.0.0.3:7777';
  const json = { 'a JSON array': [], 'a key too many': { address, wieght: 2 }, 'no address': {} };
  for (const [what, body] of Object.entries(json))
    expect({ what, ...(await register('x', body)) }).toMatchObject({ what, status: 400 });
  expect((await register('x', { address, weight: 0 })).body.message).toContain(
    'weight: 0 should be a whole number from 1 to 256',
  );
  expect((await register('x', { address: 'localhost:7777' })).body.message).toContain('"localhost:7777"');
  expect((await register('x', { address, players: 'x'.repeat(100_000) })).status).toBe(413);
  expect((await register('-bad-id', { address })).status).toBe(400);
  expect((await register('fixed', { address })).status).toBe(409);
  expect((await register('other', { address: '127.0.0.9:4567' })).status).toBe(409);
  const elsewhere = await relay.request('/v1/pools/nowhere/backends/x', {
    method: 'PUT',
    body: { address },
    token: TOKEN,
  });
  expect(elsewhere).toMatchObject({ status: 404, body: { code: 'TICKRELAY_ERR_POOL' } });
  expect(await members()).toEqual(before);
});

test('without the right token nothing is registered, renewed or removed', async () => {
  expect((await register('server-1', { address: '127.0.0.3:7777' })).status).toBe(200);
  const before = await members();
  const path = '/v1/pools/game-servers/backends/server-1';
  for (const token of [undefined, 'wrong', `${TOKEN}x`]) {
    const bearer = token === undefined ? {} : { token };
    for (const request of [{ method: 'PUT', body: { address: '127.0.0.4:7777' } }, { method: 'DELETE' }]) {
      const { status, body } = await relay.request(path, { ...request, ...bearer });
      expect(status).toBe(401);
      expect(JSON.stringify(body)).not.toContain(TOKEN);
    }
  }
  expect(await members()).toEqual(before);
});

test('a second server under the same id stays out while the first one lives, and no player moves', async () => {
  const flags = ['--token', TOKEN];
  await stage.gameServer({ id: 1, register: relay, flags });
  await relay.untilStates({ fixed: 'unhealthy', 'server-1': 'ready' });
  const players = await stage.players(8, Endpoint.parse(`127.0.0.1:${relay.listener().port}`));
  const before = await members();
  const second = await stage.gameServer({ id: 2, register: relay, backendId: 'server-1', flags });
  await until('the refusal in its log', () => second.process.stderr.includes('is the server at 127.0.0.1:'));
  await Promise.all(players.map((player) => player.answers(20)));
  expect(await members()).toEqual(before);
  expect(players.map(({ servers }) => servers)).toEqual(players.map(() => [1]));
});

test('a game server with a wrong token stays out and says why, one with the right token plays', async () => {
  const wrong = await stage.gameServer({ id: 1, register: relay, flags: ['--token', 'wrong'] });
  await until('the refusal in its log', () => wrong.process.stderr.includes('the relay answered 401'));
  expect(await relay.backends()).not.toContain('server-1');
  const right = await stage.gameServer({ id: 2, register: relay, flags: ['--token', TOKEN] });
  await relay.untilStates({ fixed: 'unhealthy', 'server-2': 'ready' });
  const [player] = await stage.players(1, Endpoint.parse(`127.0.0.1:${relay.listener().port}`));
  expect(player!.server).toBe(right.id);
});
