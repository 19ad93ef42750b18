import { expect, test } from 'vitest';
import { IpAddress } from '../../../net/address.ts';
import { MAX_PATH } from '../../../net/datagram-socket.ts';
import { MAX_LISTENERS, MAX_UPSTREAM_SOCKETS } from '../../../relay/core/limits.ts';
import { NO_UPSTREAM, SessionTable } from '../../../relay/core/session-table.ts';

const CLIENT = IpAddress.parse('10.1.0.1').words;
const make = (capacity = 8): SessionTable => new SessionTable({ capacity, seed: 1 });

test('a session is found by listener, address and port, each of them telling', () => {
  const table = make();
  const id = table.open(0, CLIENT, 0, 5_000, 1_500.5);
  expect(table.find(0, CLIENT, 0, 5_000)).toBe(id);
  expect(table.find(1, CLIENT, 0, 5_000)).toBe(-1);
  expect(table.find(0, CLIENT, 0, 5_001)).toBe(-1);
  expect(table.find(0, IpAddress.parse('10.1.0.2').words, 0, 5_000)).toBe(-1);
});

test('a new session has nothing but its client and its time', () => {
  const table = make();
  const id = table.open(2, CLIENT, 0, 65_535, 7_000.25);
  expect([table.listener(id), table.clientPort(id), table.upstream(id)]).toEqual([2, 65_535, NO_UPSTREAM]);
  expect([table.openedMs(id), table.lastSeenMs(id), table.isHalfOpen(id)]).toEqual([7_000, 7_000.25, true]);
  expect([table.datagramsDownstream(id), table.datagramsUpstream(id)]).toEqual([0, 0]);
  expect([table.bytesDownstream(id), table.bytesUpstream(id), table.backendRef(id)]).toEqual([0, 0, 0]);
});

test('path and upstream share a word and do not disturb each other', () => {
  const table = make();
  const id = table.open(0, CLIENT, 0, 1, 0);
  expect([table.path(id), table.upstream(id)]).toEqual([0, NO_UPSTREAM]);
  table.setPath(id, MAX_PATH);
  expect([table.path(id), table.upstream(id)]).toEqual([MAX_PATH, NO_UPSTREAM]);
  table.setUpstream(id, MAX_UPSTREAM_SOCKETS - 1);
  expect([table.path(id), table.upstream(id)]).toEqual([MAX_PATH, MAX_UPSTREAM_SOCKETS - 1]);
  table.setPath(id, 1);
  expect([table.path(id), table.upstream(id)]).toEqual([1, MAX_UPSTREAM_SOCKETS - 1]);
  table.setUpstream(id, NO_UPSTREAM);
  expect([table.path(id), table.upstream(id)]).toEqual([1, NO_UPSTREAM]);
});

test('the last listener has room in the key', () => {
  const table = make();
  const id = table.open(MAX_LISTENERS - 1, CLIENT, 0, 65_535, 0);
  expect(table.listener(id)).toBe(MAX_LISTENERS - 1);
  expect(table.find(MAX_LISTENERS - 1, CLIENT, 0, 65_535)).toBe(id);
});

test('datagrams of both directions are counted, and only the client’s renew the session', () => {
  const table = make();
  const id = table.open(0, CLIENT, 0, 1, 0);
  table.touch(id, 14, 10);
  expect(table.isHalfOpen(id)).toBe(true);
  table.replied(id, 148);
  expect([table.lastSeenMs(id), table.isHalfOpen(id)]).toEqual([10, true]);
  table.touch(id, 14, 20.5);
  expect([table.lastSeenMs(id), table.isHalfOpen(id)]).toEqual([20.5, false]);
  expect([table.datagramsDownstream(id), table.bytesDownstream(id)]).toEqual([2, 28]);
  expect([table.datagramsUpstream(id), table.bytesUpstream(id)]).toEqual([1, 148]);
});

test('idle begins with the timeout, not before', () => {
  const table = make();
  const id = table.open(0, CLIENT, 0, 1, 100.5);
  expect([table.isIdle(id, 1_100.25, 1_000), table.isIdle(id, 1_100.5, 1_000)]).toEqual([false, true]);
});

test('bytes of a long life stay exact', () => {
  const table = make();
  const id = table.open(0, CLIENT, 0, 1, 0);
  table.touch(id, 2 ** 40, 1);
  table.touch(id, 1, 2);
  expect(table.bytesDownstream(id)).toBe(2 ** 40 + 1);
});

test('a backend takes every number, an upstream those that a configuration may allow', () => {
  const table = make();
  const id = table.open(0, CLIENT, 0, 1, 0);
  table.setBackendRef(id, 0xffffffff);
  table.setUpstream(id, MAX_UPSTREAM_SOCKETS - 1);
  expect([table.backendRef(id), table.upstream(id)]).toEqual([0xffffffff, MAX_UPSTREAM_SOCKETS - 1]);
  expect(MAX_UPSTREAM_SOCKETS).toBeLessThanOrEqual(NO_UPSTREAM);
});

test('a full table takes no more', () => {
  const table = make(1);
  table.open(0, CLIENT, 0, 1, 0);
  expect(table.open(0, CLIENT, 0, 2, 0)).toBe(-1);
});
