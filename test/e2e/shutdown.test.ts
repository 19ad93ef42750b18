/** The way down: readiness goes first, players who are there play on, the exit code says how it ended. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { gameConfig } from '../support/game-fleet.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { disturbed, settle } from '../support/steady-player.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

const fleet = new Stage();
let backends: string[];
let stage: Stage;

beforeAll(async () => {
  backends = (await fleet.gameServers(2)).map(({ endpoint }) => endpoint.toString());
});
afterAll(() => fleet.close());

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

interface Rules {
  readonly idleTimeout: string;
  readonly deadline: string;
  readonly listen?: string;
}

function relayWith({ idleTimeout, deadline, listen = '127.0.0.1:0' }: Rules): Promise<RelayProcess> {
  return stage.relay(
    gameConfig({ listener: { idleTimeout, listen }, pool: { backends }, rest: { shutdown: { deadline } } }),
  );
}

async function untilNotReady(relay: RelayProcess): Promise<void> {
  expect(await relay.request('/readyz')).toMatchObject({ status: 200, body: { ready: true } });
  relay.process.signal('SIGTERM');
  await until('/readyz to answer 503', async () => (await relay.request('/readyz')).status === 503);
  expect(await relay.request('/readyz')).toMatchObject({
    body: { ready: false, reasons: ['the relay is draining'] },
  });
  expect((await relay.request('/livez')).status).toBe(200);
}

test('after SIGTERM players play on, new ones are dropped, and the relay ends with the last session', async () => {
  const relay = await relayWith({ idleTimeout: '3s', deadline: '60s' });
  const players = await stage.players(8, relay.listener());
  await untilNotReady(relay);

  const draining = { listener: 'game', direction: 'downstream', reason: 'draining' };
  const dropped = async (): Promise<number> => (await relay.metric('datagrams_dropped_total', draining)) ?? 0;
  // Readiness fails first; whoever comes before the last worker has heard of the drain is still let in.
  await until('a new client to be dropped', async () => {
    stage.peer('127.20.1.2:0').send(relay.listener(), 'is it draining?');
    return (await dropped()) > 0;
  });
  const before = await dropped();
  const newcomer = stage.player('127.20.1.1:0', relay.listener());
  newcomer.begin();
  await until('the newcomer to be dropped', async () => (await dropped()) >= before + 3);
  await Promise.all(players.map((player) => player.answers(20)));
  await settle(players);
  expect(disturbed(players)).toEqual([]);

  expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
  expect(newcomer.answered).toBe(0);
  const { udp } = (await relay.process.event('summary')) as { udp: Record<string, Summary> };
  const { downstream, upstream } = udp['game']!;
  for (const { received, forwarded, dropped } of [downstream, upstream]) {
    expect(received).toBe(forwarded + Object.values(dropped).reduce((sum, count) => sum + count, 0));
  }
  expect(downstream.dropped['draining']).toBeGreaterThanOrEqual(3);
  expect(upstream.forwarded).toBe(players.reduce((sum, { answered }) => sum + answered, 0));
});

interface Counts {
  readonly received: number;
  readonly forwarded: number;
  readonly dropped: Readonly<Record<string, number>>;
}

interface Summary {
  readonly downstream: Counts;
  readonly upstream: Counts;
}

test('the summary has every datagram, also those of the moment when the relay ended', async () => {
  const relay = await relayWith({ idleTimeout: '120s', deadline: '0ms' });
  const players = await stage.players(8, relay.listener());
  relay.process.signal('SIGTERM');
  expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
  const { udp } = (await relay.process.event('summary')) as { udp: Record<string, Summary> };
  const { downstream, upstream } = udp['game']!;
  for (const { received, forwarded, dropped } of [downstream, upstream])
    expect(received).toBe(forwarded + Object.values(dropped).reduce((sum, count) => sum + count, 0));
  expect(upstream.forwarded).toBe(players.reduce((sum, { answered }) => sum + answered, 0));
});

test('with a delay new players are still taken after /readyz has answered 503', async () => {
  const shutdown = { delay: '60s', deadline: '0ms' };
  const relay = await stage.relay(gameConfig({ pool: { backends }, rest: { shutdown } }));
  await untilNotReady(relay);
  const [newcomer] = await stage.players(1, relay.listener());
  expect(newcomer!.answered).toBeGreaterThan(0);
  relay.process.signal('SIGTERM');
  expect(await relay.process.ended(20_000)).toEqual({ code: 130, signal: null });
});

test('the deadline ends a drain that players would not end', async () => {
  const relay = await relayWith({ idleTimeout: '120s', deadline: '500ms' });
  await stage.players(4, relay.listener());
  relay.process.signal('SIGINT');
  expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
  await relay.process.event('summary');
});

test('a second signal ends a draining relay at once with exit code 130', async () => {
  const relay = await relayWith({ idleTimeout: '120s', deadline: '120s' });
  await stage.players(2, relay.listener());
  await untilNotReady(relay);
  relay.process.signal('SIGTERM');
  expect(await relay.process.ended(20_000)).toEqual({ code: 130, signal: null });
});

test('a second run has the same port right after the first', async () => {
  const rules = { idleTimeout: '120s', deadline: '0ms' };
  const first = await relayWith(rules);
  const listen = first.listener().toString();
  const players = await stage.players(6, first.listener());
  const before = players.map(({ server }) => server);
  first.process.signal('SIGTERM');
  expect(await first.process.ended(20_000)).toEqual({ code: 0, signal: null });

  const second = await relayWith({ ...rules, listen });
  expect(second.listener().toString()).toBe(listen);
  await Promise.all(players.map((player) => player.answers(10)));
  expect(players.map(({ server }) => server)).toEqual(before);
  expect(players.map(({ servers }) => servers.length)).toEqual(players.map(() => 1));
});

test('a relay without sessions ends at once', async () => {
  const relay = await relayWith({ idleTimeout: '120s', deadline: '120s' });
  relay.process.signal('SIGTERM');
  expect(await relay.process.ended(20_000)).toEqual({ code: 0, signal: null });
});
