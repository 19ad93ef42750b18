/** Listeners that share the pins of client IPs: which groups a configuration has, and what is wrong with them. */
import { DEFAULT_PIN_TIMEOUT_MS } from '../core/limits.ts';
import type { PinGroupSpec } from '../core/pin-group.ts';
import type { ListenerConfig, PoolConfig } from './config.ts';
import type { Problems } from './config-problems.ts';

type Indexed = readonly [index: number, listener: ListenerConfig];

/** The groups that listeners name. Where they disagree on the timeout, as only a reload under way lets them, the longest counts. */
export function pinGroupsOf(listeners: readonly ListenerConfig[]): PinGroupSpec[] {
  return Array.from(members(listeners), ([name, group]) => {
    const timeouts = group.map(([, { pinTimeoutMs }]) => pinTimeoutMs).filter((ms) => ms !== undefined);
    return {
      name,
      pools: [...new Set(group.map(([, { pool }]) => pool))],
      pinTimeoutMs: timeouts.length === 0 ? DEFAULT_PIN_TIMEOUT_MS : Math.max(...timeouts),
    };
  });
}

export function checkPinGroups(
  listeners: readonly (ListenerConfig | undefined)[],
  pools: readonly (PoolConfig | undefined)[],
  problems: Problems,
): void {
  for (const [i, listener] of listeners.entries()) {
    if (listener?.protocol !== 'tcp' || listener.pinTimeoutMs === undefined) continue;
    if (listener.pinGroup === undefined) {
      const text = 'says nothing without pinGroup; a TCP listener has no pins of its own';
      problems.add(['listeners', i, 'pinTimeout'], text);
    }
  }
  for (const [name, group] of members(listeners)) {
    const [first, ...others] = group.filter(([, { pinTimeoutMs }]) => pinTimeoutMs !== undefined);
    for (const [i, { pinTimeoutMs }] of others) {
      const wanted = first![1];
      if (pinTimeoutMs === wanted.pinTimeoutMs) continue;
      problems.add(
        ['listeners', i, 'pinTimeout'],
        `${pinTimeoutMs!}ms should be ${wanted.pinTimeoutMs!}ms, as listener "${wanted.name}" has it: ` +
          `the listeners of a pinGroup, here "${name}", have one pinTimeout`,
      );
    }
    for (const { index, pool, other, missing } of poolPairs(group, pools)) {
      if (missing.length < pool.backends.length) continue;
      problems.add(
        ['listeners', index, 'pinGroup'],
        `no backend of pool "${pool.name}" has the id of one of pool "${other.name}", so there is nothing to share; ` +
          'give the backends of one server the same id in both pools',
      );
    }
  }
}

export function pinGroupWarnings(
  listeners: readonly ListenerConfig[],
  pools: readonly PoolConfig[],
): string[] {
  const warnings: string[] = [];
  for (const [name, group] of members(listeners)) {
    const [[index]] = group as [Indexed];
    if (group.length === 1) {
      warnings.push(`listeners[${index}].pinGroup: no other listener is of the group "${name}"`);
    }
    for (const { index: i, pool, other, missing } of poolPairs(group, pools)) {
      if (missing.length === 0) continue;
      warnings.push(
        `listeners[${i}].pinGroup: pool "${other.name}" has no backend with the id ${missing.join(', ')} of pool ` +
          `"${pool.name}"; a client that is pinned there is not followed`,
      );
    }
  }
  return warnings;
}

/** Listeners by group, with their places in the configuration. */
function members(listeners: readonly (ListenerConfig | undefined)[]): ReadonlyMap<string, Indexed[]> {
  const groups = new Map<string, Indexed[]>();
  for (const [i, listener] of listeners.entries()) {
    if (listener?.pinGroup === undefined) continue;
    const group = groups.get(listener.pinGroup) ?? [];
    groups.set(listener.pinGroup, [...group, [i, listener]]);
  }
  return groups;
}

interface PoolPair {
  /** Of the listener that is the first of the group with the pool. */
  readonly index: number;
  readonly pool: PoolConfig;
  readonly other: PoolConfig;
  /** Ids of the pool that the other has not. */
  readonly missing: readonly string[];
}

/** The pools of a group two by two, each way, as far as their backends are known: who registers is not. */
function* poolPairs(
  group: readonly Indexed[],
  pools: readonly (PoolConfig | undefined)[],
): Generator<PoolPair> {
  const isKnown = (pool: PoolConfig | undefined): pool is PoolConfig =>
    pool !== undefined && pool.registration === undefined && pool.backends.length > 0;
  const users = new Map<PoolConfig, number>();
  for (const [index, { pool: name }] of group) {
    const pool = pools.find((one) => one?.name === name);
    if (isKnown(pool) && !users.has(pool)) users.set(pool, index);
  }
  for (const [pool, index] of users) {
    for (const other of users.keys()) {
      if (other === pool) continue;
      const ids = new Set(other.backends.map(({ id }) => id));
      yield { index, pool, other, missing: pool.backends.map(({ id }) => id).filter((id) => !ids.has(id)) };
    }
  }
}
