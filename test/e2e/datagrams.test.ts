/** Datagrams of every size and address family pass byte for byte. */
import { createHash, randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Endpoint, IpAddress } from '../../net/address.ts';
import { gameConfig, HEARTBEAT, LOOPBACK } from '../support/game-fleet.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { disturbed, settle } from '../support/steady-player.ts';
import { Stage } from '../support/stage.ts';
import type { UdpPeer } from '../support/udp-peer.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

/** A server that sends back what it gets. */
const echo = (local: string): UdpPeer => stage.peer(local, ({ payload }) => payload);

async function relayBefore(listen: string, ...backends: UdpPeer[]): Promise<RelayProcess> {
  const addresses = backends.map(({ local }) => local.toString());
  return stage.relay(gameConfig({ listener: { listen }, pool: { backends: addresses } }));
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

test.each(['127.0.0.1', '[::1]'])(
  'datagrams of 0 to 65,507 bytes come back byte for byte on %s',
  async (host) => {
    const server = echo(`${host}:0`);
    const relay = await relayBefore(`${host}:0`, server);
    const client = stage.peer(`${host}:0`);
    const sizes = [0, 1, 14, 508, 1200, 1472, 1473, 9000, 65_506, 65_507, 0];
    for (const size of sizes) {
      const payload = randomBytes(size);
      const { payload: answer, from } = await client.ask(relay.listener(), payload);
      expect(answer.length).toBe(size);
      expect(sha256(answer)).toBe(sha256(payload));
      expect(from.toString()).toBe(relay.listener().toString());
    }
    expect(server.received.map(({ payload }) => payload.length)).toEqual(sizes);

    const total = sizes.reduce((sum, size) => sum + size, 0);
    const page = await relay.metrics();
    for (const direction of ['downstream', 'upstream'] as const) {
      const labels = { listener: 'game', direction };
      expect(page.value('datagrams_forwarded_total', labels)).toBe(sizes.length);
      expect(page.value('bytes_forwarded_total', labels)).toBe(total);
      expect(page.unaccounted('game', direction)).toBe(0);
    }
  },
);

test('an IPv6 client reaches an IPv4 backend, and an IPv4 client an IPv6 backend', async () => {
  const v4 = echo('127.0.0.1:0');
  const v6 = echo('[::1]:0');
  const before4 = await relayBefore('[::1]:0', v4);
  const before6 = await relayBefore('127.0.0.1:0', v6);
  expect((await stage.peer('[::1]:0').ask(before4.listener(), 'six to four')).payload.toString()).toBe(
    'six to four',
  );
  expect((await stage.peer('127.0.0.1:0').ask(before6.listener(), 'four to six')).payload.toString()).toBe(
    'four to six',
  );
});

test('players, relay, admin API and a server that registers itself can all be on IPv6', async () => {
  const relay = await stage.relay(
    gameConfig({
      listener: { listen: '[::1]:0' },
      pool: { healthCheck: HEARTBEAT, registration: LOOPBACK },
      rest: { admin: { listen: '[::1]:0' } },
    }),
  );
  await stage.gameServer({ id: 6, register: relay, listen: '[::1]:0' });
  await relay.untilStates({ 'server-6': 'ready' });
  const players = [stage.player('[::1]:0', relay.listener()), stage.player('[::1]:0', relay.listener())];
  await Promise.all(players.map((player) => player.start()));
  await Promise.all(players.map((player) => player.answers(5)));
  await settle(players);
  expect(disturbed(players)).toEqual([]);
  expect((await relay.sessions('&client=::1')).map(({ client }) => client).sort()).toEqual(
    players.map(({ address }) => address).sort(),
  );
});

test('a v4-mapped client of a [::] listener has the pin of its IPv4 address', async () => {
  const names = ['a', 'b', 'c'];
  const servers = names.map((name) => stage.peer('127.0.0.1:0', () => Buffer.from(name)));
  const backends = servers.map(({ local }, i) => ({ id: names[i], address: local.toString() }));
  const relayOn = (listen: string): object => gameConfig({ listener: { listen }, pool: { backends } });
  const both = await stage.relay(relayOn('[::]:0'));
  const only4 = await stage.relay(relayOn('127.0.0.1:0'));
  const overV4 = new Endpoint(IpAddress.parse('127.0.0.1'), both.listener().port);
  const overV6 = new Endpoint(IpAddress.parse('::1'), both.listener().port);

  const chosen: string[] = [];
  for (let i = 1; i <= 12; i++) {
    const client = stage.peer(`127.20.0.${i}:0`);
    const mapped = await client.ask(overV4, 'who?');
    const plain = await client.ask(only4.listener(), 'who?');
    expect(mapped.payload.toString()).toBe(plain.payload.toString());
    expect(mapped.from.toString()).toBe(overV4.toString());
    chosen.push(mapped.payload.toString());
  }
  expect(new Set(chosen).size).toBeGreaterThan(1);
  expect((await both.sessions('&client=127.20.0.3')).map(({ client }) => client)).toEqual([
    expect.stringMatching(/^127\.20\.0\.3:\d+$/),
  ]);
  expect(names).toContain((await stage.peer('[::1]:0').ask(overV6, 'who?')).payload.toString());
});
