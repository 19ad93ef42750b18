/** Who goes to which server, and gets whose replies: the same on every engine. */
import { expect, test } from 'vitest';
import { hashAddress } from '../../relay/core/hash.ts';
import { MAGLEV_SLOTS } from '../../relay/core/limits.ts';
import type { UdpPeer } from '../support/udp-peer.ts';
import { describeEachEngine } from './each-engine.ts';

describeEachEngine('pinning', ({ bed }) => {
  test('each new player goes where hash and Maglev table say', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const { maglev, backends } = b.pool.snapshot();
    const clients = b.clients(40);
    const expected = clients.map(
      ({ local }) => backends[maglev[(hashAddress(local.ip.words, 0, 0) >>> 0) % MAGLEV_SLOTS]!]!.id,
    );
    expect(await b.serversOf(clients)).toEqual(expected);
    expect(new Set(expected).size).toBe(3);
  });

  test('the answer comes from the address that the client contacted', async () => {
    const b = await bed().start(['a']);
    const [client] = b.clients(1) as [UdpPeer];
    const { from, payload } = await client.ask(b.listener, 'x');
    expect(from.toString()).toBe(b.listener.toString());
    expect(payload.toString()).toBe('a:x');
  });

  test('two clients behind one IP share a server and get their own replies', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const one = b.peer('127.9.0.1:0');
    const two = b.peer('127.9.0.1:0');
    const [replyOne, replyTwo] = await Promise.all([one.ask(b.listener, 'one'), two.ask(b.listener, 'two')]);
    expect(replyOne.payload.toString().slice(2)).toBe('one');
    expect(replyTwo.payload.toString().slice(2)).toBe('two');
    expect(replyOne.payload[0]).toBe(replyTwo.payload[0]);
  });

  test('a client that changes its port stays on its server', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const before = b.peer('127.9.0.7:0');
    const server = await b.serverOf(before);
    await before.close();
    expect(await b.serverOf(b.peer('127.9.0.7:0'))).toBe(server);
  });

  test('two hundred players behind one IP all play', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const clients = Array.from({ length: 200 }, () => b.peer('127.9.0.1:0'));
    const replies = await Promise.all(clients.map((client, i) => client.ask(b.listener, `player ${i}`)));
    expect(replies.map(({ payload }) => payload.toString().slice(2))).toEqual(
      clients.map((_, i) => `player ${i}`),
    );
  });

  test('a server tells sessions apart by their source ports', async () => {
    const b = await bed().start(['a']);
    const clients = b.clients(20);
    await b.serversOf(clients);
    const ports = new Set(b.servers.get('a')!.received.map(({ from }) => from.port));
    expect(ports.size).toBe(20);
  });

  test('round-robin takes the backends in turn, least-connections the emptiest', async () => {
    const turns = await bed().start(['a', 'b', 'c'], { algorithm: 'round-robin' });
    const inTurn = await turns.serversOf(turns.clients(6));
    expect(inTurn.slice(0, 3).sort()).toEqual(['a', 'b', 'c']);
    expect(inTurn.slice(3)).toEqual(inTurn.slice(0, 3));
    await turns.stop();

    const least = await bed().start(['a', 'b', 'c'], { algorithm: 'least-connections' });
    const even = await least.serversOf(least.clients(9));
    expect(even.toSorted()).toEqual(['a', 'a', 'a', 'b', 'b', 'b', 'c', 'c', 'c']);
  });
});
