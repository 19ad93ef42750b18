/** The engine's side of listeners and sessions, against real maps and without programs: what is written, and what is read. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { COUNTER_COUNT, RECEIVED } from '../../relay/core/counters.ts';
import { MAX_LISTENERS } from '../../relay/core/limits.ts';
import type { UdpListenerSpec } from '../../relay/engines/engine.ts';
import { possibleCpus } from '../../relay/engines/kernel/bpf-map.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import type { RelaySource } from '../../relay/engines/kernel/listener-source.ts';
import { ListenerTable } from '../../relay/engines/kernel/listener-table.ts';
import {
  LISTENER_KEY,
  PORT,
  SEVERAL_LISTENERS,
  PORT_ANY,
  PORT_ANY_V4,
  PORT_LISTENER,
  PORT_RELAY,
  RULES,
  SESSION,
  SESSION_KEY,
} from '../../relay/engines/kernel/maps.ts';
import { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import { listSessions } from '../../relay/engines/kernel/session-listing.ts';
import { whereBpf } from './where-bpf.ts';

const DEFAULT_RULES: Omit<UdpListenerSpec, 'name' | 'listen' | 'pool'> = {
  algorithm: 'ip-hash',
  idleTimeoutMs: 120_000,
  pinTimeoutMs: 600_000,
  receiveBufferBytes: 65_536,
  limits: { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 },
};

whereBpf((bpf) => {
  const { libc } = bpf;
  let maps: KernelMaps;
  let table: ListenerTable;
  let pool: PoolWriter;

  beforeEach(() => {
    maps = KernelMaps.create(bpf, { maxSessions: 5_000, maxPools: 4 });
    table = new ListenerTable(libc, maps);
    pool = new PoolWriter(maps, 3);
  });
  afterEach(() => {
    table.close();
    maps.close();
  });

  const spec = (name: string, listen: string, rules: Partial<UdpListenerSpec> = {}): UdpListenerSpec => ({
    ...DEFAULT_RULES,
    name,
    listen: Endpoint.parse(listen),
    pool: 'game',
    ...rules,
  });
  const open = (wanted: UdpListenerSpec) => table.open(wanted, table.bind(wanted), pool);
  const portFlags = (port: number): number =>
    maps.mapped.ports.u16[maps.mapped.ports.at(port, PORT.at.flags) >> 1]!;
  const indexOf = ({ ip, port }: Endpoint): number | undefined => {
    const key = new Uint8Array(LISTENER_KEY.size);
    key.set(ip.bytes, LISTENER_KEY.at.address);
    new DataView(key.buffer).setUint32(LISTENER_KEY.at.port, port, true);
    const value = new Uint8Array(4);
    return maps.maps.listeners.lookup(key, value) ? value[0] : undefined;
  };

  describe('a listener', () => {
    test('is known to the programs by its address and port, until it is removed', () => {
      const { local, index } = open(spec('game', '127.0.0.1:0'));
      expect(local.port).toBeGreaterThan(0);
      expect(indexOf(local)).toBe(index);
      expect(portFlags(local.port)).toBe(PORT_LISTENER);
      table.remove('game');
      expect(indexOf(local)).toBeUndefined();
      expect(portFlags(local.port)).toBe(0);
    });

    test('is the one that its port names first, and after it a neighbour', () => {
      const { ports, rules } = maps.mapped;
      const first = (port: number): number => ports.u16[ports.at(port, PORT.at.firstListener) >> 1]!;
      const localPort = (index: number): number => rules.getU32(rules.at(index, RULES.at.localPort));
      const a = open(spec('a', '127.0.0.1:0'));
      const b = open(spec('b', `127.0.0.2:${a.local.port}`));
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

    test('on every address is announced as such', () => {
      expect(portFlags(open(spec('v4', '0.0.0.0:0')).local.port)).toBe(PORT_ANY_V4);
      expect(portFlags(open(spec('all', '[::]:0')).local.port)).toBe(PORT_ANY);
    });

    test('holds its address against everybody else', () => {
      const { local } = open(spec('game', '127.0.0.1:0'));
      expect(() => table.bind(spec('other', local.toString()))).toThrow(
        expect.objectContaining({ code: 'TICKRELAY_ERR_BIND' }),
      );
      table.remove('game');
      const other = table.bind(spec('other', local.toString()));
      table.unbind(other.socket);
    });

    test('has its rules in the units of the programs', () => {
      const limits = { sessionsPerSource: 7, sessionRatePerSource: 1, sessionRate: 400, amplification: 3 };
      const { index } = open(spec('game', '127.0.0.1:0', { limits, algorithm: 'round-robin' }));
      const { rules } = maps.mapped;
      const u32 = (field: keyof typeof RULES.at): number => rules.getU32(rules.at(index, RULES.at[field]));
      const u64 = (field: keyof typeof RULES.at): number => rules.getU64(rules.at(index, RULES.at[field]));
      expect([u32('pool'), u32('algorithm'), u32('sessionsPerSource'), u32('amplification')]).toEqual([
        3, 2, 7, 3,
      ]);
      expect([u64('idleTimeoutNs'), u64('pinTimeoutNs')]).toEqual([120e9, 600e9]);
      expect([u64('sourceTokenNs'), u64('sourceBurstNs')]).toEqual([1e9, 0]);
      expect([u64('listenerTokenNs'), u64('listenerBurstNs')]).toEqual([2.5e6, 399 * 2.5e6]);
      table.update(spec('game', '127.0.0.1:0', { idleTimeoutMs: 5 }));
      expect([u64('idleTimeoutNs'), u64('listenerTokenNs')]).toEqual([5e6, 0]);
      expect(table.timeouts(index)).toEqual({ idleNs: 5e6, pinNs: 600e9 });
    });

    test('counts what all CPUs counted', () => {
      const listener = open(spec('game', '127.0.0.1:0'));
      const { counters } = maps.maps;
      const perCpu = new BigUint64Array(counters.valueBytes / 8);
      for (let cpu = 0; cpu < possibleCpus(); cpu++) perCpu[cpu * COUNTER_COUNT + RECEIVED] = BigInt(cpu + 1);
      // One CPU's count may be below zero: a session that began on another.
      perCpu[1 * COUNTER_COUNT + RECEIVED] = 2n ** 64n - 1n;
      counters.updateAt(listener.index, new Uint8Array(perCpu.buffer));
      const sum = Array.from({ length: possibleCpus() }, (_, cpu) => (cpu === 1 ? -1 : cpu + 1));
      expect(table.counters(listener).dump().downstream.received).toBe(sum.reduce((a, b) => a + b, 0));
    });

    test('of the same name, address and pool keeps its index and counters through a restart', () => {
      open(spec('first', '127.0.0.1:0'));
      const { index, local } = open(spec('game', '127.0.0.1:0'));
      maps.maps.counters.updateAt(index, new Uint8Array(maps.maps.counters.valueBytes).fill(1, 0, 1));
      table.close();

      const restarted = new ListenerTable(libc, maps);
      const wanted = spec('game', local.toString());
      const found = restarted.open(wanted, restarted.bind(wanted), pool);
      expect(found.index).toBe(index);
      expect(restarted.counters(found).dump().downstream.received).toBe(1);
      const other = index === 0 ? 1 : 0;
      expect(restarted.removeUnclaimed()).toEqual([other]);
      expect(restarted.timeouts(other)).toBeUndefined();
      restarted.close();
    });

    test('keeps its address when it has another name after a restart', () => {
      const before = open(spec('before', '127.0.0.1:0'));
      table.close();
      const restarted = new ListenerTable(libc, maps);
      const wanted = spec('after', before.local.toString());
      const { index, local } = restarted.open(wanted, restarted.bind(wanted), pool);
      expect(index).not.toBe(before.index);
      expect(restarted.removeUnclaimed()).toEqual([before.index]);
      expect(indexOf(local)).toBe(index);
      expect(portFlags(local.port)).toBe(PORT_LISTENER);
      restarted.close();
    });

    test('that nobody claims after a restart lets nothing in any more', () => {
      const { local, index } = open(spec('gone', '127.0.0.1:0'));
      table.close();
      const restarted = new ListenerTable(libc, maps);
      expect(restarted.timeouts(index)).toEqual({ idleNs: 120e9, pinNs: 600e9 });
      expect(restarted.removeUnclaimed()).toEqual([index]);
      expect(indexOf(local)).toBeUndefined();
      expect(portFlags(local.port)).toBe(0);
      expect(restarted.timeouts(index)).toBeUndefined();
    });

    test('that goes keeps its index from others until its sessions are gone, also past a death between', () => {
      const { index, local } = open(spec('going', '127.0.0.1:0'));
      table.remove('going');
      expect(table.timeouts(index)).toBeUndefined();
      expect(portFlags(local.port)).toBe(0);
      expect(open(spec('next', '127.0.0.1:0')).index).not.toBe(index);
      table.close();

      const restarted = new ListenerTable(libc, maps);
      const claimed = spec('another', '127.0.0.1:0');
      const { index: another } = restarted.open(claimed, restarted.bind(claimed), pool);
      expect(another).not.toBe(index);
      expect(restarted.removeUnclaimed()).toContain(index);
      restarted.free(index);
      expect(restarted.removeUnclaimed()).not.toContain(index);
      const last = spec('last', '127.0.0.1:0');
      expect(restarted.open(last, restarted.bind(last), pool).index).toBe(index);
      restarted.close();
    });

    test('that finds no index beside those of the relay before it is refused, and says what to do', () => {
      for (let i = 0; i < MAX_LISTENERS; i++)
        maps.names.setListener(i, `127.0.0.1:${i + 1} game before-${i}`);
      const wanted = spec('one-too-many', '127.0.0.1:0');
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

  describe('relay ports', () => {
    const WHOLE = { first: 61_000, last: 65_535 };
    let relay: RelaySource;
    let tables: ListenerTable[];
    beforeEach(() => {
      relay = { libc, ports: WHOLE };
      tables = [];
    });
    afterEach(() => {
      for (const one of tables) one.close();
    });

    /** A relay that starts over the maps of the one before it. */
    const restart = (source: RelaySource | undefined = relay): ListenerTable => {
      tables.at(-1)?.close();
      tables.push(new ListenerTable(libc, maps, source));
      return tables.at(-1)!;
    };
    const openOn = (on: ListenerTable, name: string, listen = '127.0.0.1:0') => {
      const wanted = spec(name, listen);
      const bound = on.bind(wanted);
      try {
        return on.open(wanted, bound, pool);
      } catch (error) {
        on.unbind(bound.socket);
        throw error;
      }
    };
    /** As the programs know them: from the listener's rules. */
    const rangeOf = (index: number): [first: number, last: number] => {
      const { rules } = maps.mapped;
      const u16 = (field: keyof typeof RULES.at): number => rules.u16[rules.at(index, RULES.at[field]) >> 1]!;
      return [u16('firstRelayPort'), u16('firstRelayPort') + u16('relayPorts') - 1];
    };
    /** As the programs know them: from the ports. */
    const ownersOf = (): Map<number, [first: number, last: number]> => {
      const owners = new Map<number, [first: number, last: number]>();
      for (let port = 0; port < 65_536; port++) {
        if ((portFlags(port) & PORT_RELAY) === 0) continue;
        const owner = maps.mapped.ports.u16[maps.mapped.ports.at(port, PORT.at.listener) >> 1]!;
        owners.set(owner, [owners.get(owner)?.[0] ?? port, port]);
      }
      return owners;
    };

    test('are there for eight listeners, and the same for each after a restart in another order', () => {
      const first = restart();
      const names = Array.from({ length: 8 }, (_, i) => `game${i}`);
      const opened = names.map((name) => ({ name, ...openOn(first, name) }));
      const before = new Map(opened.map(({ index }) => [index, rangeOf(index)]));
      expect(ownersOf()).toEqual(before);
      expect(before.get(opened[7]!.index)).toEqual([64_932, 65_082]);
      const second = restart();
      for (const { name, local, index } of opened.toReversed())
        expect(openOn(second, name, local.toString()).index).toBe(index);
      expect(ownersOf()).toEqual(before);
    });

    test('of a listener that goes are there for the next, and nobody else’s change', () => {
      const listeners = restart();
      const [one, two] = ['one', 'two', 'three'].map((name) => openOn(listeners, name));
      listeners.remove('one');
      const three = ownersOf().get(2);
      expect(ownersOf().has(one!.index)).toBe(false);
      const four = openOn(listeners, 'four');
      // A quarter of the largest stretch, which is behind the third.
      expect(ownersOf()).toEqual(
        new Map([
          [two!.index, rangeOf(two!.index)],
          [2, three],
          [four.index, [63_623, 64_101]],
        ]),
      );
      listeners.remove('two');
      expect(rangeOf(openOn(listeners, 'five').index)).toEqual([61_000, 61_496]);
    });

    test('of a dead relay stay with its listeners until those go', () => {
      const dead = openOn(restart(), 'gone');
      const second = restart();
      const next = openOn(second, 'next');
      expect([rangeOf(dead.index), rangeOf(next.index)]).toEqual([
        [61_000, 62_133],
        [62_134, 62_984],
      ]);
      expect(second.removeUnclaimed()).toHaveLength(1);
      expect([...ownersOf().keys()]).toEqual([next.index]);
    });

    test.each([
      ['the range is another one', (): RelaySource => ({ libc, ports: { first: 50_000, last: 59_999 } })],
      ['a listener may use fewer of them', (): RelaySource => ({ libc, ports: WHOLE, most: 100 })],
      ['backends see the client', () => undefined],
    ])('are left, and the sessions that have them, where %s', (_why, source) => {
      const { local, index } = openOn(restart(), 'game');
      tables.at(-1)!.close();
      tables.push(new ListenerTable(libc, maps, source()));
      const second = tables.at(-1)!;
      const now = openOn(second, 'game', local.toString());
      expect(now.index).not.toBe(index);
      expect(indexOf(local)).toBe(now.index);
      // Until then replies to sessions that are still there find them.
      expect(ownersOf().get(index)).toEqual([61_000, 62_133]);
      expect(second.removeUnclaimed()).toEqual([index]);
      expect(ownersOf().has(index)).toBe(false);
      expect(indexOf(local)).toBe(now.index);
    });

    test('grow with the range that the configuration has', () => {
      const { local, index } = openOn(restart(), 'game');
      const second = restart({ libc, ports: { first: 60_000, last: 65_535 } });
      expect(openOn(second, 'game', local.toString()).index).toBe(index);
      expect(ownersOf()).toEqual(new Map([[index, [61_000, 62_383]]]));
    });

    test('that all are taken is said with the key, the range and what would be right', () => {
      const listeners = restart({ libc, ports: { first: 61_000, last: 61_001 } });
      for (const name of ['one', 'two']) openOn(listeners, name);
      expect(() => openOn(listeners, 'three')).toThrow(
        expect.objectContaining({
          code: 'TICKRELAY_ERR_LIMIT',
          message:
            'kernel.relayPorts: 61000-61001 has no port left for UDP listener "three": 2 others have them all; ' +
            'there should be a wider range, or fewer listeners',
        }),
      );
      expect(listeners.all()).toHaveLength(2);
    });
  });

  describe('sessions', () => {
    const NOW_NS = 50e9;

    const addSession = (client: string, fields: Partial<Record<keyof typeof SESSION.at, number>>): void => {
      const { ip, port } = Endpoint.parse(client);
      const key = new Uint8Array(SESSION_KEY.size);
      key.set(ip.bytes, SESSION_KEY.at.address);
      const keyView = new DataView(key.buffer);
      keyView.setUint16(SESSION_KEY.at.port, port, true);
      const value = new Uint8Array(SESSION.size);
      const view = new DataView(value.buffer);
      for (const [name, number] of Object.entries(fields)) {
        const field = name as keyof typeof SESSION.at;
        if (SESSION.bytes[field] === 8) view.setBigUint64(SESSION.at[field], BigInt(number), true);
        else if (SESSION.bytes[field] === 4) view.setUint32(SESSION.at[field], number, true);
        else view.setUint16(SESSION.at[field], number, true);
      }
      maps.maps.sessions.update(key, value);
    };
    const list = (query = {}) =>
      listSessions(
        { bpf, sessions: maps.maps.sessions },
        { limit: 10_000, ...query },
        {
          nowNs: NOW_NS,
          listener: () => ({ name: 'game', backendOf: () => undefined }),
        },
      );

    test('are listed with their ages, traffic and pacing', async () => {
      addSession('192.0.2.1:4000', {
        lastSeenNs: 49.5e9,
        openedNs: 40e9,
        datagramsDownstream: 3,
        bytesDownstream: 42,
        datagramsUpstream: 2,
        bytesUpstream: 300,
        seenPort: 4000,
        gaps: 1,
      });
      expect(await list()).toEqual({
        sessions: [
          {
            listener: 'game',
            client: '192.0.2.1:4000',
            backend: undefined,
            upstreamPort: 4000,
            ageMs: 10_000,
            idleMs: 500,
            halfOpen: false,
            downstreamDatagrams: 3,
            downstreamBytes: 42,
            upstreamDatagrams: 2,
            upstreamBytes: 300,
            pacing: { gaps: 1, intervals: [0, 0, 0, 0, 0, 0, 0, 0] },
          },
        ],
        total: 1,
        truncated: false,
      });
    });

    test('are all listed, each once, filtered by client and bounded', async () => {
      for (let i = 0; i < 3_000; i++)
        addSession(`10.0.${i >> 8}.${i & 255}:${1 + (i % 3)}`, { lastSeenNs: 1 });
      addSession('[2001:db8::1]:9', { lastSeenNs: 1 });
      const all = await list();
      expect(all.total).toBe(3_001);
      expect(new Set(all.sessions.map(({ client }) => client)).size).toBe(3_001);
      const bounded = await list({ limit: 5 });
      expect(bounded).toMatchObject({ total: 3_001, truncated: true });
      expect(bounded.sessions).toHaveLength(5);
      const one = await list({ clientIp: '2001:db8::1' });
      expect(one.sessions.map(({ client }) => client)).toEqual(['[2001:db8::1]:9']);
      const byIp = await list({ clientIp: '10.0.1.7' });
      expect(byIp.total).toBe(1);
    });
  });
});
