/** The engine's side of TCP listeners in the kernel, over a rig's maps and programs: in which order what belongs to a listener ends. */
import { beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { KernelTcp } from '../../relay/engines/kernel/kernel-tcp.ts';
import { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import { TcpListenerTable } from '../../relay/engines/kernel/tcp-listener-table.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import { poolOfOne } from '../support/pool-of-one.ts';
import { listenerSpec } from '../unit/tcp/tcp-bench.ts';
import { closing, unavailable, whereAvailable } from './packet-rig.ts';
import { A, CLIENT, Conversation } from './tcp-conversation.ts';
import { TcpRig } from './tcp-rig.ts';

// The ends of a connection that is cut are told on a network where nobody is.
if (unavailable === undefined) enterOwnNetwork([]);

whereAvailable(() => {
  const rig = closing(new TcpRig());
  let pool: PoolWriter;
  beforeEach(async () => {
    await rig.reset();
    pool = new PoolWriter(rig.maps, 0);
    await pool.publish(poolOfOne('db', Endpoint.parse(A)).snapshot());
  });

  test('an index and a pool are let go when the connections of the listener that goes have been cut', async () => {
    const connections: Conversation[] = [];
    const whenLetGo: (readonly [live: number, states: readonly string[]])[] = [];
    const live = (): number => [...pool.backends()][0]!.liveConnections;
    const tcp = new KernelTcp({
      bpf: rig.bpf,
      maps: rig.maps,
      relayPorts: undefined,
      nowNs: () => rig.nowNs,
      poolOf: () => Promise.resolve(pool),
      letGo: () => {
        whenLetGo.push([live(), connections.map(({ state }) => state)]);
        return Promise.resolve();
      },
      prepare: () => undefined,
      attach: () => undefined,
    });
    onTestFinished(() => tcp.close(false));
    const spec = listenerSpec();
    const local = await tcp.addListener(spec);
    connections.push(
      ...[CLIENT, '10.0.0.2:40000'].map((from) => new Conversation(rig, from, local.toString())),
    );
    for (const connection of connections) connection.open();
    expect([live(), connections.map(({ state }) => state)]).toEqual([2, ['open', 'open']]);
    const free = vi.spyOn(TcpListenerTable.prototype, 'free');
    onTestFinished(() => free.mockRestore());
    const liveWhenFreed: number[] = [];
    free.mockImplementation(() => void liveWhenFreed.push(live()));
    await tcp.removeListener(spec.name);
    expect(liveWhenFreed).toEqual([0]);
    expect(whenLetGo).toEqual([[0, ['cut', 'cut']]]);
    expect(rig.counts().closed).toEqual({ 'listener-removed': 2 });
  });
});
