/** Who moves when servers fail, come back, drain and leave: the same on every engine. */
import { expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import type { UdpPeer } from '../support/udp-peer.ts';
import { describeEachEngine } from './each-engine.ts';
import { RULES } from './engine-harness.ts';

const LOCAL = Endpoint.parse('127.0.0.1:0');

describeEachEngine('a changing pool', ({ bed }) => {
  test('when a backend fails, only its players move, with their next datagram', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const clients = b.clients(40);
    const before = await b.serversOf(clients);
    b.pool.setHealthy('b', false);
    await b.publish();
    const after = await b.serversOf(clients);
    before.forEach((server, i) => {
      if (server === 'b') expect(after[i]).not.toBe('b');
      else expect(after[i]).toBe(server);
    });
    expect(b.counts().sessionsRepinned).toBe(before.filter((server) => server === 'b').length);
  });

  test('when a backend comes back, nobody who plays elsewhere moves', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const clients = b.clients(30);
    await b.serversOf(clients);
    b.pool.setHealthy('b', false);
    await b.publish();
    const during = await b.serversOf(clients);
    b.pool.setHealthy('b', true);
    await b.publish();
    expect(await b.serversOf(clients)).toEqual(during);
  });

  test('a failure releases the pins at once, also of players who were silent meanwhile', async () => {
    const b = await bed().start(['a', 'b'], { algorithm: 'round-robin' });
    const [one, two] = b.clients(2) as [UdpPeer, UdpPeer];
    expect([await b.serverOf(one), await b.serverOf(two)].toSorted()).toEqual(['a', 'b']);
    const failing = await b.serverOf(one);
    b.pool.setHealthy(failing, false);
    await b.publish();
    b.pool.setHealthy(failing, true);
    await b.publish();
    expect(b.engine.listeners()[0]!.sessionsByBackend.get(failing)).toBe(0);
    await b.serverOf(one);
    expect(b.counts().sessionsRepinned).toBe(1);
  });

  test('adding and removing a backend moves nobody else', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const clients = b.clients(40);
    const before = await b.serversOf(clients);
    b.addServer('d');
    await b.publish();
    expect(await b.serversOf(clients)).toEqual(before);
    b.pool.remove('a');
    await b.publish();
    const after = await b.serversOf(clients);
    before.forEach((server, i) => {
      if (server === 'a') expect(after[i]).not.toBe('a');
      else expect(after[i]).toBe(server);
    });
  });

  test('a new backend in the slot of a removed one does not inherit its players', async () => {
    const b = await bed().start(['a']);
    const [client] = b.clients(1) as [UdpPeer];
    expect(await b.serverOf(client)).toBe('a');
    b.pool.remove('a');
    b.addServer('z');
    await b.publish();
    const received = b.counts().upstream.received;
    const zombie = b.servers.get('a')!;
    zombie.send(zombie.received[0]!.from, 'from the removed backend');
    await expect.poll(() => b.counts().upstream.received).toBe(received + 1);
    await expect.poll(() => b.counts().upstream.dropped['unknown-upstream']).toBe(1);
    expect(await b.serverOf(client)).toBe('z');
  });

  test('draining moves nobody and takes no new player', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const clients = b.clients(40);
    const before = await b.serversOf(clients);
    b.pool.setDraining('b', true);
    await b.publish();
    expect(await b.serversOf(clients)).toEqual(before);
    const newcomers = Array.from({ length: 30 }, (_, i) => b.peer(`127.8.0.${i + 1}:0`));
    expect(await b.serversOf(newcomers)).not.toContain('b');

    const drained = before.indexOf('b');
    const sameIp = b.peer(`${clients[drained]!.local.ip.toString()}:0`);
    expect(await b.serverOf(sameIp)).toBe('b');
  });

  test('with all backends down datagrams are counted drops, and service resumes', async () => {
    const b = await bed().start(['a', 'b']);
    const clients = b.clients(10);
    await b.serversOf(clients);
    for (const id of ['a', 'b']) b.pool.setHealthy(id, false);
    await b.publish();
    for (const client of clients) client.send(b.listener, 'lost');
    b.peer('127.8.0.1:0').send(b.listener, 'lost');
    await expect.poll(() => b.counts().downstream.dropped['no-backend']).toBe(11);
    b.pool.setHealthy('b', true);
    await b.publish();
    expect(new Set(await b.serversOf(clients))).toEqual(new Set(['b']));
  });

  test('live sessions by backend follow the players', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const clients = b.clients(20);
    const tally = (servers: string[]) =>
      Object.fromEntries(['a', 'b', 'c'].map((id) => [id, servers.filter((server) => server === id).length]));
    expect(Object.fromEntries(b.engine.listeners()[0]!.sessionsByBackend)).toEqual({
      a: 0,
      b: 0,
      c: 0,
    });
    const before = tally(await b.serversOf(clients));
    expect(Object.fromEntries(b.engine.listeners()[0]!.sessionsByBackend)).toEqual(before);
    b.pool.setHealthy('a', false);
    await b.publish();
    const after = tally(await b.serversOf(clients));
    expect(Object.fromEntries(b.engine.listeners()[0]!.sessionsByBackend)).toEqual(after);
    await b.advance(RULES.idleTimeoutMs);
    expect([...b.engine.listeners()[0]!.sessionsByBackend.values()]).toEqual([0, 0, 0]);
  });

  test('a closed backend port harms neither session nor relay', async () => {
    const b = await bed().start(['a']);
    const [client] = b.clients(1) as [UdpPeer];
    await b.serverOf(client);
    const { local } = b.servers.get('a')!;
    await b.servers.get('a')!.close();
    for (let i = 0; i < 20; i++) client.send(b.listener, 'into the void');
    await expect.poll(() => b.counts().downstream.received).toBe(21);
    expect(b.engine.capacity().liveSessions).toBe(1);
    b.peer(local.toString(), () => Buffer.from('back'));
    expect((await client.ask(b.listener, 'again')).payload.toString()).toBe('back');
  });
});

describeEachEngine('pools that come and go', ({ bed }) => {
  test('a hundred of them one after the other are no more than one', async () => {
    const b = bed();
    const [client] = b.clients(1) as [UdpPeer];
    const server = b.addServer('a');
    for (let i = 0; i < 100; i++) {
      const pool = new BackendPool(`pool-${i}`);
      pool.add({ id: 'a', endpoint: server.local, weight: 1 });
      await b.engine.publish(pool.snapshot());
      b.listener = await b.engine.addListener({ ...RULES, name: 'game', listen: LOCAL, pool: pool.name });
      expect(await b.serverOf(client)).toBe('a');
      await b.engine.removeListener('game');
      await b.engine.publish(new BackendPool(pool.name).snapshot());
    }
    expect(b.engine.capacity()).toMatchObject({ liveSessions: 0, livePins: 0 });
  });

  test('a pool in the place of one that is gone has none of its players, sessions or late replies', async () => {
    const b = await bed().start(['a']);
    const [player, stranger] = b.clients(2) as [UdpPeer, UdpPeer];
    expect(await b.serversOf([player, stranger])).toEqual(['a', 'a']);
    const listen = b.listener;
    const zombie = b.servers.get('a')!;
    const late = zombie.received.map(({ from }) => from);
    await b.engine.removeListener('game');
    await b.engine.publish(new BackendPool('game').snapshot());

    const pool = new BackendPool('arena');
    const server = b.peer('127.0.0.1:0', () => Buffer.from('z:'));
    pool.add({ id: 'z', endpoint: server.local, weight: 1 });
    await b.engine.publish(pool.snapshot());
    b.listener = await b.engine.addListener({ ...RULES, name: 'arena', listen, pool: 'arena' });
    const [arena] = b.engine.listeners();
    expect([arena!.liveSessions, [...arena!.sessionsByBackend]]).toEqual([0, [['z', 0]]]);
    for (const from of late) zombie.send(from, 'a late reply of a pool that is gone');
    expect(await b.serverOf(player)).toBe('z');
    expect(b.engine.listeners()[0]!.sessionsByBackend.get('z')).toBe(1);
    // Who asks nothing is sent nothing; nor was the one who asked.
    expect([player, stranger].map(({ received }) => received.length)).toEqual([2, 1]);
    expect(b.counts().sessionsRepinned).toBe(0);
  });
});
