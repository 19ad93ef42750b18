import { beforeEach, expect, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { RegistrationBook } from '../../../relay/control/registration-book.ts';
import { poolConfig } from './control-rig.ts';

let nowMs: number;
let pool: BackendPool;
let logged: string[];

beforeEach(() => {
  nowMs = 1_000;
  pool = new BackendPool('games');
  logged = [];
});

/** A registration holds for 3 s. */
const HEARTBEAT = 'healthCheck: { type: heartbeat, interval: 1s, rise: 2, fall: 3 }';
const REGISTRATION = `${HEARTBEAT}, registration: { allow: ["10.0.0.0/8"] }`;

const open = (keys: string): RegistrationBook =>
  new RegistrationBook({
    config: poolConfig(keys),
    pool,
    clock: { nowMs: () => nowMs },
    ownEndpoints: () => [],
    log: (level, { backend }, message) => logged.push(`${level} ${String(backend)}: ${message}`),
  });

const register = (
  book: RegistrationBook,
  id: string,
  { address = '10.0.0.9:7777', weight = 1, players = 0 } = {},
): string => book.register(id, { endpoint: Endpoint.parse(address), weight, players });
const listed = (): string[] => pool.list().map(({ id, endpoint }) => `${id} ${endpoint.toString()}`);

test('the configured backends are in it from the start, in the pool as in the book', () => {
  const book = open('backends: ["10.0.0.1:7777", { id: b, address: "10.0.0.2:7777" }]');
  expect(listed()).toEqual(['10.0.0.1:7777 10.0.0.1:7777', 'b 10.0.0.2:7777']);
  expect([...book.members()].map(({ id, slot, origin }) => [id, slot, origin])).toEqual([
    ['10.0.0.1:7777', 0, 'static'],
    ['b', 1, 'static'],
  ]);
});

test('a repeated registration is a heartbeat, and tells the players', () => {
  const book = open(REGISTRATION);
  expect(register(book, 'a', { players: 3 })).toBe('registered');
  const member = book.memberOf('a');
  expect(member).toMatchObject({ players: 3, heartbeatAtMs: 1_000, hasHeartbeat: true });
  nowMs = 2_000;
  expect(register(book, 'a', { players: 4 })).toBe('renewed');
  expect(book.get('a')).toBe(member);
  expect(member).toMatchObject({ players: 4, heartbeatAtMs: 2_000 });
  expect(book.counts()).toEqual({ registered: 1, renewed: 1, left: 0, expired: 0, refused: 0 });
  expect(logged).toEqual(['info a: registered']);
});

test('a registration holds for fall x interval after its last heartbeat, a static backend for ever', () => {
  const book = open(`${REGISTRATION}, backends: [ { id: s, address: "10.0.0.1:7777" } ]`);
  register(book, 'a');
  nowMs += 3_000 - 1;
  book.expire();
  expect(listed()).toHaveLength(2);
  nowMs += 1;
  book.expire();
  expect(listed()).toEqual(['s 10.0.0.1:7777']);
  expect(book.get('a')).toBeUndefined();
  expect(book.counts().expired).toBe(1);
  expect(logged.at(-1)).toBe('warn a: registration expired: no heartbeat for 3000ms');
});

test('leases that are begun anew wait for the next heartbeat from then on', () => {
  const book = open(REGISTRATION);
  register(book, 'a');
  nowMs += 2_999;
  book.restartLeases();
  nowMs += 2_999;
  book.expire();
  expect(listed()).toHaveLength(1);
  nowMs += 1;
  book.expire();
  expect(listed()).toHaveLength(0);
});

test('an id belongs to the address that registered it until that one leaves or its registration ends', () => {
  const book = open(REGISTRATION);
  register(book, 'a');
  const before = pool.get('a')?.ref;
  nowMs += 2_999;
  book.expire();
  expect(() => register(book, 'a', { address: '10.0.0.9:8888' })).toThrow(
    'backend "a" is the server at 10.0.0.9:7777; take another id, or wait: ' +
      'the id is free when that one leaves, or 3000ms after its last heartbeat',
  );
  expect([listed(), pool.get('a')?.ref]).toEqual([['a 10.0.0.9:7777'], before]);
  nowMs += 1;
  book.expire();
  register(book, 'a', { address: '10.0.0.9:8888' });
  expect(listed()).toEqual(['a 10.0.0.9:8888']);
  expect(pool.get('a')?.ref).not.toBe(before);
  book.leave('a');
  register(book, 'a', { address: '10.0.0.9:9999' });
  expect(listed()).toEqual(['a 10.0.0.9:9999']);
  expect(book.counts()).toMatchObject({ registered: 3, renewed: 0, expired: 1, left: 1 });
});

test('a heartbeat may change the weight of a registered backend, not of a static one', () => {
  const book = open(`${REGISTRATION}, backends: [ { id: s, address: "10.0.0.1:7777", weight: 5 } ]`);
  register(book, 'a');
  register(book, 'a', { weight: 9 });
  register(book, 's', { address: '10.0.0.1:7777', weight: 9 });
  expect(pool.list().map(({ id, weight }) => [id, weight])).toEqual([
    ['s', 5],
    ['a', 9],
  ]);
});

test('leaving takes a registered backend away, never a static one', () => {
  const book = open(`${REGISTRATION}, backends: [ { id: s, address: "10.0.0.1:7777" } ]`);
  register(book, 'a');
  book.leave('a');
  expect(listed()).toEqual(['s 10.0.0.1:7777']);
  expect(() => book.leave('a')).toThrow('no such backend');
  expect(() => book.leave('s')).toThrow('stands in the configuration');
});

test('a backend that the configuration takes in keeps its place, its entry and its heartbeat, and is static', () => {
  const book = open(REGISTRATION);
  register(book, 'a');
  register(book, 'b', { address: '10.0.0.8:7777' });
  const [member, ref] = [book.get('a'), pool.get('a')?.ref];
  book.apply(
    poolConfig(
      `${REGISTRATION}, backends: [{ id: a, address: "10.0.0.9:7777" }, { id: c, address: "10.0.0.8:7777" }]`,
    ),
  );
  nowMs += 10_000;
  book.expire();
  expect([...book.members()].map(({ id, origin }) => [id, origin])).toEqual([
    ['a', 'static'],
    ['c', 'static'],
  ]);
  expect(book.get('a')).toBe(member);
  expect(pool.get('a')?.ref).toBe(ref);
});

test('configured backends need room beside the registered ones, but for those that they take in', () => {
  const book = open(REGISTRATION);
  register(book, 'a');
  const of = (count: number): string =>
    Array.from({ length: count }, (_, i) => `"10.0.0.9:${7_777 + i}"`).join(', ');
  const wanted = poolConfig(`backends: [${of(1_024)}]`).backends;
  expect(() => book.reserveRoom(wanted)).not.toThrow();
  expect(() =>
    book.reserveRoom([...wanted.slice(1), { ...wanted[0]!, endpoint: Endpoint.parse('10.1.1.1:1') }]),
  ).toThrow('pools.games.backends: 1024 backends beside 1 that registered are more than the 1024 of a pool');
});

test('room that is kept for a configuration is not given to others that register meanwhile', () => {
  const book = open(REGISTRATION);
  register(book, 'a');
  const addresses = Array.from({ length: 1_022 }, (_, i) => `"10.0.1.1:${i + 1}"`);
  const next = poolConfig(`${REGISTRATION}, backends: [${addresses.join(', ')}]`);
  book.reserveRoom(next.backends);
  expect(register(book, 'b', { address: '10.0.0.9:2' })).toBe('registered');
  expect(() => register(book, 'c', { address: '10.0.0.9:3' })).toThrow('the pool is full');
  expect(register(book, 'mine', { address: '10.0.1.1:7' })).toBe('registered');
  book.apply(next);
  expect(listed()).toHaveLength(1_024);
  expect(logged.filter((line) => line.startsWith('error'))).toEqual([]);
  book.leave('b');
  expect(register(book, 'c', { address: '10.0.0.9:3' })).toBe('registered');
});

test('room that was kept for a configuration that does not come is free again', () => {
  const book = open(REGISTRATION);
  book.reserveRoom(
    poolConfig(`backends: [${Array.from({ length: 1_024 }, (_, i) => `"10.0.1.1:${i + 1}"`).join(', ')}]`)
      .backends,
  );
  expect(() => register(book, 'a')).toThrow('the pool is full');
  book.releaseRoom();
  expect(register(book, 'a')).toBe('registered');
});
