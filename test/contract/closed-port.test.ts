/** What a backend costs whose port is closed: the same on every engine. */
import { expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import type { UdpPeer } from '../support/udp-peer.ts';
import { describeEachEngine } from './each-engine.ts';
import { type Bed, RULES } from './engine-harness.ts';

describeEachEngine('a backend whose port is closed', ({ bed, isUnseeing, testOfSockets }) => {
  const closedAndBack = async (b: Bed, host: string): Promise<void> => {
    const server = b.addServer('a', `${host}:0`);
    await b.publish();
    const listen = Endpoint.parse('127.0.0.1:0');
    b.listener = await b.engine.addListener({ name: 'game', listen, pool: 'game', ...RULES });
    const [player] = b.clients(1) as [UdpPeer];
    await player.ask(b.listener, 'before');
    const relayPort = server.received[0]!.from;
    await server.close();
    for (let i = 1; i <= 5; i++) {
      player.send(b.listener, 'to nobody');
      await expect.poll(() => b.counts().downstream.forwarded).toBe(1 + i);
    }
    if (!isUnseeing) await expect.poll(() => b.counts().upstreamUnreachable).toBe(5);
    expect(b.engine.capacity().liveSessions).toBe(1);
    const back = b.peer(server.local.toString(), ({ payload }) => payload);
    expect((await player.ask(b.listener, 'after')).payload.toString()).toBe('after');
    expect(back.received.at(-1)!.from.toString()).toBe(relayPort.toString());
    expect(b.counts().downstream.dropped['send-failed']).toBe(0);
  };

  test('costs the session nothing, and is counted', () => closedAndBack(bed(), '127.0.0.1'));

  testOfSockets('costs the session nothing, and is counted, also on IPv6', () =>
    closedAndBack(bed(), '[::1]'),
  );

  test('costs the players of other backends nothing, though they share upstream sockets', async () => {
    const b = await bed().start(['a', 'b'], { algorithm: 'round-robin' });
    const players = b.clients(40);
    const servers = await b.serversOf(players);
    await b.servers.get('a')!.close();
    const [onA, onB] = ['a', 'b'].map((id) => players.filter((_, i) => servers[i] === id)) as [
      UdpPeer[],
      UdpPeer[],
    ];
    const before = b.counts().downstream.forwarded;
    const rounds = 50;
    for (let round = 0; round < rounds; round++) {
      for (const player of onA) player.send(b.listener, 'to nobody');
      await Promise.all(onB.map((player) => player.ask(b.listener, 'x')));
    }
    const sent = rounds * players.length;
    await expect.poll(() => b.counts().downstream.forwarded - before).toBe(sent);
    expect(b.counts().downstream.dropped['send-failed']).toBe(0);
    if (!isUnseeing) await expect.poll(() => b.counts().upstreamUnreachable).toBe(rounds * onA.length);
  });
});
