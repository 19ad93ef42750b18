/** Which relay ports each UDP listener has, as the programs know them: through comings, goings and restarts. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import type { RelaySource } from '../../relay/engines/kernel/listener-source.ts';
import { ListenerTable } from '../../relay/engines/kernel/listener-table.ts';
import { PORT, PORT_RELAY, RULES } from '../../relay/engines/kernel/records.ts';
import { ListenerRig, udpListener } from './listener-rig.ts';
import { whereBpf } from './where-bpf.ts';

const WHOLE = { first: 61_000, last: 65_535 };

whereBpf((bpf) => {
  const { libc } = bpf;
  const relay: RelaySource = { libc, ports: WHOLE };
  let rig: ListenerRig;
  let maps: KernelMaps;
  let tables: ListenerTable[];
  beforeEach(() => {
    rig = new ListenerRig(bpf);
    ({ maps } = rig);
    tables = [];
  });
  afterEach(() => {
    for (const one of tables) one.close();
    rig.close();
  });

  /** A relay that starts over the maps of the one before it. */
  const restart = (source: RelaySource | undefined = relay): ListenerTable => {
    tables.at(-1)?.close();
    tables.push(new ListenerTable(libc, maps, source));
    return tables.at(-1)!;
  };
  const openOn = (on: ListenerTable, name: string, listen = '127.0.0.1:0') => {
    const wanted = udpListener(name, listen);
    const bound = on.bind(wanted);
    try {
      return on.open(wanted, bound, rig.pool);
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
      if ((rig.portFlags(port) & PORT_RELAY) === 0) continue;
      const owner = maps.mapped.ports.u16[maps.mapped.ports.at(port, PORT.at.listener) >> 1]!;
      owners.set(owner, [owners.get(owner)?.[0] ?? port, port]);
    }
    return owners;
  };

  test('relay ports are there for eight listeners, and the same for each after a restart in another order', () => {
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

  test('relay ports of a listener that goes are there for the next, and nobody else’s change', () => {
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

  test('relay ports of a dead relay stay with its listeners until those go', () => {
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
  ])('relay ports are left, and the sessions that have them, where %s', (_why, source) => {
    const { local, index } = openOn(restart(), 'game');
    tables.at(-1)!.close();
    tables.push(new ListenerTable(libc, maps, source()));
    const second = tables.at(-1)!;
    const now = openOn(second, 'game', local.toString());
    expect(now.index).not.toBe(index);
    expect(rig.indexOf(local)).toBe(now.index);
    // Until then replies to sessions that are still there find them.
    expect(ownersOf().get(index)).toEqual([61_000, 62_133]);
    expect(second.removeUnclaimed()).toEqual([index]);
    expect(ownersOf().has(index)).toBe(false);
    expect(rig.indexOf(local)).toBe(now.index);
  });

  test('relay ports grow with the range that the configuration has', () => {
    const { local, index } = openOn(restart(), 'game');
    const second = restart({ libc, ports: { first: 60_000, last: 65_535 } });
    expect(openOn(second, 'game', local.toString()).index).toBe(index);
    expect(ownersOf()).toEqual(new Map([[index, [61_000, 62_383]]]));
  });

  test('that all relay ports are taken is said with the key, the range and what would be right', () => {
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
