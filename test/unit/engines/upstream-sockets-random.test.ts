/** Upstream sockets through anything that sessions, backends and the system may do, against what must always hold. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, test } from 'vitest';
import { QUARANTINE_MS, upstreamRig } from './upstream-rig.ts';

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
        const { sockets, pool, add, publish, opened, refuse, slot, port } = upstreamRig(
          maxSockets,
          [],
          reserve,
        );
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
