/** What the engine writes for the programs, read back from the maps. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import { slotOf } from '../../relay/core/backend-ref.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import { BACKEND, LIVE, POOL, PORT, PORT_BACKEND, SNAPSHOT } from '../../relay/engines/kernel/records.ts';
import { whereBpf } from './where-bpf.ts';

whereBpf((bpf) => {
  let maps: KernelMaps;
  let pool: BackendPool;

  beforeEach(() => {
    maps = KernelMaps.create(bpf, { maxSessions: 16, maxPools: 2 });
    pool = new BackendPool('game');
  });
  afterEach(() => maps.close());

  const add = (id: string, weight = 1): void =>
    pool.add({ id, endpoint: Endpoint.parse(`10.0.0.${id.charCodeAt(0)}:7777`), weight });

  /** The snapshot in force, as the programs see it. */
  const seen = (index = 1) => {
    const half = maps.mapped.pools.getU32(maps.mapped.pools.at(index, POOL.at.half));
    const memory = maps.snapshot(index, half);
    const slots = (field: number, count: number) => [
      ...memory.u16.subarray(field >> 1, (field >> 1) + count),
    ];
    const readyCount = memory.getU32(SNAPSHOT.at.readyCount);
    const backends = Array.from({ length: memory.getU32(SNAPSHOT.at.slots) }, (_, slot) => {
      const at = SNAPSHOT.at.backends + slot * BACKEND.size;
      return {
        address: [...memory.bytes.subarray(at + 12, at + 16)].join('.'),
        port: memory.u16[(at + BACKEND.at.port) >> 1],
        weight: memory.u16[(at + BACKEND.at.weight) >> 1],
        usable: memory.getU32(at + BACKEND.at.usable),
        ref: memory.getU32(at + BACKEND.at.ref),
        readyIndex: memory.getU32(at + BACKEND.at.readyIndex),
      };
    });
    return {
      backends,
      ready: slots(SNAPSHOT.at.ready, readyCount),
      maglev: slots(SNAPSHOT.at.maglev, readyCount === 0 ? 0 : 65_537),
      rotation: slots(SNAPSHOT.at.rotation, memory.getU32(SNAPSHOT.at.rotationLength)),
    };
  };

  test('the programs see the pool as the control plane does', async () => {
    const writer = new PoolWriter(maps, 1);
    add('a');
    add('b', 3);
    add('c');
    pool.setDraining('c', true);
    await writer.publish(pool.snapshot());
    const { backends, ready, maglev, rotation } = seen();
    const expected = pool.snapshot();
    expect(backends.map(({ address, port, weight }) => [address, port, weight])).toEqual([
      ['10.0.0.97', 7777, 1],
      ['10.0.0.98', 7777, 3],
      ['10.0.0.99', 7777, 1],
    ]);
    expect(backends.every(({ usable, ref }) => usable === ref && ref !== 0)).toBe(true);
    expect(backends.slice(0, 2).map(({ readyIndex }) => readyIndex)).toEqual([0, 1]);
    expect(ready).toEqual([...expected.ready]);
    expect(maglev).toEqual([...expected.maglev]);
    expect(rotation).toEqual([...expected.rotation]);
    const { ports } = maps.mapped;
    expect(ports.u16[ports.at(7777, PORT.at.flags) >> 1]! & PORT_BACKEND).toBe(PORT_BACKEND);
  });

  test('a backend that fails, or leaves and comes back, is not what it was', async () => {
    const writer = new PoolWriter(maps, 1);
    add('a');
    await writer.publish(pool.snapshot());
    const first = seen().backends[0]!;
    pool.setHealthy('a', false);
    await writer.publish(pool.snapshot());
    expect(seen().backends[0]!.usable).toBe(0);
    pool.setHealthy('a', true);
    await writer.publish(pool.snapshot());
    const second = seen().backends[0]!;
    expect(second.usable).not.toBe(first.usable);
    pool.remove('a');
    add('a');
    await writer.publish(pool.snapshot());
    expect(seen().backends[0]!.usable).not.toBe(second.usable);
    expect(writer.backendOf(second.ref)).toBeUndefined();
    expect(writer.backendOf(seen().backends[0]!.ref)?.id).toBe('a');
  });

  test('another backend in the slot of one that left has another reference', async () => {
    const writer = new PoolWriter(maps, 1);
    add('a');
    await writer.publish(pool.snapshot());
    const { ref } = seen().backends[0]!;
    pool.remove('a');
    add('z');
    await writer.publish(pool.snapshot());
    const [z] = seen().backends;
    expect(slotOf(z!.ref)).toBe(slotOf(ref));
    expect(z!.ref).not.toBe(ref);
  });

  test('live sessions count only where they are the backend’s own', async () => {
    const writer = new PoolWriter(maps, 1);
    add('a');
    await writer.publish(pool.snapshot());
    const { live } = maps.mapped;
    live.setU32(live.at(1, LIVE.at.sessions), 7);
    live.setU32(live.at(1, LIVE.at.ref), seen().backends[0]!.ref);
    expect([...writer.backends()].map(({ liveSessions }) => liveSessions)).toEqual([7]);
    pool.setHealthy('a', false);
    await writer.publish(pool.snapshot());
    expect([...writer.backends()].map(({ liveSessions }) => liveSessions)).toEqual([0]);
  });

  describe('after a restart', () => {
    test('backends keep their slots and references, in whatever order they come', async () => {
      for (const id of ['a', 'b', 'c']) add(id);
      pool.setHealthy('b', false);
      pool.setHealthy('b', true);
      await new PoolWriter(maps, 1).publish(pool.snapshot());
      const before = seen().backends;

      pool = new BackendPool('game');
      for (const id of ['c', 'a', 'b']) add(id);
      const writer = new PoolWriter(maps, 1);
      writer.adopt();
      await writer.publish(pool.snapshot());
      const { backends, ready, maglev } = seen();
      const byAddress = (list: typeof before) => list.map(({ address, ref }) => [address, ref]);
      expect(byAddress(backends)).toEqual(byAddress(before));
      // The control plane's slots 0, 1, 2 are c, a, b.
      expect(ready).toEqual([2, 0, 1]);
      const kernelSlot = [2, 0, 1];
      expect(maglev).toEqual(Array.from(pool.snapshot().maglev, (slot) => kernelSlot[slot]));
      expect(writer.backendOf(before[0]!.ref)?.id).toBe('a');
    });

    test('one that left meanwhile has a new incarnation when it comes again', async () => {
      add('a');
      add('b');
      await new PoolWriter(maps, 1).publish(pool.snapshot());
      const before = seen().backends[1]!.ref;
      pool.remove('b');
      const restarted = new PoolWriter(maps, 1);
      restarted.adopt();
      await restarted.publish(pool.snapshot());
      expect(seen().backends[1]!.port).toBe(0);

      const again = new PoolWriter(maps, 1);
      again.adopt();
      add('b');
      await again.publish(pool.snapshot());
      const after = seen().backends[1]!;
      expect(after.port).toBe(7777);
      expect(after.ref).not.toBe(before);
    });

    test('one that is no longer usable releases its sessions', async () => {
      add('a');
      await new PoolWriter(maps, 1).publish(pool.snapshot());
      const { ref } = seen().backends[0]!;
      pool.setHealthy('a', false);
      const restarted = new PoolWriter(maps, 1);
      restarted.adopt();
      await restarted.publish(pool.snapshot());
      pool.setHealthy('a', true);
      await restarted.publish(pool.snapshot());
      expect(seen().backends[0]!.usable).not.toBe(ref);
    });
  });
});
