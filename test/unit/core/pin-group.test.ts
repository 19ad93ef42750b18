import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { NO_BACKEND_REF, slotOf } from '../../../relay/core/backend-ref.ts';
import { DROP_REASONS } from '../../../relay/core/drop-reason.ts';
import { MAX_BACKENDS } from '../../../relay/core/limits.ts';
import { ListenerState, PoolView } from '../../../relay/core/listener-state.ts';
import { PinGroup, type PinRequest } from '../../../relay/core/pin-group.ts';
import { Router } from '../../../relay/core/router.ts';
import { ALGORITHMS } from '../../../relay/core/select.ts';
import { NaivePinGroup } from '../../support/naive-pin-group.ts';
import { RULES } from './router-rig.ts';

const GROUP = { name: 'players', pools: ['game', 'login'], pinTimeoutMs: RULES.pinTimeoutMs };

function poolOf(name: string, ids: readonly string[], port: number): BackendPool {
  const pool = new BackendPool(name);
  for (const id of ids) addTo(pool, id, port);
  return pool;
}

function addTo(pool: BackendPool, id: string, port: number): void {
  pool.add({ id, endpoint: Endpoint.parse(`10.0.1.${id.charCodeAt(0)}:${port}`), weight: 1 });
}

/** Two UDP listeners of one pool and a TCP side with another pool, in one group. */
class GroupRig {
  readonly game: BackendPool;
  readonly login: BackendPool;
  readonly listeners: ListenerState[];
  readonly router: Router;
  nowMs = 1_000_000;
  #ports = 1;

  constructor(ids: readonly string[], algorithm: (typeof ALGORITHMS)[number] = 'ip-hash') {
    this.game = poolOf('game', ids, 7777);
    // In another order, so that slots differ.
    this.login = poolOf('login', [...ids].reverse(), 5432);
    const drop = (): void => undefined;
    this.router = new Router({
      ...{ maxSessions: 1_000, hashSeed: 0, tableSeed: 0x5eed, onDetach: drop, onRenumber: drop },
    });
    const view = new PoolView(this.game.snapshot());
    this.listeners = [0, 1].map((i) => {
      const listener = new ListenerState(i, `udp-${i}`, { rules: { ...RULES, algorithm }, pool: view });
      this.router.addListener(listener);
      return listener;
    });
    this.group();
  }

  group(groups = [GROUP]): void {
    const snapshotOf = (pool: string) => (pool === 'game' ? this.game : this.login).snapshot();
    this.router.groupPins.set(groups, snapshotOf, this.nowMs);
    for (const listener of this.listeners) {
      listener.group = this.router.groupPins.groups.get('players')?.view('game');
    }
  }

  publish(): void {
    this.listeners[0]!.pool.publish(this.game.snapshot());
    for (const pool of [this.game, this.login]) this.router.groupPins.groups.publish(pool.snapshot());
  }

  /** A new session from a new port. @returns the backend's id, or the reason of the drop */
  udp(client: string, listener = this.listeners[0]!, port = this.#ports++): string {
    const { words } = IpAddress.parse(client);
    const session = this.router.route(listener, words, 0, port, 14, this.nowMs);
    if (session < 0) return DROP_REASONS[~session]!;
    return this.game.snapshot().backends[slotOf(this.router.sessions.backendRef(session))]!.id;
  }

  tcp(client: string, proposal: string | undefined, more: Partial<PinRequest> = {}): string | undefined {
    const { words } = IpAddress.parse(client);
    const request = { group: 'players', client: words, pool: 'login', proposal, hold: false, ...more };
    return this.router.groupPins.request(request, this.nowMs);
  }

  letGo(client: string): void {
    this.router.groupPins.letGo('players', IpAddress.parse(client).words, this.nowMs);
  }

  wait(ms: number): void {
    this.nowMs += ms;
    this.router.sweep(10_000, this.nowMs);
  }

  get livePins(): number {
    return this.router.pins.records.size;
  }
}

const [ALICE, BOB] = ['10.9.0.1', '2001:db8::9'] as const;

describe('whoever comes first makes the pin', () => {
  test.each(ALGORITHMS)('and the other follows, by the id of the backend: %s', (algorithm) => {
    const rig = new GroupRig(['a', 'b', 'c'], algorithm);
    for (const [i, id] of ['c', 'a', 'b', 'c', 'a'].entries()) {
      expect(rig.tcp(`10.1.0.${i + 1}`, id)).toBe(id);
      expect(rig.udp(`10.1.0.${i + 1}`)).toBe(id);
      const first = rig.udp(`10.2.0.${i + 1}`);
      expect(rig.tcp(`10.2.0.${i + 1}`, first === 'a' ? 'b' : 'a')).toBe(first);
      expect(rig.udp(`10.2.0.${i + 1}`, rig.listeners[1])).toBe(first);
    }
  });

  test('a draining backend is followed, a failed one is not, and what was taken instead is the pin', () => {
    const rig = new GroupRig(['a', 'b', 'c']);
    rig.tcp(ALICE, 'b');
    rig.game.setDraining('b', true);
    rig.login.setDraining('b', true);
    rig.publish();
    expect([rig.udp(ALICE), rig.tcp(ALICE, 'c')]).toEqual(['b', 'b']);
    rig.game.setHealthy('b', false);
    rig.publish();
    const next = rig.udp(ALICE);
    expect(next).not.toBe('b');
    expect(rig.tcp(ALICE, 'b')).toBe(next);
  });

  test('where nobody is ready the pin of a draining backend still says where to go', () => {
    const rig = new GroupRig(['a']);
    rig.udp(ALICE);
    rig.login.setDraining('a', true);
    rig.publish();
    expect([rig.tcp(ALICE, undefined), rig.tcp(BOB, undefined)]).toEqual(['a', undefined]);
  });

  test('the id is missing in one pool: each side keeps to what it can have', () => {
    const rig = new GroupRig(['a', 'b']);
    rig.login.remove('b');
    rig.game.remove('a');
    rig.publish();
    expect(rig.udp(ALICE)).toBe('b');
    expect(rig.tcp(ALICE, 'a')).toBe('a');
    expect(rig.udp(ALICE)).toBe('b');
  });

  test('a backend that failed and came back has lost the pins of those who did not ask meanwhile', () => {
    const rig = new GroupRig(['a', 'b']);
    rig.tcp(ALICE, 'a');
    for (const pool of [rig.game, rig.login]) pool.setHealthy('a', false);
    rig.publish();
    for (const pool of [rig.game, rig.login]) pool.setHealthy('a', true);
    rig.publish();
    expect(rig.tcp(ALICE, 'b')).toBe('b');
    expect(rig.udp(ALICE)).toBe('b');
  });

  test('when only the login of a server fails, who plays there stays, and logs in there when it is back', () => {
    const rig = new GroupRig(['a', 'b']);
    rig.tcp(ALICE, 'a');
    rig.udp(ALICE);
    rig.login.setHealthy('a', false);
    rig.publish();
    expect(rig.udp(ALICE)).toBe('a');
    rig.login.setHealthy('a', true);
    rig.publish();
    expect(rig.tcp(ALICE, 'b')).toBe('a');
  });
});

describe('a backend that could not be reached', () => {
  test('loses the pin to the one that was', () => {
    const rig = new GroupRig(['a', 'b']);
    rig.tcp(ALICE, 'a');
    expect(rig.tcp(ALICE, 'b', { instead: 'a' })).toBe('b');
    expect(rig.udp(ALICE)).toBe('b');
  });

  test('keeps the pin of a client that plays there', () => {
    const rig = new GroupRig(['a', 'b']);
    rig.tcp(ALICE, 'a');
    rig.udp(ALICE);
    expect(rig.tcp(ALICE, 'b', { instead: 'a' })).toBe('a');
    expect(rig.udp(ALICE)).toBe('a');
  });
});

describe('time', () => {
  test('a pin lives as long as a connection holds it, and its timeout longer', () => {
    const rig = new GroupRig(['a', 'b']);
    rig.tcp(ALICE, 'a', { hold: true });
    rig.wait(100 * RULES.pinTimeoutMs);
    expect(rig.livePins).toBe(1);
    rig.letGo(ALICE);
    rig.wait(RULES.pinTimeoutMs - 1);
    expect(rig.tcp(ALICE, undefined)).toBe('a');
    rig.wait(1);
    expect([rig.livePins, rig.tcp(ALICE, undefined)]).toEqual([0, undefined]);
    rig.letGo(ALICE);
  });

  test('a pin lives as long as a session, and its timeout longer', () => {
    const rig = new GroupRig(['a', 'b']);
    for (let i = 0; i < 10; i++) {
      rig.udp(ALICE, rig.listeners[0], 7);
      rig.wait(RULES.idleTimeoutMs - 1);
    }
    rig.wait(1);
    expect(rig.router.sessions.records.size).toBe(0);
    rig.wait(RULES.pinTimeoutMs - 1);
    expect(rig.livePins).toBe(2);
    rig.wait(1);
    expect(rig.livePins).toBe(0);
  });
});

describe('a reload', () => {
  test('adds a group to players who have pins: TCP follows them', () => {
    const rig = new GroupRig(['a', 'b', 'c']);
    rig.group([]);
    const before = ['10.3.0.1', '10.3.0.2', '10.3.0.3', '10.3.0.4'].map((ip) => [ip, rig.udp(ip)] as const);
    rig.group();
    for (const [ip, id] of before)
      expect([rig.tcp(ip, id === 'a' ? 'b' : 'a'), rig.udp(ip)]).toEqual([id, id]);
  });

  test('takes a group away: its pins are forgotten, those of the listeners stay', () => {
    const rig = new GroupRig(['a', 'b', 'c']);
    for (const id of ['a', 'b', 'c']) rig.tcp(`10.4.0.${id.charCodeAt(0)}`, id);
    rig.tcp(ALICE, 'c');
    rig.udp(ALICE);
    rig.group([]);
    expect([rig.livePins, rig.udp(ALICE), rig.tcp(ALICE, 'a')]).toEqual([1, 'c', 'a']);
  });

  test('a group that comes after another has none of its pins', () => {
    const rig = new GroupRig(['a', 'b']);
    rig.tcp(ALICE, 'a');
    rig.group([{ ...GROUP, name: 'others' }]);
    expect(rig.tcp(ALICE, 'b', { group: 'others' })).toBe('b');
  });
});

test('a full table keeps the pins of those who play, and all go on', () => {
  const rig = new GroupRig(['a', 'b']);
  const served = Array.from({ length: 1_000 }, (_, i) => rig.udp(`10.5.${i >> 8}.${i & 255}`));
  expect(new Set(served)).toEqual(new Set(['a', 'b']));
  for (let i = 0; i < 500; i++) expect(rig.tcp(`10.6.${i >> 8}.${i & 255}`, 'a')).toBe('a');
  for (let i = 0; i < 1_000; i++) expect(rig.tcp(`10.5.${i >> 8}.${i & 255}`, 'x')).toBe(served[i]);
});

test('ids beyond the slots of a group have no pins, and no other’s', () => {
  const group = new PinGroup('players', 0);
  const [one, two] = ['one', 'two'].map((name) => {
    const pool = new BackendPool(name);
    for (let i = 0; i < MAX_BACKENDS; i++) {
      pool.add({ id: `${name}-${i}`, endpoint: Endpoint.parse(`10.7.${i >> 8}.${i & 255}:7777`), weight: 1 });
    }
    return pool.snapshot();
  });
  group.setPools([one!, two!]);
  expect(group.refOf('one-1023')).not.toBe(NO_BACKEND_REF);
  expect(group.refOf('two-0')).toBe(NO_BACKEND_REF);
  expect(group.isUsable('two', 'two-0')).toBe(false);
  group.setPools([two!]);
  expect(group.isUsable('two', 'two-1023')).toBe(true);
});

// ---- whatever comes -----------------------------------------------------------------------------------------------------

const IPS = ['10.9.0.1', '10.9.0.2', '10.9.0.3', '2001:db8::1'];
const IDS = ['a', 'b', 'c', 'd'];
const step = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      kind: fc.constantFrom('udp' as const, 'udp' as const, 'tcp' as const),
      ip: fc.constantFrom(...IPS),
      listener: fc.constantFrom(0, 1),
      proposal: fc.constantFrom(...IDS),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('change' as const),
      where: fc.constantFrom('game', 'login', 'both', 'both'),
      what: fc.constantFrom('add', 'remove', 'fail', 'fail', 'heal', 'heal', 'drain', 'undrain'),
      id: fc.constantFrom(...IDS),
    }),
  },
);

function change(pool: BackendPool, what: string, id: string): void {
  if (what === 'add' && pool.get(id) === undefined) addTo(pool, id, 9000);
  if (what === 'remove') pool.remove(id);
  if (what === 'fail' || what === 'heal') pool.setHealthy(id, what === 'heal');
  if (what === 'drain' || what === 'undrain') pool.setDraining(id, what === 'drain');
}

test.each(ALGORITHMS)('shared pins decide as their plain twin does, whatever comes: %s', (algorithm) => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 80, size: 'max' }), (steps) => {
      const rig = new GroupRig(['a', 'b', 'c'], algorithm);
      const naive = new NaivePinGroup([rig.game, rig.login]);
      naive.publish();
      for (const action of steps) {
        if (action.kind === 'change') {
          const pools = [rig.game, rig.login].filter(
            ({ name }) => action.where === 'both' || action.where === name,
          );
          for (const pool of pools) change(pool, action.what, action.id);
          rig.publish();
          naive.publish();
        } else if (action.kind === 'udp') {
          const listener = rig.listeners[action.listener]!;
          const expected = naive.pinned(rig.game, action.ip, [listener.name]);
          const id = rig.udp(action.ip, listener);
          if (id === 'no-backend') {
            assert.equal(expected, undefined);
            continue;
          }
          assert.equal(id, expected ?? id, JSON.stringify(action));
          if (expected === undefined) assert.equal(rig.game.get(id)?.state, 'ready');
          naive.took(rig.game, action.ip, { id, listener: listener.name });
        } else {
          const proposal = rig.login.get(action.proposal)?.state === 'ready' ? action.proposal : undefined;
          const expected = naive.pinned(rig.login, action.ip, ['udp-0', 'udp-1']) ?? proposal;
          assert.equal(rig.tcp(action.ip, proposal, { hold: true }), expected, JSON.stringify(action));
          if (expected !== undefined) naive.took(rig.login, action.ip, { id: expected });
        }
      }
    }),
    { numRuns: 50 },
  );
});
