/** Which pool has which place in the maps, and what of one that is gone the next one there meets. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import { MapWalk } from '../../relay/engines/kernel/bpf-map.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { KernelPools } from '../../relay/engines/kernel/kernel-pools.ts';
import type { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import { poolOfOne } from '../support/pool-of-one.ts';
import { whereBpf } from './where-bpf.ts';

const PLACES = 3;

whereBpf((bpf) => {
  let maps: KernelMaps;
  let pools: KernelPools;

  beforeEach(() => {
    maps = KernelMaps.create(bpf, { maxSessions: 16, maxPools: PLACES });
    pools = new KernelPools(maps);
  });
  afterEach(async () => {
    await pools.idle();
    maps.close();
  });

  /** As the control plane has it. */
  const poolOf = (name: string, address = '10.0.0.1:7777'): BackendPool =>
    poolOfOne(name, Endpoint.parse(address));
  const publish = (pool: BackendPool) => pools.publish(pool.snapshot());
  const unpublish = (name: string) => publish(new BackendPool(name));
  const refOf = (pool: PoolWriter): number => [...pool.backends()][0]!.ref;
  const names = (): string[] => Array.from({ length: PLACES }, (_, i) => maps.names.pool(i));
  const endpoints = (): number => {
    const walk = new MapWalk(bpf, maps.maps.endpoints, 64);
    const { count } = walk.step();
    walk.close();
    return count;
  };

  test('a pool without backends that no listener names leaves nothing behind', async () => {
    await publish(poolOf('game'));
    const pool = await pools.of('game');
    expect([names(), endpoints()]).toEqual([['game', '', ''], 1]);
    await unpublish('game');
    expect(names()).toEqual(['game', '', '']);
    await pools.letGo(pool);
    expect([names(), endpoints()]).toEqual([['', '', ''], 0]);
    expect([...pools.all]).toEqual([]);
  });

  test('a pool with backends keeps its place when its last listener goes, and is forgotten when they do', async () => {
    await publish(poolOf('game'));
    const pool = await pools.of('game');
    const ref = refOf(pool);
    await pools.letGo(pool);
    expect(refOf(await pools.of('game'))).toBe(ref);
    await pools.letGo(pool);
    await unpublish('game');
    expect(names()).toEqual(['', '', '']);
  });

  test('two listeners of one pool both have to let it go', async () => {
    const one = await pools.of('game');
    expect(await pools.of('game')).toBe(one);
    await pools.letGo(one);
    expect(names()).toEqual(['game', '', '']);
    await pools.letGo(one);
    expect(names()).toEqual(['', '', '']);
  });

  test('references go on counting in a place, whichever pool has it', async () => {
    const seen = new Set<number>();
    for (let i = 0; i < 50; i++) {
      const name = `pool-${i}`;
      await publish(poolOf(name));
      const pool = await pools.of(name);
      expect(pool.index).toBe(0);
      expect(pool.isUsable(refOf(pool))).toBe(true);
      seen.add(refOf(pool));
      await unpublish(name);
      await pools.letGo(pool);
    }
    expect(seen.size).toBe(50);
  });

  test('also over a restart', async () => {
    await publish(poolOf('one'));
    const one = await pools.of('one');
    const ref = refOf(one);
    await unpublish('one');
    await pools.letGo(one);
    pools = new KernelPools(maps);
    pools.adopt();
    await publish(poolOf('two'));
    const two = await pools.of('two');
    expect(two.index).toBe(one.index);
    expect(refOf(two)).not.toBe(ref);
    expect(two.isUsable(ref)).toBe(false);
  });

  test('a listener that comes while its pool is being forgotten gets it anew', async () => {
    await publish(poolOf('game'));
    const pool = await pools.of('game');
    await unpublish('game');
    const gone = pools.letGo(pool);
    const coming = pools.of('game');
    await Promise.all([gone, coming, publish(poolOf('game'))]);
    expect(names().filter((name) => name === 'game')).toHaveLength(1);
    const again = await coming;
    expect(again.isUsable(refOf(again))).toBe(true);
  });

  test('a pool that no listener uses makes room for one that a listener names', async () => {
    for (const name of ['one', 'two', 'three']) {
      await publish(poolOf(name));
      await pools.of(name);
    }
    await pools.letGo([...pools.all][1]!);
    await publish(poolOf('four'));
    const four = await pools.of('four');
    expect(names()).toEqual(['one', 'four', 'three']);
    expect([...four.backends()]).toHaveLength(1);
    // What the control plane said of the one that made room is still known.
    expect(pools.snapshotOf('two').ready).toHaveLength(1);
  });

  test('where all places are in use, one more is refused, and says what would help', async () => {
    for (const name of ['one', 'two', 'three']) await pools.of(name);
    await expect(pools.of('four')).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_LIMIT',
      message: expect.stringMatching(/room for 3 pools.*"four" is one more.*share pools/) as string,
    });
    await pools.letGo([...pools.all][0]!);
    expect((await pools.of('four')).index).toBe(0);
  });

  test('where those of a relay before this one have the places, that is said', async () => {
    for (const name of ['one', 'two', 'three']) await pools.of(name);
    pools = new KernelPools(maps);
    pools.adopt();
    await expect(pools.of('four')).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_LIMIT',
      message: expect.stringMatching(/relay before this one go 10 s after.*start with fewer/) as string,
    });
    await pools.letGoInherited();
    expect((await pools.of('four')).index).toBe(0);
  });

  test('pools of a relay before this one stay until its listeners are gone', async () => {
    for (const name of ['kept', 'dropped']) {
      await publish(poolOf(name));
      await pools.of(name);
    }
    const refs = Array.from(pools.all, refOf);
    pools = new KernelPools(maps);
    pools.adopt();
    await publish(poolOf('kept'));
    const kept = await pools.of('kept');
    expect(refOf(kept)).toBe(refs[0]);
    const [, dropped] = pools.all;
    assert(dropped !== undefined);
    expect([names(), dropped.isUsable(refs[1]!)]).toEqual([['kept', 'dropped', ''], true]);
    await pools.letGoInherited();
    await pools.letGoInherited();
    expect([names(), dropped.isUsable(refs[1]!), endpoints()]).toEqual([['kept', '', ''], false, 1]);
    await pools.letGo(kept);
    await unpublish('kept');
    expect(names()).toEqual(['', '', '']);
  });
});
