import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { slotOf } from '../../../relay/core/backend-ref.ts';
import { BackendPool, type BackendSpec } from '../../../relay/core/backend-pool.ts';
import { MAX_BACKENDS, MAX_WEIGHT } from '../../../relay/core/limits.ts';
import type { BackendState, PoolSnapshot } from '../../../relay/core/pool-snapshot.ts';
import { naiveSlotAt } from '../../support/naive-slot-at.ts';

function spec(id: string, endpoint: string, weight = 1): BackendSpec {
  return { id, endpoint: Endpoint.parse(endpoint), weight };
}

/** A pool with backends a, b and c in slots 0, 1 and 2. */
function threeBackends(): BackendPool {
  const pool = new BackendPool('game-servers');
  pool.add(spec('a', '10.0.0.3:7777'));
  pool.add(spec('b', '10.0.0.5:7777'));
  pool.add(spec('c', '10.0.0.7:7777'));
  return pool;
}

function slotAt(snapshot: PoolSnapshot, endpoint: string): number {
  const { ip, port } = Endpoint.parse(endpoint);
  return snapshot.slotAt(ip.words, 0, port);
}

describe('backends', () => {
  test('a cap of connections is what the snapshot says, none by default, and moves nobody', () => {
    const pool = new BackendPool('p');
    pool.add({ ...spec('a', '10.0.0.3:7777'), maxConnections: 90 });
    pool.add(spec('b', '10.0.0.5:7777'));
    const before = pool.snapshot();
    expect(before.backends.map((backend) => backend?.maxConnections)).toEqual([90, 0]);
    expect([pool.setMaxConnections('b', 5), pool.setMaxConnections('b', 5)]).toEqual([true, false]);
    const after = pool.snapshot();
    expect(after.backends[1]?.maxConnections).toBe(5);
    expect(after.usable).toEqual(before.usable);
    expect(after.maglev).toBe(before.maglev);
  });

  test('a new backend is ready, unless it has to prove its health first', () => {
    const pool = new BackendPool('p');
    pool.add(spec('a', '10.0.0.3:7777'));
    pool.add({ ...spec('b', '10.0.0.5:7777'), healthy: false });
    expect(pool.get('a')).toMatchObject({ slot: 0, weight: 1, state: 'ready', healthy: true, enabled: true });
    expect(pool.get('b')).toMatchObject({ slot: 1, state: 'unhealthy', healthy: false, draining: false });
    expect(pool.get('c')).toBeUndefined();
    expect(pool.list().map(({ id }) => id)).toEqual(['a', 'b']);
  });

  test.each<[enabled: boolean, healthy: boolean, draining: boolean, state: BackendState]>([
    [true, true, false, 'ready'],
    [true, true, true, 'draining'],
    [true, false, false, 'unhealthy'],
    [true, false, true, 'unhealthy'],
    [false, true, false, 'disabled'],
    [false, true, true, 'disabled'],
    [false, false, false, 'disabled'],
    [false, false, true, 'disabled'],
  ])('enabled %s, healthy %s, draining %s is %s', (enabled, healthy, draining, state) => {
    const pool = threeBackends();
    pool.setEnabled('b', enabled);
    pool.setHealthy('b', healthy);
    pool.setDraining('b', draining);
    expect(pool.get('b')).toMatchObject({ enabled, healthy, draining, state });
    expect(pool.snapshot().backends[1]?.state).toBe(state);
  });

  test('setters say whether anything changed, and an unknown id changes nothing', () => {
    const pool = threeBackends();
    expect([pool.setHealthy('a', false), pool.setHealthy('a', false)]).toEqual([true, false]);
    expect([pool.setDraining('a', true), pool.setDraining('a', true)]).toEqual([true, false]);
    expect([pool.setEnabled('a', false), pool.setEnabled('a', false)]).toEqual([true, false]);
    expect([pool.setWeight('a', 5), pool.setWeight('a', 5)]).toEqual([true, false]);
    expect([pool.remove('a'), pool.remove('a')]).toEqual([true, false]);
    expect(pool.setHealthy('nobody', false)).toBe(false);
    expect(pool.setWeight('nobody', 2)).toBe(false);
  });

  test('the lowest free slot is reused', () => {
    const pool = threeBackends();
    pool.remove('b');
    pool.remove('a');
    pool.add(spec('d', '10.0.0.9:7777'));
    pool.add(spec('e', '10.0.0.11:7777'));
    pool.add(spec('f', '10.0.0.13:7777'));
    expect(pool.list().map(({ id, slot }) => `${id}${slot}`)).toEqual(['d0', 'e1', 'c2', 'f3']);
  });

  test('an id, an endpoint, a weight out of range or one backend too many is a programmer error', () => {
    const pool = threeBackends();
    expect(() => pool.add(spec('a', '10.0.0.99:7777'))).toThrow('backend "a" is already in the pool');
    expect(() => pool.add(spec('d', '10.0.0.3:7777'))).toThrow('10.0.0.3:7777 is already in the pool');
    for (const weight of [0, -1, 1.5, MAX_WEIGHT + 1, Number.NaN]) {
      expect(() => pool.add(spec('d', '10.0.0.99:7777', weight))).toThrow('weight must be 1 to 256');
      expect(() => pool.setWeight('a', weight)).toThrow('weight must be 1 to 256');
    }
    expect(pool.list()).toHaveLength(3);
    expect(pool.hasEndpoint(Endpoint.parse('10.0.0.3:7777'))).toBe(true);
    expect(pool.hasEndpoint(Endpoint.parse('[::ffff:10.0.0.3]:7777'))).toBe(true);
    expect(pool.hasEndpoint(Endpoint.parse('10.0.0.3:7778'))).toBe(false);
  });

  test('a full pool finds every one of its backends, and nobody else', () => {
    const pool = new BackendPool('p');
    for (let i = 0; i < MAX_BACKENDS; i++) {
      expect(pool.isFull).toBe(false);
      pool.add(spec(`b${i}`, `10.0.${i >> 8}.${i & 255}:7777`));
    }
    expect(pool.isFull).toBe(true);
    expect(() => pool.add(spec('late', '10.1.0.0:7777'))).toThrow('the pool is full');
    const snapshot = pool.snapshot();
    for (let i = 0; i < MAX_BACKENDS; i++) expect(slotAt(snapshot, `10.0.${i >> 8}.${i & 255}:7777`)).toBe(i);
    expect(slotAt(snapshot, '10.0.0.0:7778')).toBe(-1);
    expect(slotAt(snapshot, '10.4.0.0:7777')).toBe(-1);
    expect(slotAt(snapshot, '[::]:7777')).toBe(-1);
  });
});

describe('references', () => {
  test('health, the switch and removal end an incarnation; drain and weight do not', () => {
    const pool = threeBackends();
    const ref = (): number | undefined => pool.snapshot().usable[0];
    const first = ref();
    pool.setDraining('a', true);
    expect(ref()).toBe(first);
    pool.setWeight('a', 9);
    pool.setDraining('a', false);
    expect(ref()).toBe(first);

    pool.setHealthy('a', false);
    expect(ref()).toBe(0);
    pool.setHealthy('a', true);
    const second = ref();
    expect(second).not.toBe(first);

    pool.setEnabled('a', false);
    pool.setEnabled('a', true);
    const third = ref();
    expect(third).not.toBe(second);

    pool.remove('a');
    expect(ref()).toBe(0);
    pool.add(spec('a', '10.0.0.3:7777'));
    expect([first, second, third]).not.toContain(ref());
  });

  test('a backend that is already out does not lose another incarnation', () => {
    const pool = threeBackends();
    pool.setHealthy('a', false);
    const ref = pool.get('a')?.ref;
    pool.setEnabled('a', false);
    pool.setHealthy('a', true);
    pool.setEnabled('a', true);
    expect(pool.get('a')).toMatchObject({ state: 'ready', ref });
  });
});

describe('snapshots', () => {
  test('an empty pool has nobody to offer', () => {
    const snapshot = new BackendPool('p').snapshot();
    expect(snapshot).toMatchObject({ pool: 'p', epoch: 1, backends: [] });
    expect([snapshot.ready, snapshot.maglev, snapshot.rotation].map(({ length }) => length)).toEqual([
      0, 0, 0,
    ]);
    expect(slotAt(snapshot, '10.0.0.3:7777')).toBe(-1);
  });

  test('the same object until something changes; then one epoch for all that changed', () => {
    const pool = threeBackends();
    const first = pool.snapshot();
    expect(pool.setHealthy('a', true)).toBe(false);
    expect(pool.snapshot()).toBe(first);
    pool.setHealthy('a', false);
    pool.setDraining('b', true);
    const second = pool.snapshot();
    expect(second.epoch).toBe(first.epoch + 1);
    expect([...second.ready]).toEqual([2]);
    expect(pool.snapshot()).toBe(second);
  });

  test('tables are rebuilt only when the ready backends, their weights or their endpoints change', () => {
    const pool = threeBackends();
    pool.setHealthy('c', false);
    const { maglev, rotation } = pool.snapshot();
    expect(new Set(maglev)).toEqual(new Set([0, 1]));

    pool.setDraining('c', true);
    pool.setWeight('c', 7);
    pool.remove('c');
    pool.add({ ...spec('d', '10.0.0.9:7777'), healthy: false });
    expect(pool.snapshot().maglev).toBe(maglev);
    expect(pool.snapshot().rotation).toBe(rotation);

    pool.setWeight('a', 2);
    const heavier = pool.snapshot();
    expect(heavier.maglev).not.toEqual(maglev);
    expect([...heavier.rotation]).toEqual([0, 1, 0]);

    pool.remove('b');
    pool.add(spec('b', '10.0.0.55:7777'));
    expect(pool.snapshot().maglev).not.toEqual(heavier.maglev);
  });

  test('one backend out and another in, seen at once, is another table', () => {
    const pool = threeBackends();
    pool.setHealthy('c', false);
    pool.snapshot();
    pool.setHealthy('b', false);
    pool.setHealthy('c', true);
    expect(new Set(pool.snapshot().maglev)).toEqual(new Set([0, 2]));
  });

  test('a backend that comes back gives back the table as it was', () => {
    const pool = threeBackends();
    const before = pool.snapshot();
    pool.setHealthy('b', false);
    expect(pool.snapshot().maglev.includes(1)).toBe(false);
    pool.setHealthy('b', true);
    expect(pool.snapshot().maglev).toEqual(before.maglev);
  });

  test('rotation interleaves by weight, and draining backends have no part in it', () => {
    const pool = new BackendPool('p');
    pool.add(spec('a', '10.0.0.3:7777', 50));
    pool.add(spec('b', '10.0.0.5:7777', 10));
    pool.add(spec('c', '10.0.0.7:7777', 10));
    pool.add(spec('d', '10.0.0.9:7777', 200));
    pool.setDraining('d', true);
    expect([...pool.snapshot().rotation]).toEqual([0, 0, 1, 0, 2, 0, 0]);
  });
});

type Command =
  | { do: 'add'; id: string; last: number; weight: number; healthy: boolean }
  | { do: 'remove'; id: string }
  | { do: 'setHealthy' | 'setDraining' | 'setEnabled'; id: string; to: boolean }
  | { do: 'setWeight'; id: string; to: number };

const id = fc.constantFrom('a', 'b', 'c', 'd');
const weight = fc.integer({ min: 1, max: 3 });
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    arbitrary: fc.record({
      do: fc.constant('add' as const),
      id,
      last: fc.nat({ max: 4 }),
      weight,
      healthy: fc.boolean(),
    }),
    weight: 3,
  },
  fc.record({ do: fc.constant('remove' as const), id }),
  {
    arbitrary: fc.record({
      do: fc.constantFrom('setHealthy' as const, 'setDraining' as const, 'setEnabled' as const),
      id,
      to: fc.boolean(),
    }),
    weight: 4,
  },
  fc.record({ do: fc.constant('setWeight' as const), id, to: weight }),
);

/** Runs a command that is no programmer error. Returns whether it should have changed the pool. */
function run(pool: BackendPool, command: Command): boolean {
  const before = pool.get(command.id);
  switch (command.do) {
    case 'add': {
      const { id, weight, healthy } = command;
      const endpoint = Endpoint.parse(`10.0.0.${command.last}:7777`);
      if (before !== undefined || pool.hasEndpoint(endpoint)) return false;
      pool.add({ id, endpoint, weight, healthy });
      return true;
    }
    case 'remove':
      return pool.remove(command.id);
    case 'setWeight':
      return pool.setWeight(command.id, command.to);
    default:
      return pool[command.do](command.id, command.to);
  }
}

test('whatever happens to a pool: snapshots are true, stay as they were, and no reference means two things', () => {
  fc.assert(
    fc.property(fc.array(command, { maxLength: 25 }), (commands) => {
      const pool = new BackendPool('p');
      const taken: { snapshot: PoolSnapshot; copy: object }[] = [];
      /** Who a reference has meant, and the references whose time is over. */
      const meaning = new Map<number, string>();
      const over = new Set<number>();
      let last = pool.snapshot();

      for (const command of commands) {
        const changed = run(pool, command);
        const snapshot = pool.snapshot();
        expect(snapshot === last).toBe(!changed);
        expect(snapshot.epoch).toBe(last.epoch + Number(changed));

        const backends = pool.list();
        expect(snapshot.backends.filter((entry) => entry !== undefined)).toEqual(backends);
        expect([...snapshot.ready]).toEqual(
          backends.filter(({ state }) => state === 'ready').map(({ slot }) => slot),
        );
        expect(new Set(snapshot.maglev)).toEqual(new Set(snapshot.ready));
        expect(new Set(snapshot.rotation)).toEqual(new Set(snapshot.ready));
        for (let i = 0; i < 5; i++) {
          const endpoint = Endpoint.parse(`10.0.0.${i}:7777`);
          expect(snapshot.slotAt(endpoint.ip.words, 0, 7777)).toBe(naiveSlotAt(backends, endpoint));
        }
        for (const [slot, ref] of snapshot.usable.entries()) {
          const before = last.usable[slot]!;
          if (before !== 0 && before !== ref) over.add(before);
          if (ref === 0) continue;
          const backend = snapshot.backends[slot]!;
          expect(slotOf(ref)).toBe(slot);
          expect(backend.ref).toBe(ref);
          expect(['ready', 'draining']).toContain(backend.state);
          expect(over).not.toContain(ref);
          expect(meaning.get(ref) ?? backend.endpoint.toString()).toBe(backend.endpoint.toString());
          meaning.set(ref, backend.endpoint.toString());
        }
        taken.push({ snapshot, copy: copyOf(snapshot) });
        last = snapshot;
      }
      for (const { snapshot, copy } of taken) expect(copyOf(snapshot)).toEqual(copy);
    }),
    { numRuns: 40 },
  );
});

/** What a snapshot says, in memory of its own. Of the Maglev table only a part: whole ones make the test crawl. */
function copyOf(snapshot: PoolSnapshot): object {
  const { epoch, backends, usable, ready, weights, words, ports, rotation } = snapshot;
  const maglev = snapshot.maglev.subarray(0, 64);
  return structuredClone({
    epoch,
    backends: backends.map((b) => b && { ...b, endpoint: b.endpoint.toString() }),
    usable: usable.subarray(0, 8).slice(),
    ready,
    weights: weights.subarray(0, 8).slice(),
    words: words.subarray(0, 32).slice(),
    ports: ports.subarray(0, 8).slice(),
    rotation,
    maglev: maglev.slice(),
  });
}
