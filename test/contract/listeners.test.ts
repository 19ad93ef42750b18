/** Addresses, listeners, and what an engine says of itself: the same on every engine. */
import { expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import type { ListenerStatus } from '../../relay/engines/engine.ts';
import type { UdpPeer } from '../support/udp-peer.ts';
import { describeEachEngine } from './each-engine.ts';
import { RULES, sums } from './engine-harness.ts';

describeEachEngine('addresses and listeners', ({ bed, isListedOnly }) => {
  test('IPv6 players and IPv6 servers work alike', async () => {
    const b = bed();
    b.addServer('six', '[::1]:0');
    await b.publish();
    b.listener = await b.engine.addListener({
      name: 'six',
      listen: Endpoint.parse('[::1]:0'),
      pool: 'game',
      ...RULES,
    });
    expect(await b.serverOf(b.peer('[::1]:0'))).toBe('six');
  });

  test('an IPv4 player behind an IPv6 listener has the pin of the IPv4 address', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const wide = await b.engine.addListener({
      name: 'wide',
      listen: Endpoint.parse('[::]:0'),
      pool: 'game',
      ...RULES,
    });
    const mapped = Endpoint.parse(`127.0.0.1:${wide.port}`);
    const viaV4 = await b.serverOf(b.peer('127.0.0.1:0'));
    const { payload } = await b.peer('127.0.0.1:0').ask(mapped, 'x');
    expect(payload.toString()).toBe(`${viaV4}:x`);
    const listing = await b.engine.sessions({ limit: 10, listener: 'wide' });
    expect(listing.sessions[0]!.client).toMatch(/^127\.0\.0\.1:\d+$/);
  });

  test.each([
    ['0.0.0.0', '127.0.0.2', '127.9.0.1'],
    ['[::]', '127.0.0.2', '127.9.0.1'],
    ['[::]', '[::1]', '[::1]'],
  ])('on %s, what was sent to %s is answered from there', async (listen, contacted, client) => {
    const b = bed();
    // Of the client's family, which is all that some engines can reach.
    b.addServer('a', client === '[::1]' ? '[::1]:0' : '127.0.0.1:0');
    await b.start([], { listen: Endpoint.parse(`${listen}:0`) });
    const to = Endpoint.parse(`${contacted}:${b.listener.port}`);
    const player = b.peer(`${client}:0`);
    const { from, payload } = await player.ask(to, 'x');
    expect(payload.toString()).toBe('a:x');
    const routed = Endpoint.parse(`127.0.0.1:${to.port}`);
    expect(from.toString()).toBe((isListedOnly && contacted === '127.0.0.2' ? routed : to).toString());
    await expect.poll(() => b.counts().upstream).toMatchObject({ received: 1, forwarded: 1 });
  });

  test('a player who contacts two addresses of one listener from one port is answered from the last', async () => {
    const b = await bed().start(['a'], { listen: Endpoint.parse('0.0.0.0:0') });
    if (isListedOnly) return;
    const [player, other] = b.clients(2) as [UdpPeer, UdpPeer];
    const at = (host: string): Endpoint => Endpoint.parse(`${host}:${b.listener.port}`);
    for (const host of ['127.0.0.2', '127.0.0.3', '127.0.0.2']) {
      expect((await player.ask(at(host), 'x')).from.toString()).toBe(at(host).toString());
      expect((await other.ask(at('127.0.0.4'), 'x')).from.toString()).toBe(at('127.0.0.4').toString());
    }
    await player.ask(at('127.0.0.5'), 'x');
    const server = b.servers.get('a')!;
    server.send(server.received.find(({ payload }) => payload.toString() === 'x')!.from, 'later');
    expect((await player.next()).from.toString()).toBe(at('127.0.0.5').toString());
    expect(b.engine.capacity().liveSessions).toBe(2);
  });

  test('players who come at once by several addresses are each answered from their own', async () => {
    const b = await bed().start(['a'], { listen: Endpoint.parse('0.0.0.0:0') });
    if (isListedOnly) return;
    const players = b.clients(40);
    const at = (i: number): Endpoint => Endpoint.parse(`127.0.0.${2 + (i % 4)}:${b.listener.port}`);
    for (const round of ['first', 'second']) {
      const answers = await Promise.all(players.map((player, i) => player.ask(at(i), round)));
      expect(answers.map(({ from }) => from.toString())).toEqual(players.map((_, i) => at(i).toString()));
    }
  });

  test('players keep the address that they contacted while sessions around them end', async () => {
    const b = await bed({ maxSessions: 400 }).start(['a'], { listen: Endpoint.parse('0.0.0.0:0') });
    if (isListedOnly) return;
    const players = b.clients(100);
    const at = (i: number): Endpoint => Endpoint.parse(`127.0.0.${2 + (i % 50)}:${b.listener.port}`);
    for (const [i, player] of players.entries()) await player.ask(at(i), `${i}`);
    const server = b.servers.get('a')!;
    const relayPorts = new Map(server.received.map(({ payload, from }) => [payload.toString(), from]));
    await b.advance(RULES.idleTimeoutMs - 1);
    const stay = players.map((player, i) => ({ player, i })).filter(({ i }) => i % 3 === 0);
    for (const { player, i } of stay) await player.ask(at(i), 'stay');
    await b.advance(1);
    expect(b.engine.capacity().liveSessions).toBe(stay.length);
    for (const { player, i } of stay) {
      server.send(relayPorts.get(`${i}`)!, 'unasked');
      const { from, payload } = await player.next();
      expect(payload.toString()).toBe('unasked');
      expect(from.toString()).toBe(at(i).toString());
    }
  });

  test('two listeners do not disturb each other', async () => {
    const b = await bed().start(['a']);
    const second = await b.engine.addListener({
      name: 'second',
      listen: Endpoint.parse('127.0.0.1:0'),
      pool: 'game',
      ...RULES,
    });
    const [client] = b.clients(1) as [UdpPeer];
    expect((await client.ask(b.listener, '1')).from.toString()).toBe(b.listener.toString());
    expect((await client.ask(second, '2')).from.toString()).toBe(second.toString());
    await b.engine.removeListener('second');
    expect(await b.serverOf(client)).toBe('a');
    expect(b.engine.listeners().map(({ name }) => name)).toEqual(['game']);
  });

  test('a taken address is an error that names it, and the engine goes on', async () => {
    const b = await bed().start(['a']);
    const taken = { name: 'taken', listen: b.listener, pool: 'game', ...RULES };
    await expect(b.engine.addListener(taken)).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_BIND',
      message: expect.stringContaining(b.listener.toString()) as string,
    });
    expect(await b.serverOf(b.peer('127.9.0.1:0'))).toBe('a');
  });

  test('new rules apply to the sessions that live', async () => {
    const b = await bed().start(['a']);
    await b.serverOf(b.peer('127.9.0.1:0'));
    await b.engine.updateListener({
      name: 'game',
      listen: b.listener,
      pool: 'game',
      ...RULES,
      idleTimeoutMs: 1_000,
    });
    await b.advance(1_000);
    expect(b.engine.capacity().liveSessions).toBe(0);
  });

  test('sessions are listed with their traffic, filtered and bounded', async () => {
    const b = await bed().start(['a', 'b', 'c']);
    const clients = b.clients(5);
    const [first] = clients as [UdpPeer];
    const server = await b.serverOf(first);
    await b.serversOf(clients);
    await b.advance(250);
    const { sessions, total } = await b.engine.sessions({ limit: 10, clientIp: '127.9.0.1' });
    expect(total).toBe(1);
    expect(sessions[0]).toMatchObject({
      listener: 'game',
      client: first.local.toString(),
      backend: server,
      idleMs: 250,
      halfOpen: false,
      downstreamDatagrams: 2,
      downstreamBytes: 10,
      upstreamDatagrams: 2,
      upstreamBytes: 14,
    });
    const page = await b.engine.sessions({ limit: 2 });
    expect(page).toMatchObject({ total: 5, truncated: true });
    expect(page.sessions).toHaveLength(2);
    const byBackend = await b.engine.sessions({ limit: 10, backend: server });
    expect(new Set(byBackend.sessions.map(({ backend }) => backend))).toEqual(new Set([server]));
  });

  test('closing twice is closing once', async () => {
    const b = await bed().start(['a']);
    await Promise.all([b.engine.close(), b.engine.close()]);
    const { local } = b.engine.listeners()[0]!;
    expect(b.peer(local.toString()).local.equals(local)).toBe(true);
  });

  test('what was counted until the last socket closed can be read after the end', async () => {
    const b = await bed().start(['a']);
    const clients = b.clients(10);
    await b.serversOf(clients);
    for (let i = 0; i < 20; i++) for (const client of clients) client.send(b.listener, 'until the end');
    const { received } = b.servers.get('a')!;
    await expect.poll(() => received.length).toBeGreaterThan(10);
    await b.engine.close();
    const [{ counts, liveSessions }] = b.engine.listeners() as [ListenerStatus];
    expect([counts.sessionsOpened, liveSessions]).toEqual([10, 0]);
    for (const { received, accounted } of sums(counts)) expect(accounted).toBe(received);
    await expect.poll(() => received.length).toBe(counts.downstream.forwarded);
    expect(b.counts()).toEqual(counts);
  });
});
