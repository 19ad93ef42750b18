import { describe, expect, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { NO_BACKEND_REF } from '../../../relay/core/backend-ref.ts';
import { ListenerState, PoolView } from '../../../relay/core/listener-state.ts';
import { NO_LIMITS, RULES } from './router-rig.ts';

function view(ids: readonly string[]) {
  const pool = new BackendPool('game');
  for (const [i, id] of ids.entries())
    pool.add({ id, endpoint: Endpoint.parse(`10.0.0.${i + 1}:1`), weight: 1 });
  const seen = new PoolView(pool.snapshot());
  const publish = (): void => seen.publish(pool.snapshot());
  const ref = (id: string): number => pool.get(id)!.ref;
  return { pool, seen, publish, ref };
}

describe('a pool as the data plane sees it', () => {
  test('ready and draining backends are usable, the others are not', () => {
    const { pool, seen, publish, ref } = view(['a', 'b', 'c', 'd']);
    const before = ['a', 'b', 'c', 'd'].map(ref);
    pool.setDraining('b', true);
    pool.setHealthy('c', false);
    pool.setEnabled('d', false);
    publish();
    expect(before.map((each) => seen.isUsable(each))).toEqual([true, true, false, false]);
    expect(before.map((each) => seen.backendOf(each)?.id)).toEqual(['a', 'b', undefined, undefined]);
  });

  test('a backend that failed begins at no sessions when it is back, and the others keep their count', () => {
    const { pool, seen, publish, ref } = view(['a', 'b']);
    const [a, b] = [ref('a'), ref('b')];
    for (const each of [a, a, b]) seen.sessionOpened(each);
    pool.setHealthy('a', false);
    publish();
    expect([...seen.live.subarray(0, 2)]).toEqual([0, 1]);
    pool.setHealthy('a', true);
    publish();
    seen.sessionOpened(ref('a'));
    // The sessions of its earlier life end now.
    seen.sessionEnded(a);
    seen.sessionEnded(a);
    seen.sessionEnded(b);
    expect([...seen.live.subarray(0, 2)]).toEqual([1, 0]);
  });

  test('a slot that passes to another backend passes without its sessions', () => {
    const { pool, seen, publish, ref } = view(['a']);
    const a = ref('a');
    seen.sessionOpened(a);
    pool.remove('a');
    pool.add({ id: 'b', endpoint: Endpoint.parse('10.0.0.9:1'), weight: 1 });
    publish();
    expect(seen.live[0]).toBe(0);
    seen.sessionEnded(a);
    expect(seen.live[0]).toBe(0);
    expect([seen.isUsable(a), seen.isUsable(ref('b'))]).toEqual([false, true]);
  });

  test('no reference, no backend', () => {
    const { seen } = view([]);
    expect(seen.backendOf(NO_BACKEND_REF)).toBeUndefined();
  });
});

test('new rules count at once, and a rate that stays keeps what is left of it', () => {
  const { seen } = view([]);
  const state = new ListenerState(3, 'game', {
    rules: { ...RULES, limits: { ...NO_LIMITS, sessionRate: 1 } },
    pool: seen,
  });
  expect([state.rate.take(0), state.rate.take(0)]).toEqual([true, false]);
  const rules = { ...RULES, algorithm: 'round-robin' as const, idleTimeoutMs: 5 };
  state.apply({ ...rules, limits: { ...NO_LIMITS, sessionRate: 1 } }, 0);
  expect(state).toMatchObject({
    index: 3,
    name: 'game',
    algorithm: 'round-robin',
    idleTimeoutMs: 5,
    liveSessions: 0,
  });
  expect(state.rate.take(999)).toBe(false);
  expect([state.rate.take(1_000), state.rate.take(1_000)]).toEqual([true, false]);
  state.apply({ ...rules, limits: { ...NO_LIMITS, sessionRate: 100 } }, 1_000);
  expect([state.rate.take(1_000), state.rate.take(1_010)]).toEqual([false, true]);
});
