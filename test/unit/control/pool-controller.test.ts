import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { LoopClock } from '../../../relay/control/loop-clock.ts';
import { PoolController } from '../../../relay/control/pool-controller.ts';
import type { PoolSnapshot } from '../../../relay/core/pool-snapshot.ts';
import { poolConfig, silent } from './control-rig.ts';

let stalledMs = 0;
let clock: LoopClock;
let snapshots: PoolSnapshot[];
const pools: PoolController[] = [];

beforeEach(() => {
  vi.useFakeTimers();
  stalledMs = 0;
  snapshots = [];
  clock = new LoopClock(() => performance.now() + stalledMs);
});

afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.close();
  clock.close();
  vi.useRealTimers();
});

const start = (keys: string): PoolController => {
  const pool = new PoolController({
    config: poolConfig(keys),
    clock,
    ownEndpoints: () => [],
    onSnapshot: (snapshot) => {
      snapshots.push(snapshot);
      return Promise.resolve();
    },
    logger: silent,
  });
  pool.start();
  pools.push(pool);
  return pool;
};

const HEARTBEAT = 'healthCheck: { type: heartbeat, interval: 1s, rise: 2, fall: 3 }';
const REGISTRATION = 'registration: { allow: ["10.0.0.0/8"], settle: 0ms }';
/** Settles for interval + timeout, 1.5 s. */
const SETTLING = 'registration: { allow: ["10.0.0.0/8"] }';
const register = (pool: PoolController, id: string, address = '10.0.0.9:7777'): void =>
  pool.register(id, { endpoint: Endpoint.parse(address), weight: 1, players: 0 });
const statesOf = (pool: PoolController): string[] =>
  pool.view().backends.map(({ id, state }) => `${id} ${state}`);
/** The last snapshot, once the loop has handled what it has read. */
const newest = (): PoolSnapshot | undefined => {
  vi.advanceTimersByTime(0);
  return snapshots.at(-1);
};
const passSeconds = (seconds: number): Promise<unknown> => vi.advanceTimersByTimeAsync(seconds * 1_000);

test('static backends are ready from the start, and the first snapshot says so', () => {
  start('backends: ["10.0.0.1:7777", { id: b, address: "10.0.0.2:7777", weight: 3 }]');
  expect(snapshots).toHaveLength(1);
  expect(snapshots[0]?.backends.map((entry) => [entry?.id, entry?.weight, entry?.state])).toEqual([
    ['10.0.0.1:7777', 1, 'ready'],
    ['b', 3, 'ready'],
  ]);
});

test('a registered backend is ready at once and lives fall x interval after its last heartbeat', async () => {
  const pool = start(`${HEARTBEAT}, ${REGISTRATION}`);
  register(pool, 'a');
  expect(statesOf(pool)).toEqual(['a ready']);
  await passSeconds(2);
  register(pool, 'a');
  await passSeconds(2.8);
  expect(statesOf(pool)).toEqual(['a ready']);
  await passSeconds(0.3);
  expect(statesOf(pool)).toEqual([]);
  expect(newest()?.ready).toHaveLength(0);
  expect(pool.counts().registrations).toMatchObject({ registered: 1, renewed: 1, expired: 1 });
});

test('a pool that takes registrations has nobody ready until interval + timeout after its start', async () => {
  const pool = start(`${HEARTBEAT}, ${SETTLING}, backends: [ { id: s, address: "10.0.0.1:7777" } ]`);
  register(pool, 'a');
  await passSeconds(1.4);
  register(pool, 'b', '10.0.0.8:7777');
  expect(newest()?.ready).toHaveLength(0);
  expect(newest()?.usable.every((ref) => ref === 0)).toBe(true);
  expect(pool.view()).toMatchObject({ settling: true, ready: 0 });
  await passSeconds(0.2);
  expect(pool.view()).toMatchObject({ settling: false, ready: 3 });
  expect(snapshots.map(({ ready }) => ready.length)).toEqual([0, 3]);
});

test('a server that registers with a settled pool is ready at once', async () => {
  const pool = start(`${HEARTBEAT}, ${SETTLING}`);
  await passSeconds(2);
  register(pool, 'a');
  expect(newest()?.ready).toHaveLength(1);
});

test('a stall of the event loop does not settle a pool', async () => {
  const pool = start(`${HEARTBEAT}, ${SETTLING}`);
  stalledMs += 600_000;
  await passSeconds(1);
  expect(pool.isSettling).toBe(true);
  await passSeconds(1);
  expect(pool.isSettling).toBe(false);
});

test('settle: 0ms switches the waiting off, another time replaces it, and a static pool has none', async () => {
  expect(start(`${HEARTBEAT}, ${REGISTRATION}`).isSettling).toBe(false);
  expect(start('backends: ["10.0.0.1:7777"]').isSettling).toBe(false);
  const pool = start('registration: { allow: ["10.0.0.0/8"], settle: 5s }');
  await passSeconds(4.9);
  expect(pool.isSettling).toBe(true);
  await passSeconds(0.2);
  expect(pool.isSettling).toBe(false);
});

test('repeated heartbeats change nothing and publish nothing', async () => {
  const pool = start(`${HEARTBEAT}, ${REGISTRATION}`);
  register(pool, 'a');
  newest();
  const published = snapshots.length;
  for (let i = 0; i < 20; i++) {
    await passSeconds(0.5);
    register(pool, 'a');
  }
  newest();
  expect(snapshots).toHaveLength(published);
  expect(statesOf(pool)).toEqual(['a ready']);
});

test('a stall of the event loop ends no registration and fails no backend', async () => {
  const pool = start(`${HEARTBEAT}, ${REGISTRATION}, backends: [ { id: s, address: "10.0.0.1:7777" } ]`);
  register(pool, 'a');
  register(pool, 's', '10.0.0.1:7777');
  stalledMs += 600_000;
  await passSeconds(0.5);
  expect(statesOf(pool)).toEqual(['s ready', 'a ready']);
  register(pool, 'a');
  register(pool, 's', '10.0.0.1:7777');
  await passSeconds(1);
  expect(statesOf(pool)).toEqual(['s ready', 'a ready']);
  expect(pool.counts().registrations.expired).toBe(0);
});

test('an hour on the wall clock ends no registration', async () => {
  const pool = start(`${HEARTBEAT}, ${REGISTRATION}`);
  register(pool, 'a');
  vi.setSystemTime(Date.now() + 3_600_000);
  await passSeconds(1);
  expect(statesOf(pool)).toEqual(['a ready']);
});

test('a burst of changes is published once', () => {
  const pool = start(`${HEARTBEAT}, ${REGISTRATION}`);
  for (let i = 1; i <= 100; i++) register(pool, `b${i}`, `10.0.0.9:${i}`);
  expect(snapshots).toHaveLength(1);
  expect(newest()?.ready).toHaveLength(100);
  expect(snapshots).toHaveLength(2);
});

test('drain, disable and enable change the state at once, and a heartbeat does not undo them', () => {
  const pool = start(`${HEARTBEAT}, ${REGISTRATION}`);
  register(pool, 'a');
  expect(pool.drain('a').state).toBe('draining');
  register(pool, 'a');
  expect(statesOf(pool)).toEqual(['a draining']);
  expect(newest()?.ready).toHaveLength(0);
  expect(pool.disable('a').state).toBe('disabled');
  expect(newest()?.usable.every((ref) => ref === 0)).toBe(true);
  expect(pool.enable('a').state).toBe('ready');
  expect(() => pool.drain('nobody')).toThrow('no such backend');
});

test('a full pool refuses another backend and keeps all it has', () => {
  const addresses = Array.from({ length: 1_023 }, (_, i) => `"10.0.0.1:${i + 1}"`).join(', ');
  const pool = start(`${REGISTRATION}, backends: [${addresses}]`);
  register(pool, 'last', '10.0.0.2:1');
  newest();
  const published = snapshots.length;
  expect(() => register(pool, 'more', '10.0.0.2:2')).toThrow('the pool is full');
  newest();
  expect(snapshots).toHaveLength(published);
  expect(pool.view().backends).toHaveLength(1_024);
});

test('a reload changes only what it names, and registered backends stay', async () => {
  const pool = start(`${REGISTRATION}, backends: ["10.0.0.1:7777", "10.0.0.2:7777", "10.0.0.3:7777"]`);
  register(pool, 'a');
  pool.drain('10.0.0.2:7777');
  const before = new Map(newest()?.backends.map((entry) => [entry?.id, entry?.ref]));
  await pool.apply(
    poolConfig(
      `${REGISTRATION}, backends: [{ address: "10.0.0.2:7777", weight: 2 }, "10.0.0.3:7777", "10.0.0.4:7777"]`,
    ),
  );
  expect(statesOf(pool).sort()).toEqual([
    '10.0.0.2:7777 draining',
    '10.0.0.3:7777 ready',
    '10.0.0.4:7777 ready',
    'a ready',
  ]);
  for (const entry of newest()?.backends ?? []) {
    if (entry !== undefined && entry.id !== '10.0.0.4:7777') expect(entry.ref).toBe(before.get(entry.id));
  }
});

test('a reload without changes publishes nothing', async () => {
  const keys = `${HEARTBEAT}, ${REGISTRATION}, backends: ["10.0.0.1:7777"]`;
  const pool = start(keys);
  newest();
  const published = snapshots.length;
  await pool.apply(poolConfig(keys));
  newest();
  expect(snapshots).toHaveLength(published);
});

test('a drain with a deadline ends in disabling; without one it lasts', async () => {
  const pool = start('backends: [{ id: a, address: "10.0.0.1:7777" }, { id: b, address: "10.0.0.2:7777" }]');
  expect(pool.drain('a', 5_000)).toMatchObject({ state: 'draining', drainLeftMs: 5_000 });
  expect(pool.drain('b')).not.toHaveProperty('drainLeftMs');
  await passSeconds(4);
  expect(pool.backend('a').drainLeftMs).toBe(1_000);
  await passSeconds(2);
  expect(statesOf(pool)).toEqual(['a disabled', 'b draining']);
  expect(pool.backend('a')).not.toHaveProperty('drainLeftMs');
  expect(newest()?.ready).toHaveLength(0);
});

test("a drain's deadline is set anew by another drain and taken away by enabling", async () => {
  const pool = start('backends: [{ id: a, address: "10.0.0.1:7777" }, { id: b, address: "10.0.0.2:7777" }]');
  pool.drain('a', 1_000);
  pool.drain('a', 10_000);
  pool.drain('b', 1_000);
  pool.enable('b');
  await passSeconds(3);
  expect(statesOf(pool)).toEqual(['a draining', 'b ready']);
  pool.drain('a');
  await passSeconds(60);
  expect(statesOf(pool)).toEqual(['a draining', 'b ready']);
});

test('a deadline ends with the registration of its backend', async () => {
  const pool = start(`${HEARTBEAT}, ${REGISTRATION}`);
  register(pool, 'a');
  pool.drain('a', 2_000);
  pool.leave('a');
  await passSeconds(1);
  register(pool, 'a');
  await passSeconds(1.5);
  expect(statesOf(pool)).toEqual(['a ready']);
});
