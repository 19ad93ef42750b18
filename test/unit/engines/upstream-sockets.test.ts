import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import type { DatagramSocket } from '../../../net/datagram-socket.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { UPSTREAM_OPENS_PER_SWEEP } from '../../../relay/core/limits.ts';
import type { BackendEntry } from '../../../relay/core/pool-snapshot.ts';
import { NO_OWNER } from '../../../relay/engines/userspace/upstream-owners.ts';
import { UpstreamSockets } from '../../../relay/engines/userspace/upstream-sockets.ts';
import { collectGarbage } from '../../support/garbage.ts';

const QUARANTINE_MS = 1_000;
const EMPTY = new BackendPool('empty').snapshot();

/** Upstream sockets over sockets that only note what happens to them; each has a port of its own. */
function rig(maxSockets = 100, ids: readonly string[] = ['a', 'b'], reserve = { least: 0, most: 0 }) {
  const opened: { local: string; port: number; closed: boolean; tag: number }[] = [];
  const failures: unknown[] = [];
  const refuse: { error: Error | undefined; attempts: number } = { error: undefined, attempts: 0 };
  const pool = new BackendPool('game');
  const sockets = new UpstreamSockets({
    maxSockets,
    hasRoom: () => true,
    makeRoom: () => false,
    reserve,
    quarantineMs: QUARANTINE_MS,
    open: (local, tag) => {
      refuse.attempts++;
      if (refuse.error !== undefined) throw refuse.error;
      const port = 40_000 + opened.length;
      const entry = { local: local.toString(), port, closed: false, tag };
      opened.push(entry);
      return {
        local: new Endpoint(local.ip, port),
        send: () => 1,
        close: () => {
          entry.closed = true;
          return Promise.resolve();
        },
      };
    },
    onOpenFailed: (error) => failures.push(error),
  });
  const add = (id: string, endpoint = `10.0.0.${id.charCodeAt(0)}:7777`): void =>
    pool.add({ id, endpoint: Endpoint.parse(endpoint), weight: 1 });
  const publish = (nowMs: number): void => {
    // The tables of a whole snapshot take milliseconds, and nobody here asks them.
    const backends: BackendEntry[] = [];
    for (const backend of pool.list()) backends[backend.slot] = backend;
    sockets.publish({ ...EMPTY, backends }, nowMs);
  };
  const slot = (id: string): number => pool.get(id)!.slot;
  const port = (number: number): number => sockets.sockets[number]!.local.port;
  for (const id of ids) add(id);
  publish(0);
  return { sockets, pool, opened, failures, refuse, add, publish, slot, port };
}

describe('upstream sockets', () => {
  test('sessions on one backend have a socket each, sessions on different backends share', () => {
    const { sockets } = rig();
    expect([sockets.acquire(0, 1, 0), sockets.acquire(0, 2, 0), sockets.acquire(1, 3, 0)]).toEqual([0, 1, 1]);
    expect(sockets.acquire(1, 4, 0)).toBe(0);
    expect(sockets.size).toBe(2);
    expect([0, 1, 2].map((slot) => sockets.owners.get(1, slot))).toEqual([2, 3, NO_OWNER]);
  });

  test('a socket rests towards the backend that it served, not towards the others', () => {
    const { sockets } = rig();
    const first = sockets.acquire(0, 1, 0);
    sockets.release(first, 0, 1, 100);
    expect(sockets.acquire(1, 2, 100)).toBe(first);
    expect(sockets.acquire(0, 3, 100 + QUARANTINE_MS - 1)).not.toBe(first);
    expect(sockets.acquire(0, 4, 100 + QUARANTINE_MS)).toBe(first);
  });

  test('no more sockets are opened than allowed, and a rested one serves again', () => {
    const { sockets } = rig(2);
    expect([1, 2, 3].map((session) => sockets.acquire(0, session, 0))).toEqual([0, 1, -1]);
    expect(sockets.acquire(1, 4, 0)).toBe(1);
    sockets.release(0, 0, 1, 0);
    expect(sockets.acquire(0, 5, QUARANTINE_MS - 1)).toBe(-1);
    expect(sockets.acquire(0, 5, QUARANTINE_MS)).toBe(0);
  });

  test('a refused socket is asked for again after 100 ms, and each refusal is told', () => {
    const { sockets, refuse, failures } = rig();
    refuse.error = new Error('EMFILE');
    expect(sockets.acquire(0, 1, 0)).toBe(-1);
    expect(sockets.acquire(0, 1, 99)).toBe(-1);
    expect(refuse.attempts).toBe(1);
    expect(sockets.acquire(0, 1, 100)).toBe(-1);
    expect(failures).toEqual([refuse.error, refuse.error]);
    refuse.error = undefined;
    expect(sockets.acquire(0, 1, 199)).toBe(-1);
    expect(sockets.acquire(0, 1, 200)).toBe(0);
    expect([refuse.attempts, sockets.size]).toEqual([3, 1]);
  });

  test('a refusal leaves sockets that are open in use', () => {
    const { sockets, refuse } = rig();
    sockets.acquire(0, 1, 0);
    refuse.error = new Error('EMFILE');
    expect(sockets.acquire(1, 2, 0)).toBe(0);
  });

  test('a socket that nobody needs is closed after its rest, and its number is used again', () => {
    const { sockets, opened } = rig();
    sockets.acquire(0, 1, 0);
    sockets.acquire(0, 2, 0);
    sockets.release(0, 0, 1, 500);
    sockets.sweep(500 + QUARANTINE_MS - 1);
    expect(opened.map(({ closed }) => closed)).toEqual([false, false]);
    sockets.sweep(500 + QUARANTINE_MS);
    expect(opened.map(({ closed }) => closed)).toEqual([true, false]);
    expect(sockets.size).toBe(1);
    expect(sockets.acquire(0, 3, 2_000)).toBe(0);
    expect(opened).toHaveLength(3);
  });

  test('closed sockets are forgotten by the backends that never took them', async () => {
    const { sockets } = rig(4);
    const freed: WeakRef<DatagramSocket>[] = [];
    for (let round = 0; round < 50; round++) {
      const number = sockets.acquire(0, 1, round * 10_000);
      freed.push(new WeakRef(sockets.sockets[number]!));
      sockets.release(number, 0, 1, round * 10_000);
      sockets.sweep(round * 10_000 + QUARANTINE_MS);
    }
    expect(sockets.size).toBe(0);
    await expect
      .poll(() => (collectGarbage(), freed.filter((ref) => ref.deref() !== undefined).length))
      .toBe(0);
  });

  test('more backends than eight find room in sockets that are open already', () => {
    const ids = Array.from({ length: 20 }, (_, i) => String.fromCharCode(97 + i));
    const { sockets, add, publish } = rig(100, ids.slice(0, 2));
    expect(sockets.acquire(1, 77, 0)).toBe(0);
    for (const id of ids.slice(2)) add(id);
    publish(0);
    expect(sockets.owners.get(0, 1)).toBe(77);
    expect(sockets.acquire(19, 78, QUARANTINE_MS)).toBe(0);
    sockets.release(0, 1, 77, QUARANTINE_MS);
    expect(sockets.owners.get(0, 19)).toBe(78);
  });

  test('a backend that moved to another slot does not meet sockets that may still get its late replies', () => {
    const { sockets, pool, add, publish, slot, port } = rig(100, ['x', 'a']);
    pool.remove('x');
    publish(0);
    add('a2', '10.0.9.9:1');
    publish(0);
    // a has slot 1, a2 took slot 0. Now a leaves, comes back in slot 0, leaves and comes back in slot 1.
    const start = QUARANTINE_MS * 5;
    pool.remove('a');
    pool.remove('a2');
    publish(start);
    add('a');
    publish(start);
    expect(slot('a')).toBe(0);
    const served = sockets.acquire(0, 2, start + QUARANTINE_MS);
    const servedPort = port(served);
    sockets.release(served, 0, 2, start + QUARANTINE_MS);
    pool.remove('a');
    publish(start + QUARANTINE_MS);
    add('b');
    add('a');
    publish(start + QUARANTINE_MS);
    expect(slot('a')).toBe(1);
    expect(port(sockets.acquire(1, 3, start + QUARANTINE_MS))).not.toBe(servedPort);
  });

  test('IPv4 and IPv6 backends have sockets of their own kind', () => {
    const { sockets, add, publish, slot, opened } = rig();
    add('six', '[2001:db8::1]:7777');
    publish(0);
    sockets.acquire(0, 1, 0);
    expect(sockets.acquire(slot('six'), 2, 0)).toBe(1);
    expect(opened.map(({ local }) => local)).toEqual(['0.0.0.0:0', '[::]:0']);
    expect([0, 1].map((number) => sockets.sockets[number]!.local.ip.isV4)).toEqual([true, false]);
  });

  test('each socket tags its datagrams with its number, also one that was used before', () => {
    const { sockets, opened } = rig();
    expect([1, 2].map((session) => sockets.acquire(0, session, 0))).toEqual([0, 1]);
    sockets.release(0, 0, 1, 0);
    expect(sockets.closeUnowned(0)).toBe(true);
    expect(sockets.acquire(0, 3, 0)).toBe(0);
    expect(opened.map(({ tag, closed }) => [tag, closed])).toEqual([
      [0, true],
      [1, false],
      [0, false],
    ]);
  });

  test('owners outlive the growth to hundreds of sockets and more backends', () => {
    const { sockets, add, publish, slot } = rig(1_000);
    for (let session = 0; session < 300; session++) sockets.acquire(0, session, 0);
    for (const id of 'cdefghijkl') add(id);
    publish(0);
    sockets.acquire(slot('l'), 1_000, QUARANTINE_MS);
    for (let session = 0; session < 300; session++) expect(sockets.owners.get(session, 0)).toBe(session);
    expect(
      Array.from({ length: 300 }, (_, n) => sockets.owners.get(n, slot('l'))).filter((s) => s !== NO_OWNER),
    ).toEqual([1_000]);
  });

  test('closing closes all of them', async () => {
    const { sockets, opened } = rig();
    for (let session = 0; session < 5; session++) sockets.acquire(0, session, 0);
    await sockets.close();
    expect(opened.every(({ closed }) => closed)).toBe(true);
    expect(sockets.size).toBe(0);
  });
});

describe('the reserve of upstream sockets', () => {
  const RESERVE = { least: 4, most: 40 };
  const ready = (maxSockets = 1_000) => {
    const r = rig(maxSockets, ['a', 'b'], RESERVE);
    const open = (): number => r.opened.filter(({ closed }) => !closed).length;
    /** Sweeps once a window, which is how long a burst is remembered at its full size. */
    const rest = (fromMs: number, windows: number): void => {
      for (let i = 1; i <= windows; i++) r.sockets.sweep(fromMs + i * 1_000);
    };
    r.sockets.sweep(0);
    return { ...r, open, rest };
  };

  test('some are open before the first session comes, and it takes one of them', () => {
    const { sockets, open, refuse } = ready();
    expect(open()).toBe(RESERVE.least);
    sockets.acquire(0, 1, 0);
    expect(refuse.attempts).toBe(RESERVE.least);
    sockets.sweep(50);
    expect([open(), sockets.size]).toEqual([RESERVE.least + 1, RESERVE.least + 1]);
  });

  test('a slot takes what others have open before it takes from the reserve', () => {
    const { sockets } = ready();
    const [first, second] = [sockets.acquire(0, 1, 0), sockets.acquire(0, 2, 0)];
    sockets.sweep(50);
    expect([sockets.acquire(1, 3, 50), sockets.acquire(1, 4, 50)].toSorted()).toEqual(
      [first, second].toSorted(),
    );
  });

  test('it grows with what was taken in a second, a few in each step and up to its cap', () => {
    const { sockets, open } = ready();
    for (let session = 0; session < 30; session++) sockets.acquire(0, session, 10);
    const steps = [50, 100, 150, 200, 250].map((nowMs) => {
      sockets.sweep(nowMs);
      return open() - 30;
    });
    expect(steps).toEqual([1, 2, 3, 4, 4].map((step) => Math.min(30, step * UPSTREAM_OPENS_PER_SWEEP)));
    for (let session = 30; session < 1_030; session++) sockets.acquire(0, session, 300);
    for (let nowMs = 350; nowMs < 1_000; nowMs += 50) sockets.sweep(nowMs);
    expect(open()).toBeLessThanOrEqual(1_030 + RESERVE.most);
  });

  test('without need it shrinks to what it was at the start', () => {
    const { sockets, open, rest } = ready();
    const numbers = Array.from({ length: 40 }, (_, session) => sockets.acquire(0, session, 0));
    for (let nowMs = 50; nowMs < 400; nowMs += 50) sockets.sweep(nowMs);
    expect(open()).toBe(80);
    numbers.forEach((number, session) => sockets.release(number, 0, session, 500));
    rest(500, 60);
    expect([open(), sockets.size]).toEqual([RESERVE.least, RESERVE.least]);
  });

  test('a socket that was left and has rested is part of it, and serves again', () => {
    const { sockets, refuse } = ready();
    const numbers = [0, 1, 2, 3].map((session) => sockets.acquire(0, session, 0));
    numbers.forEach((number, session) => sockets.release(number, 0, session, 0));
    sockets.sweep(QUARANTINE_MS);
    const { attempts } = refuse;
    for (let session = 0; session < 4; session++) sockets.acquire(0, session, QUARANTINE_MS);
    expect(refuse.attempts).toBe(attempts);
  });

  test('it is at most an eighth of what may be opened, and gives way to sessions at the cap', () => {
    const { sockets, open } = ready(16);
    expect(open()).toBe(2);
    for (let session = 0; session < 14; session++) sockets.acquire(0, session, 0);
    sockets.sweep(50);
    expect(sockets.size).toBe(16);
    // A backend of the other family: the spare ones are of no use to it.
    expect([14, 15, 16].map((session) => sockets.acquire(0, session, 50) !== -1)).toEqual([
      true,
      true,
      false,
    ]);
    expect(sockets.size).toBe(16);
  });

  test('it gives way to a backend of the other address family', () => {
    const { sockets, add, publish, slot, open } = ready(8);
    for (let session = 0; session < 7; session++) sockets.acquire(0, session, 0);
    sockets.sweep(50);
    expect(open()).toBe(8);
    add('six', '[2001:db8::1]:7777');
    publish(50);
    expect(sockets.acquire(slot('six'), 7, 50)).not.toBe(-1);
    expect(open()).toBe(8);
  });

  test('a backend that is new to its slot needs no rest from a spare socket', () => {
    const { sockets, add, publish, slot } = ready();
    add('c');
    publish(10);
    expect(sockets.acquire(slot('c'), 1, 10)).not.toBe(-1);
    expect(sockets.acquire(0, 2, 10)).not.toBe(-1);
    expect(sockets.size).toBe(RESERVE.least);
  });

  test('without backends there is none', () => {
    const { sockets, pool, publish } = ready();
    pool.remove('a');
    pool.remove('b');
    publish(50);
    sockets.sweep(50);
    expect(sockets.size).toBe(0);
  });

  test('a refusal by the system ends the step, and the reserve is filled later', () => {
    const { sockets, refuse, open, failures } = ready();
    refuse.error = new Error('EMFILE');
    sockets.acquire(0, 1, 0);
    sockets.sweep(50);
    expect([open(), failures.length]).toEqual([RESERVE.least, 1]);
    refuse.error = undefined;
    sockets.sweep(100);
    expect(open()).toBe(RESERVE.least);
    sockets.sweep(150);
    expect(open()).toBe(RESERVE.least + 1);
  });
});

describe('upstream sockets, through anything', () => {
  const action = fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('acquire' as const), at: fc.nat(1_000) }) },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('release' as const), at: fc.nat(1_000) }) },
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constant('wait' as const), at: fc.constantFrom(1, 499, 500, 1_000) }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('pool' as const), at: fc.nat(1_000) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('renumber' as const), at: fc.nat(1_000) }) },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constantFrom('sweep' as const, 'refuse' as const), at: fc.nat(1) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constantFrom('evict' as const, 'give up' as const),
        at: fc.nat(1_000),
      }),
    },
  );

  /** Every third backend has an IPv6 address, so each family has sockets of its own. */
  const isV6 = (id: string): boolean => id.charCodeAt(0) % 3 === 0;
  const endpointOf = (id: string): string | undefined =>
    isV6(id) ? `[2001:db8::${id.charCodeAt(0)}]:7777` : undefined;

  interface Live {
    session: number;
    number: number;
    slot: number;
    port: number;
    /** The backend that it still speaks with. */
    id: string | undefined;
  }

  test.each([
    ['opened when they are needed', 6, { least: 0, most: 0 }],
    ['and some ahead of need', 24, { least: 2, most: 3 }],
  ])('no session meets the replies to another one, with sockets %s', (_how, maxSockets, reserve) => {
    fc.assert(
      fc.property(fc.array(action, { minLength: 60, maxLength: 200, size: 'max' }), (actions) => {
        const { sockets, pool, add, publish, opened, refuse, slot, port } = rig(maxSockets, [], reserve);
        for (const id of 'abc') add(id, endpointOf(id));
        publish(0);
        const live: Live[] = [];
        /** When a session last spoke through this port with this backend: a late reply comes back on the same pair. */
        const left = new Map<string, number>();
        let nowMs = 0;
        let nextSession = 1;
        const part = (one: Live): void => {
          if (one.id !== undefined) left.set(`${one.port} ${one.id}`, nowMs);
          one.id = undefined;
        };
        const release = (one: Live): void => {
          part(one);
          sockets.release(one.number, one.slot, one.session, nowMs);
          live.splice(live.indexOf(one), 1);
        };
        for (const { kind, at } of actions) {
          const backends = pool.list();
          const one = live[at % Math.max(1, live.length)];
          if (kind === 'wait') nowMs += at;
          else if (kind === 'sweep') sockets.sweep(nowMs);
          else if (kind === 'refuse') refuse.error = at === 0 ? undefined : new Error('EMFILE');
          else if (kind === 'release' && one !== undefined) release(one);
          else if (kind === 'renumber' && one !== undefined) {
            one.session = nextSession++;
            sockets.renumber(one.number, one.slot, one.session);
          } else if (kind === 'evict' && one !== undefined) {
            const victim = sockets.findSoleOwner(one.slot, (session) => session === one.session);
            if (victim === -1) continue;
            assert.equal(live.filter(({ number }) => number === one.number).length, 1);
            const before = sockets.size;
            release(one);
            assert(sockets.closeUnowned(one.number));
            assert.equal(sockets.size, before - 1);
          } else if (kind === 'give up') {
            const before = sockets.size;
            assert.equal(sockets.giveUpReady(nowMs), sockets.size < before);
          } else if (kind === 'acquire' && backends.length > 0) {
            const { id } = backends[at % backends.length]!;
            const session = nextSession++;
            const number = sockets.acquire(slot(id), session, nowMs);
            if (number === -1) {
              assert(sockets.size === maxSockets || refuse.attempts > opened.length);
              continue;
            }
            const taken = { session, number, slot: slot(id), port: port(number), id };
            assert(!live.some((other) => other.port === taken.port && other.id === id));
            assert(nowMs - (left.get(`${taken.port} ${id}`) ?? -Infinity) >= QUARANTINE_MS);
            live.push(taken);
          } else if (kind === 'pool') {
            const id = 'abcdefghijkl'[at % (at % 2 === 0 ? 12 : 3)]!;
            // Sessions of a backend that left give their sockets back later: when their clients are heard, or they end.
            if (pool.remove(id)) live.filter((session) => session.id === id).forEach(part);
            else add(id, endpointOf(id));
            publish(nowMs);
          }
          for (const { session, number, slot: own } of live)
            assert.equal(sockets.owners.get(number, own), session);
          assert(sockets.size <= maxSockets);
          assert.equal(sockets.size, opened.filter(({ closed }) => !closed).length);
          assert.equal(sockets.size, sockets.sockets.filter((socket) => socket !== undefined).length);
        }
        for (const one of [...live]) release(one);
        refuse.error = undefined;
        for (let window = 1; window <= 30; window++) sockets.sweep(nowMs + window * QUARANTINE_MS);
        const families = new Set(pool.list().map(({ id }) => isV6(id)));
        assert.equal(sockets.size, families.size * reserve.least);
        assert.equal(opened.filter(({ closed }) => !closed).length, sockets.size);
      }),
      { numRuns: 500 },
    );
  });
});
