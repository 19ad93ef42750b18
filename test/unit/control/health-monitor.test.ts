import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import type { HealthCheck } from '../../../relay/control/health-checks/health-check.ts';
import { tcpCheck } from '../../../relay/control/health-checks/tcp-check.ts';
import { HealthMonitor, SKIPPED, type CheckOutcome } from '../../../relay/control/health-monitor.ts';
import { LoopClock } from '../../../relay/control/loop-clock.ts';

const INTERVAL_MS = 1_000;
const TIMEOUT_MS = 500;

let stalledMs = 0;
let clock: LoopClock;
let outcomes: [slot: number, outcome: CheckOutcome][];
let monitor: HealthMonitor<{ endpoint: Endpoint; slot: number }> | undefined;

beforeEach(() => {
  vi.useFakeTimers();
  stalledMs = 0;
  outcomes = [];
  clock = new LoopClock(() => performance.now() + stalledMs);
});

afterEach(async () => {
  const closed = monitor?.close();
  await vi.advanceTimersByTimeAsync(10_000);
  await closed;
  clock.close();
  vi.useRealTimers();
});

const start = (check: HealthCheck, count = 1): void => {
  const targets = Array.from({ length: count }, (_, slot) => ({
    slot,
    endpoint: Endpoint.parse(`10.0.0.1:${slot + 1}`),
  }));
  monitor = new HealthMonitor({
    check,
    intervalMs: INTERVAL_MS,
    timeoutMs: TIMEOUT_MS,
    clock,
    targets: () => targets,
    onOutcome: ({ slot }, outcome) => outcomes.push([slot, outcome]),
  });
};

/** Never answers; settles when its time is up. */
const silent: HealthCheck = (_endpoint, signal) =>
  new Promise((_resolve, reject) => {
    const fail = (): void => reject(new Error('aborted'));
    if (signal.aborted) fail();
    signal.addEventListener('abort', fail);
  });

/** Answers well after a while. */
const answerAfter = (delayMs: number): Promise<undefined> =>
  new Promise((resolve) => setTimeout(() => resolve(undefined), delayMs));

test('asks every target once an interval, spread over it', async () => {
  const startedAt: number[] = [];
  const begin = performance.now();
  start(() => {
    startedAt.push(performance.now() - begin);
    return Promise.resolve(undefined);
  }, 20);
  await vi.advanceTimersByTimeAsync(INTERVAL_MS);
  expect(outcomes.map(([slot]) => slot).sort((a, b) => a - b)).toEqual([...Array(20).keys()]);
  expect(new Set(startedAt).size).toBe(10);
});

test('a check that does not answer fails after the timeout, and says so', async () => {
  start(silent);
  await vi.advanceTimersByTimeAsync(INTERVAL_MS + TIMEOUT_MS);
  expect(outcomes).toEqual([[0, 'no answer within 500ms']]);
});

test('an error fails with its code', async () => {
  start(() => Promise.reject(Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })));
  await vi.advanceTimersByTimeAsync(INTERVAL_MS);
  expect(outcomes).toEqual([[0, 'ECONNREFUSED']]);
});

test('a target is not asked again while its answer is outstanding', async () => {
  let running = 0;
  let most = 0;
  start(async () => {
    most = Math.max(most, ++running);
    await answerAfter(3_500);
    running--;
    return undefined;
  });
  await vi.advanceTimersByTimeAsync(20 * INTERVAL_MS);
  expect(most).toBe(1);
});

test('at most 128 checks run at once, and all targets get their turn', async () => {
  let running = 0;
  let most = 0;
  start(async () => {
    most = Math.max(most, ++running);
    await answerAfter(400);
    running--;
    return undefined;
  }, 1_024);
  await vi.advanceTimersByTimeAsync(5 * INTERVAL_MS);
  expect(most).toBe(128);
  expect(new Set(outcomes.map(([slot]) => slot)).size).toBe(1_024);
});

test('a failure that overlaps a stall of the event loop says nothing', async () => {
  start(silent, 10);
  await vi.advanceTimersByTimeAsync(INTERVAL_MS + 10);
  outcomes.length = 0;
  stalledMs += 5_000;
  await vi.advanceTimersByTimeAsync(TIMEOUT_MS);
  expect(outcomes.length).toBeGreaterThan(0);
  expect(outcomes.every(([, outcome]) => outcome === SKIPPED)).toBe(true);
});

test('a success counts also when the loop stalled meanwhile', async () => {
  start(() => answerAfter(300));
  await vi.advanceTimersByTimeAsync(INTERVAL_MS + 10);
  stalledMs += 5_000;
  await vi.advanceTimersByTimeAsync(400);
  expect(outcomes).toEqual([[0, undefined]]);
});

test('a real stall of the loop, longer than the timeout, says nothing about a backend that answers', async () => {
  vi.useRealTimers();
  const realClock = new LoopClock();
  const server = createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const endpoint = Endpoint.parse(`127.0.0.1:${(server.address() as AddressInfo).port}`);
  const ask = tcpCheck({ port: undefined });
  const outcome = await new Promise<CheckOutcome>((resolve) => {
    monitor = new HealthMonitor({
      check: (to, signal) => {
        const answer = ask(to, signal);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3 * TIMEOUT_MS);
        return answer;
      },
      intervalMs: 100,
      timeoutMs: TIMEOUT_MS,
      clock: realClock,
      targets: () => [{ endpoint, slot: 1 }],
      onOutcome: (_target, first) => resolve(first),
    });
  });
  expect([undefined, SKIPPED]).toContain(outcome);
  await monitor?.close();
  realClock.close();
  server.close();
  vi.useFakeTimers();
});

test('after a stall the checks go on', async () => {
  start(() => Promise.resolve(undefined));
  stalledMs += 60_000;
  await vi.advanceTimersByTimeAsync(3 * INTERVAL_MS);
  expect(outcomes.length).toBeGreaterThanOrEqual(2);
});

test('nothing is reported after close, and close waits for what is under way', async () => {
  let settled = 0;
  start(async (endpoint, signal) => {
    try {
      return await silent(endpoint, signal);
    } finally {
      settled++;
    }
  }, 10);
  await vi.advanceTimersByTimeAsync(200);
  await monitor?.close();
  await monitor?.close();
  expect(settled).toBe(2);
  await vi.advanceTimersByTimeAsync(5 * INTERVAL_MS);
  expect(outcomes).toEqual([]);
});
