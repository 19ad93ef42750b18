/** The engine's side of listeners, against real maps and without programs: what is written, and what is read. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { COUNTER_COUNT, RECEIVED } from '../../relay/core/counters.ts';
import { MAX_LISTENERS } from '../../relay/core/limits.ts';
import type { UdpListenerSpec } from '../../relay/engines/engine.ts';
import { possibleCpus } from '../../relay/engines/kernel/bpf-map.ts';
import type { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { ListenerTable } from '../../relay/engines/kernel/listener-table.ts';
import type { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import {
  PORT,
  PORT_ANY,
  PORT_ANY_V4,
  PORT_LISTENER,
  RULES,
  SEVERAL_LISTENERS,
} from '../../relay/engines/kernel/records.ts';
import { ListenerRig, udpListener } from './listener-rig.ts';
import { whereBpf } from './where-bpf.ts';

whereBpf((bpf) => {
  const { libc } = bpf;
  let rig: ListenerRig;
  let maps: KernelMaps;
  let pool: PoolWriter;
  let table: ListenerTable;

  beforeEach(() => {
    rig = new ListenerRig(bpf);
    ({ maps, pool } = rig);
    table = new ListenerTable(libc, maps);
  });
  afterEach(() => {
    table.close();
    rig.close();
  });

  const open = (wanted: UdpListenerSpec) => table.open(wanted, table.bind(wanted), pool);

  test('a listener is known to the programs by its address and port, until it is removed', () => {
    const { local, index } = open(udpListener('game', '127.0.0.1:0'));
    expect(local.port).toBeGreaterThan(0);
    expect(rig.indexOf(local)).toBe(index);
    expect(rig.portFlags(local.port)).toBe(PORT_LISTENER);
    table.remove('game');
    expect(rig.indexOf(local)).toBeUndefined();
    expect(rig.portFlags(local.port)).toBe(0);
  });

  test('a listener is the one that its port names first, and after it a neighbour', () => {
    const { ports, rules } = maps.mapped;
    const first = (port: number): number => ports.u16[ports.at(port, PORT.at.firstListener) >> 1]!;
    const localPort = (index: number): number => rules.getU32(rules.at(index, RULES.at.localPort));
    const a = open(udpListener('a', '127.0.0.1:0'));
    const b = open(udpListener('b', `127.0.0.2:${a.local.port}`));
    expect(first(a.local.port)).toBe(b.index);
    expect([localPort(a.index), localPort(b.index)]).toEqual([a.local.port, a.local.port]);
    const served = [9_001, 9_002, 9_003].map((port) => ports.at(port, PORT.at.repliesTo));
    [b.index + 1, SEVERAL_LISTENERS, a.index + 1].forEach((to, i) => ports.setU16(served[i]!, to));
    table.remove('b');
    expect(first(a.local.port)).toBe(a.index);
    expect(localPort(b.index)).toBe(0);
    expect(served.map((at) => ports.u16[at >> 1])).toEqual([0, 0, a.index + 1]);
    ports.setU16(served[2]!, 0);
  });

  test('a listener on every address is announced as such', () => {
    expect(rig.portFlags(open(udpListener('v4', '0.0.0.0:0')).local.port)).toBe(PORT_ANY_V4);
    expect(rig.portFlags(open(udpListener('all', '[::]:0')).local.port)).toBe(PORT_ANY);
  });

  test('a listener holds its address against everybody else', () => {
    const { local } = open(udpListener('game', '127.0.0.1:0'));
    expect(() => table.bind(udpListener('other', local.toString()))).toThrow(
      expect.objectContaining({ code: 'TICKRELAY_ERR_BIND' }),
    );
    table.remove('game');
    const other = table.bind(udpListener('other', local.toString()));
    table.unbind(other.socket);
  });

  test('a listener has its rules in the units of the programs', () => {
    const limits = { sessionsPerSource: 7, sessionRatePerSource: 1, sessionRate: 400, amplification: 3 };
    const { index } = open(udpListener('game', '127.0.0.1:0', { limits, algorithm: 'round-robin' }));
    const { rules } = maps.mapped;
    const u32 = (field: keyof typeof RULES.at): number => rules.getU32(rules.at(index, RULES.at[field]));
    const u64 = (field: keyof typeof RULES.at): number => rules.getU64(rules.at(index, RULES.at[field]));
    expect([u32('pool'), u32('algorithm'), u32('sessionsPerSource'), u32('amplification')]).toEqual([
      3, 2, 7, 3,
    ]);
    expect([u64('idleTimeoutNs'), u64('pinTimeoutNs')]).toEqual([120e9, 600e9]);
    expect([u64('sourceTokenNs'), u64('sourceBurstNs')]).toEqual([1e9, 0]);
    expect([u64('listenerTokenNs'), u64('listenerBurstNs')]).toEqual([2.5e6, 399 * 2.5e6]);
    table.update(udpListener('game', '127.0.0.1:0', { idleTimeoutMs: 5 }));
    expect([u64('idleTimeoutNs'), u64('listenerTokenNs')]).toEqual([5e6, 0]);
    expect(table.timeouts(index)).toEqual({ idleNs: 5e6, pinNs: 600e9 });
  });

  test('a listener counts what all CPUs counted', () => {
    const listener = open(udpListener('game', '127.0.0.1:0'));
    const { counters } = maps.maps;
    const perCpu = new BigUint64Array(counters.valueBytes / 8);
    for (let cpu = 0; cpu < possibleCpus(); cpu++) perCpu[cpu * COUNTER_COUNT + RECEIVED] = BigInt(cpu + 1);
    // One CPU's count may be below zero: a session that began on another.
    perCpu[1 * COUNTER_COUNT + RECEIVED] = 2n ** 64n - 1n;
    counters.updateAt(listener.index, new Uint8Array(perCpu.buffer));
    const sum = Array.from({ length: possibleCpus() }, (_, cpu) => (cpu === 1 ? -1 : cpu + 1));
    expect(table.counters(listener).dump().downstream.received).toBe(sum.reduce((a, b) => a + b, 0));
  });

  test('a listener of the same name, address and pool keeps its index and counters through a restart', () => {
    open(udpListener('first', '127.0.0.1:0'));
    const { index, local } = open(udpListener('game', '127.0.0.1:0'));
    maps.maps.counters.updateAt(index, new Uint8Array(maps.maps.counters.valueBytes).fill(1, 0, 1));
    table.close();

    const restarted = new ListenerTable(libc, maps);
    const wanted = udpListener('game', local.toString());
    const found = restarted.open(wanted, restarted.bind(wanted), pool);
    expect(found.index).toBe(index);
    expect(restarted.counters(found).dump().downstream.received).toBe(1);
    const other = index === 0 ? 1 : 0;
    expect(restarted.removeUnclaimed()).toEqual([other]);
    expect(restarted.timeouts(other)).toBeUndefined();
    restarted.close();
  });

  test('a listener keeps its address when it has another name after a restart', () => {
    const before = open(udpListener('before', '127.0.0.1:0'));
    table.close();
    const restarted = new ListenerTable(libc, maps);
    const wanted = udpListener('after', before.local.toString());
    const { index, local } = restarted.open(wanted, restarted.bind(wanted), pool);
    expect(index).not.toBe(before.index);
    expect(restarted.removeUnclaimed()).toEqual([before.index]);
    expect(rig.indexOf(local)).toBe(index);
    expect(rig.portFlags(local.port)).toBe(PORT_LISTENER);
    restarted.close();
  });

  test('a listener that nobody claims after a restart lets nothing in any more', () => {
    const { local, index } = open(udpListener('gone', '127.0.0.1:0'));
    table.close();
    const restarted = new ListenerTable(libc, maps);
    expect(restarted.timeouts(index)).toEqual({ idleNs: 120e9, pinNs: 600e9 });
    expect(restarted.removeUnclaimed()).toEqual([index]);
    expect(rig.indexOf(local)).toBeUndefined();
    expect(rig.portFlags(local.port)).toBe(0);
    expect(restarted.timeouts(index)).toBeUndefined();
  });

  test('a listener that goes keeps its index from others until its sessions are gone, also past a death between', () => {
    const { index, local } = open(udpListener('going', '127.0.0.1:0'));
    table.remove('going');
    expect(table.timeouts(index)).toBeUndefined();
    expect(rig.portFlags(local.port)).toBe(0);
    expect(open(udpListener('next', '127.0.0.1:0')).index).not.toBe(index);
    table.close();

    const restarted = new ListenerTable(libc, maps);
    const claimed = udpListener('another', '127.0.0.1:0');
    const { index: another } = restarted.open(claimed, restarted.bind(claimed), pool);
    expect(another).not.toBe(index);
    expect(restarted.removeUnclaimed()).toContain(index);
    restarted.free(index);
    expect(restarted.removeUnclaimed()).not.toContain(index);
    const last = udpListener('last', '127.0.0.1:0');
    expect(restarted.open(last, restarted.bind(last), pool).index).toBe(index);
    restarted.close();
  });

  test('a listener that finds no index beside those of the relay before it is refused, and says what to do', () => {
    for (let i = 0; i < MAX_LISTENERS; i++) maps.names.setListener(i, `127.0.0.1:${i + 1} game before-${i}`);
    const wanted = udpListener('one-too-many', '127.0.0.1:0');
    const bound = table.bind(wanted);
    expect(() => table.open(wanted, bound, pool)).toThrow(
      expect.objectContaining({
        code: 'TICKRELAY_ERR_LIMIT',
        message: expect.stringMatching(/"one-too-many".* 256 .*start with fewer/s) as string,
      }),
    );
    table.unbind(bound.socket);
    table.removeUnclaimed();
    table.free(17);
    expect(open(wanted).index).toBe(17);
  });
});
