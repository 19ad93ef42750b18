/** TCP listeners over maps that another relay left: what is claimed, what goes, and what its leaving must not take along. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { listenerKeyOf } from '../../relay/engines/kernel/listener-address.ts';
import type { RelaySource } from '../../relay/engines/kernel/listener-source.ts';
import { Bpf } from '../../relay/engines/kernel/loader.ts';
import { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import { PORT, PORT_RELAY } from '../../relay/engines/kernel/records.ts';
import { TcpListenerTable } from '../../relay/engines/kernel/tcp-listener-table.ts';
import { listenerSpec } from '../unit/tcp/tcp-bench.ts';

const loaded = loadLibc();
const unavailable = 'unavailable' in loaded ? loaded.unavailable : whyUnavailable();

if ('unavailable' in loaded || unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let bpf: Bpf;
  let maps: KernelMaps;
  const tables: TcpListenerTable[] = [];
  beforeEach(() => {
    bpf = new Bpf(loaded.libc);
    maps = KernelMaps.create(bpf, { maxSessions: 4, maxPools: 2 });
  });
  afterEach(() => {
    for (const table of tables.splice(0)) table.freeAddresses();
    maps.close();
    bpf.close();
  });

  const table = (relay?: RelaySource): TcpListenerTable => {
    const made = new TcpListenerTable(maps, relay);
    tables.push(made);
    return made;
  };
  const open = async (on: TcpListenerTable, name: string, listen = '127.0.0.1:0') => {
    const spec = { ...listenerSpec(), name, listen: Endpoint.parse(listen) };
    const server = await on.bind(spec);
    try {
      return on.open(spec, server, new PoolWriter(maps, 0));
    } catch (error) {
      server.close();
      throw error;
    }
  };
  /** The index that the programs find under the address. */
  const found = (local: Endpoint): number | undefined => {
    const value = new Uint8Array(4);
    return maps.maps.tcp_listeners.lookup(listenerKeyOf(local), value) ? value[0] : undefined;
  };
  const isRelayPort = (port: number): boolean => {
    const { tcp_ports } = maps.mapped;
    return (tcp_ports.u16[tcp_ports.at(port, PORT.at.flags) >> 1]! & PORT_RELAY) !== 0;
  };

  test('a listener of the same name, address and pool goes on under its index', async () => {
    const first = table();
    await open(first, 'one');
    const { index, local } = await open(first, 'two');
    first.freeAddresses();
    const second = table();
    expect((await open(second, 'two', local.toString())).index).toBe(index);
  });

  test('one that is not claimed goes, and leaves its address to the listener that has it by now', async () => {
    const first = table();
    const [gone, renamed] = [await open(first, 'gone'), await open(first, 'renamed')];
    first.freeAddresses();
    const second = table();
    const { index } = await open(second, 'another', renamed.local.toString());
    expect(index).not.toBe(renamed.index);
    second.removeUnclaimed();
    expect([found(gone.local), found(renamed.local)]).toEqual([undefined, index]);
    expect(second.isKnown(renamed.index)).toBe(false);
  });

  test('one that goes keeps its index from others until its connections are gone, also past a death between', async () => {
    const first = table();
    const { index } = await open(first, 'going');
    first.remove('going');
    expect(first.isKnown(index)).toBe(false);
    const second = table();
    expect(second.hasLeftovers).toBe(true);
    expect((await open(first, 'next')).index).not.toBe(index);
    first.freeAddresses();
    expect((await open(second, 'another')).index).not.toBe(index);
    expect(second.removeUnclaimed()).toContain(index);
    second.free(index);
    expect(second.removeUnclaimed()).not.toContain(index);
    expect((await open(second, 'last')).index).toBe(index);
  });

  test('with the relay’s own address it is another listener than with the client’s, and has ports of its own', async () => {
    const relay = { libc: loaded.libc, ports: { first: 61_000, last: 61_007 } };
    const first = table();
    const before = await open(first, 'one');
    first.freeAddresses();
    const second = table(relay);
    const after = await open(second, 'one', before.local.toString());
    expect(after.index).not.toBe(before.index);
    expect([61_001, 61_002, 61_003].map(isRelayPort)).toEqual([true, false, false]);
    second.removeUnclaimed();
    expect(found(after.local)).toBe(after.index);
  });

  test('each listener has relay ports of its own, while there are any', async () => {
    const relay = { libc: loaded.libc, ports: { first: 61_000, last: 61_004 } };
    const listeners = table(relay);
    for (const name of ['one', 'two', 'three', 'four']) await open(listeners, name);
    await expect(open(listeners, 'five')).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_LIMIT',
      message:
        'kernel.relayPorts: 61000-61004 has no port left for TCP listener "five": 4 others have them all; ' +
        'there should be a wider range, or fewer listeners',
    });
    listeners.remove('two');
    expect([61_001, 61_002, 61_003].map(isRelayPort)).toEqual([true, false, true]);
    await open(listeners, 'five');
    expect(isRelayPort(61_002)).toBe(true);
  });
}
