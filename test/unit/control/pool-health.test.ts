import { beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { LoopClock } from '../../../relay/control/loop-clock.ts';
import { PoolHealth } from '../../../relay/control/pool-health.ts';
import { RegistrationBook } from '../../../relay/control/registration-book.ts';
import { UdpPeer } from '../../support/udp-peer.ts';
import { poolConfig } from './control-rig.ts';

const HEARTBEAT = 'healthCheck: { type: heartbeat, interval: 1s, rise: 2, fall: 3 }';
const TWO = 'backends: [ { id: a, address: "127.0.0.1:7001" }, { id: b, address: "127.0.0.1:7002" } ]';

beforeEach(() => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
});

/** The health of a pool of two, and what it told the log. */
function open(keys: string, backends = TWO) {
  const config = poolConfig(`${keys}, ${backends}`);
  const pool = new BackendPool('games');
  const clock = new LoopClock();
  const logged: string[] = [];
  const log = (level: string, { backend }: Readonly<Record<string, unknown>>, message: string): void =>
    void logged.push(`${level} ${String(backend)}: ${message}`);
  const book = new RegistrationBook({ config, pool, clock, ownEndpoints: () => [], log });
  const { healthCheck } = config;
  const health = new PoolHealth({ healthCheck, book, pool, clock, log, onOutcome: () => undefined });
  onTestFinished(async () => {
    clock.close();
    await health.stop();
  });
  const states = (): string[] => pool.list().map(({ id, state }) => `${id} ${state}`);
  return { pool, book, health, logged, states };
}

const passSeconds = (seconds: number): Promise<unknown> => vi.advanceTimersByTimeAsync(seconds * 1_000);

test('by heartbeats a backend falls after `fall` intervals without one and rises after `rise` of them', async () => {
  const { book, health, states, logged } = open(HEARTBEAT);
  const a = book.memberOf('a');
  await passSeconds(2.9);
  health.countMissed();
  expect(states()).toEqual(['a ready', 'b ready']);
  await passSeconds(0.2);
  health.countMissed();
  expect(states()).toEqual(['a unhealthy', 'b unhealthy']);
  expect(health.failureOf(a)).toBe('no heartbeat');
  expect(health.counts()).toEqual({ ok: 0, failed: 6, skipped: 0 });
  health.heartbeat(a);
  expect(states()).toEqual(['a unhealthy', 'b unhealthy']);
  health.heartbeat(a);
  expect(states()).toEqual(['a ready', 'b unhealthy']);
  expect(health.failureOf(a)).toBeUndefined();
  expect(logged).toEqual(['warn a: unhealthy', 'warn b: unhealthy', 'info a: healthy']);
});

test('an interval without a heartbeat counts once, however often it is looked for', async () => {
  const { health } = open(HEARTBEAT);
  await passSeconds(1.5);
  for (let i = 0; i < 10; i++) health.countMissed();
  expect(health.counts().failed).toBe(2);
});

test('without the check heartbeat nobody fails for silence, and a heartbeat proves nothing', async () => {
  const { book, health, states } = open('healthCheck: { type: none }');
  await passSeconds(100);
  health.countMissed();
  health.heartbeat(book.memberOf('a'));
  expect(states()).toEqual(['a ready', 'b ready']);
  expect(health.counts()).toEqual({ ok: 0, failed: 0, skipped: 0 });
});

test('another check begins anew with the old verdict, and to have none makes every backend healthy', async () => {
  const { book, pool, health, states } = open(HEARTBEAT);
  await passSeconds(4);
  health.countMissed();
  health.judgeBy(poolConfig(`healthCheck: { type: heartbeat, interval: 2s, rise: 1 }, ${TWO}`).healthCheck);
  expect(states()).toEqual(['a unhealthy', 'b unhealthy']);
  expect(health.failureOf(book.memberOf('a'))).toBeUndefined();
  health.heartbeat(book.memberOf('a'));
  expect(states()).toEqual(['a ready', 'b unhealthy']);
  health.judgeBy(poolConfig(`healthCheck: { type: none }, ${TWO}`).healthCheck);
  expect(pool.list().map(({ healthy }) => healthy)).toEqual([true, true]);
});

test('what a check finds of a backend that has left meanwhile is not held against another with its id', async () => {
  vi.useRealTimers();
  let asked = 0;
  // Says nothing to the first question, while another backend takes the place; then answers.
  const server = new UdpPeer('127.0.0.1:0', ({ payload }) => {
    if (++asked > 1) return payload;
    book.clear();
    book.register('a', { endpoint: server.local, weight: 1, players: 0 });
    return undefined;
  });
  onTestFinished(() => server.close());
  const { book, health, states } = open(
    `healthCheck: { type: udp, payload: "00", interval: 100ms, timeout: 100ms, rise: 1, fall: 1 },
     registration: { allow: ["127.0.0.0/8"] }`,
    `backends: [ { id: a, address: "${server.local.toString()}" } ]`,
  );
  const gone = book.memberOf('a');
  health.start();
  await expect.poll(() => health.counts().ok, { timeout: 10_000 }).toBeGreaterThan(3);
  expect([states(), health.counts().failed]).toEqual([['a ready'], 0]);
  expect([health.failureOf(gone), health.failureOf(book.memberOf('a'))]).toEqual([undefined, undefined]);
});

const PASSIVE = 'healthCheck: { type: heartbeat, interval: 1s, rise: 2, connectFailures: 3 }';

test('connections of clients that do not open take a backend down at once, and the check brings it back', () => {
  const { book, health, states, logged } = open(PASSIVE);
  const a = book.memberOf('a');
  expect([health.connected(a, 'ECONNREFUSED'), health.connected(a, 'ECONNREFUSED')]).toEqual([false, false]);
  expect(states()).toEqual(['a ready', 'b ready']);
  expect(health.connected(a, 'ECONNREFUSED')).toBe(true);
  expect(states()).toEqual(['a unhealthy', 'b ready']);
  expect(health.failureOf(a)).toBe('3 connections in a row did not open: ECONNREFUSED');
  expect(logged).toEqual(['warn a: unhealthy']);
  health.heartbeat(a);
  expect(states()).toEqual(['a unhealthy', 'b ready']);
  health.heartbeat(a);
  expect(states()).toEqual(['a ready', 'b ready']);
});

test('connections that open in between, or do not count, take nobody down', () => {
  const { book, health, states } = open(PASSIVE);
  const a = book.memberOf('a');
  for (let i = 0; i < 10; i++) health.connected(a, i % 3 === 2 ? undefined : 'ETIMEDOUT');
  expect(states()).toEqual(['a ready', 'b ready']);

  const indifferent = open(HEARTBEAT);
  const b = indifferent.book.memberOf('b');
  for (let i = 0; i < 100; i++) indifferent.health.connected(b, 'ECONNREFUSED');
  expect(indifferent.states()).toEqual(['a ready', 'b ready']);
});

test('a backend that is down already is not taken down again', () => {
  const { book, health, logged } = open(PASSIVE);
  const a = book.memberOf('a');
  for (let i = 0; i < 9; i++) health.connected(a, 'ECONNREFUSED');
  expect(logged).toEqual(['warn a: unhealthy']);
});
