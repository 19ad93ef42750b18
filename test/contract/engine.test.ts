/** What every engine must do alike (DESIGN: decisions). Each case runs against each engine of engine-harness.ts. */
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { hashAddress } from '../../relay/core/hash.ts';
import { MAGLEV_SLOTS, UPSTREAM_OPENS_PER_SWEEP, UPSTREAM_RESERVE } from '../../relay/core/limits.ts';
import type { ListenerStatus } from '../../relay/engines/engine.ts';
import type { UdpPeer } from '../support/udp-peer.ts';
import {
  Bed,
  type EngineSettings,
  ENGINES,
  LISTED_ONLY_ENGINES,
  QUARANTINE_MS,
  RULES,
  SHARING_ENGINES,
  SOCKETLESS_ENGINES,
  TRANSPARENT_ENGINES,
  sums,
  UNSEEING_ENGINES,
} from './engine-harness.ts';

/** Enough for the reserve of upstream sockets to be filled or emptied. */
const RESERVE_STEPS = Math.ceil(UPSTREAM_RESERVE.least / UPSTREAM_OPENS_PER_SWEEP);

describe.each(Object.keys(ENGINES))('engine %s', (engineName) => {
  const subject = ENGINES[engineName]!({});
  if (typeof subject === 'string') {
    test.skip(`skipped: ${subject}`, () => undefined);
    return;
  }
  afterAll(() => subject.engine.close());

  const beds: Bed[] = [];
  const isListedOnly = LISTED_ONLY_ENGINES.includes(engineName);
  const testOfExactCaps = SHARING_ENGINES.includes(engineName) ? () => undefined : test;
  const isTransparent = TRANSPARENT_ENGINES.includes(engineName);
  const isSocketless = SOCKETLESS_ENGINES.includes(engineName);
  const testOfSockets = isSocketless ? () => undefined : test;
  const testOfUpstreamSockets = isTransparent ? () => undefined : test;
  const testOfSocketCaps = isTransparent ? () => undefined : testOfExactCaps;

  afterEach(async () => {
    await Promise.all(beds.splice(0).map((bed) => bed.stop()));
  });

  function bed(settings?: EngineSettings): Bed {
    const made = new Bed(engineName, settings);
    beds.push(made);
    return made;
  }

  describe('pinning', () => {
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
      const [replyOne, replyTwo] = await Promise.all([
        one.ask(b.listener, 'one'),
        two.ask(b.listener, 'two'),
      ]);
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

  describe('expiry', () => {
    test('a session lives until the idle timeout and not longer', async () => {
      const b = await bed().start(['a']);
      const [client] = b.clients(1) as [UdpPeer];
      await client.ask(b.listener, 'x');
      await b.advance(RULES.idleTimeoutMs - 1);
      expect(b.engine.capacity().liveSessions).toBe(1);
      await b.advance(1);
      expect(b.engine.capacity().liveSessions).toBe(0);
      expect(b.counts().sessionsExpired).toBe(1);
    });

    test('a datagram from the client renews the session, a reply does not', async () => {
      const b = await bed().start(['a']);
      const [client] = b.clients(1) as [UdpPeer];
      await client.ask(b.listener, 'x');
      const server = b.servers.get('a')!;
      const relayPort = server.received[0]!.from;
      await b.advance(100_000);
      server.send(relayPort, 'unasked');
      expect((await client.next()).payload.toString()).toBe('unasked');
      await b.advance(20_000);
      expect(b.engine.capacity().liveSessions).toBe(0);
      server.send(relayPort, 'too late');
      await b.serverOf(b.peer('127.9.0.99:0'));
      expect(client.received.map(({ payload }) => payload.toString())).not.toContain('too late');
      await expect.poll(() => b.counts().upstream.dropped['late-reply']).toBe(1);
    });

    test('a pin outlives its sessions, through a change of the pool', async () => {
      const b = await bed().start(['a', 'b', 'c']);
      const clients = b.clients(30);
      const before = await b.serversOf(clients);
      await b.advance(RULES.idleTimeoutMs);
      expect(b.engine.capacity().liveSessions).toBe(0);
      b.addServer('d');
      await b.publish();
      expect(await b.serversOf(clients)).toEqual(before);
    });

    test('a pin ends its timeout after the last session', async () => {
      const b = await bed().start(['a']);
      await b.serversOf(b.clients(5));
      await b.advance(RULES.idleTimeoutMs);
      expect(b.engine.capacity().livePins).toBe(5);
      await b.advance(RULES.pinTimeoutMs);
      expect(b.engine.capacity().livePins).toBe(0);
    });

    testOfSockets(
      'says what receive buffer the system granted, and takes another size in place',
      async () => {
        const b = await bed().start(['a']);
        const client = b.clients(1)[0]!;
        await b.serverOf(client);
        const { receiveBufferBytes } = RULES;
        expect(b.engine.listeners()[0]!.receiveBuffer).toEqual({
          askedBytes: receiveBufferBytes,
          grantedBytes: receiveBufferBytes,
        });
        const spec = { name: 'game', listen: b.listener, pool: 'game', ...RULES };
        await b.engine.updateListener({ ...spec, receiveBufferBytes: 65_536 });
        expect(b.engine.listeners()[0]!.receiveBuffer).toEqual({ askedBytes: 65_536, grantedBytes: 65_536 });
        await b.serverOf(client);
        expect(b.counts().sessionsOpened).toBe(1);
      },
    );

    test('after the load sessions, pins and upstream sockets are back where they were', async () => {
      const b = await bed().start(['a', 'b']);
      for (let step = 0; step < RESERVE_STEPS; step++) await b.advance(0);
      const { upstreamSockets } = b.engine.listeners()[0]!;
      await b.serversOf(b.clients(50));
      for (let step = 0; step < RESERVE_STEPS; step++) await b.advance(0);
      if (!isSocketless) expect(b.engine.listeners()[0]!.upstreamSockets).toBeGreaterThan(upstreamSockets);
      await b.advance(RULES.idleTimeoutMs);
      await b.advance(RULES.pinTimeoutMs);
      await b.advance(QUARANTINE_MS);
      for (let step = 0; step < RESERVE_STEPS; step++) await b.advance(0);
      expect(b.engine.capacity()).toMatchObject({ liveSessions: 0, livePins: 0 });
      expect(b.engine.listeners()[0]).toMatchObject({ liveSessions: 0, upstreamSockets });
    });

    testOfSocketCaps('a late reply never reaches the player who has the upstream socket next', async () => {
      const b = await bed({ maxUpstreamSockets: 1 }).start(['a']);
      const [first, second] = b.clients(2) as [UdpPeer, UdpPeer];
      await first.ask(b.listener, 'x');
      const server = b.servers.get('a')!;
      const socketOfFirst = server.received[0]!.from;
      await b.advance(RULES.idleTimeoutMs);

      second.send(b.listener, 'no socket has rested');
      await second.until(() => true, '');
      server.send(socketOfFirst, 'late');
      await expect.poll(() => b.counts().upstream.dropped['late-reply']).toBe(1);
      await expect.poll(() => b.counts().downstream.dropped['no-upstream-socket']).toBe(1);

      await b.advance(QUARANTINE_MS);
      expect((await second.ask(b.listener, 'now')).payload.toString()).toBe('a:now');
      expect(second.received).toHaveLength(1);
      expect(first.received).toHaveLength(1);
    });
  });

  describe('a changing pool', () => {
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
        Object.fromEntries(
          ['a', 'b', 'c'].map((id) => [id, servers.filter((server) => server === id).length]),
        );
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

  describe('hostile and unlucky datagrams', () => {
    testOfUpstreamSockets('a reply from a stranger is dropped and counted', async () => {
      const b = await bed().start(['a']);
      const [client] = b.clients(1) as [UdpPeer];
      await b.serverOf(client);
      const upstream = b.servers.get('a')!.received[0]!.from;
      b.peer('127.0.0.1:0').send(upstream, 'spoof');
      await expect.poll(() => b.counts().upstream.dropped['unknown-upstream']).toBe(1);
      await b.serverOf(client);
      expect(client.received.map(({ payload }) => payload.toString())).toEqual(['a:where', 'a:where']);
    });

    testOfUpstreamSockets(
      'a reply from another backend than the session’s own is dropped and counted',
      async () => {
        const b = await bed().start(['a', 'b']);
        const [client] = b.clients(1) as [UdpPeer];
        const own = await b.serverOf(client);
        const upstream = b.servers.get(own)!.received[0]!.from;
        b.servers.get(own === 'a' ? 'b' : 'a')!.send(upstream, 'not yours');
        await expect.poll(() => b.counts().upstream.dropped['late-reply']).toBe(1);
        expect(client.received).toHaveLength(1);
      },
    );

    test.each([0, 1, 14, 508, 1200, 1472, 1473, 65_507])(
      '%i bytes pass byte-exact both ways',
      async (length) => {
        const b = bed();
        const server = b.peer('127.0.0.1:0', ({ payload }) => payload);
        b.pool.add({ id: 'echo', endpoint: server.local, weight: 1 });
        await b.start([]);
        const [client] = b.clients(1) as [UdpPeer];
        const payload = Buffer.from(Array.from({ length }, (_, i) => (i * 31 + length) & 255));
        expect((await client.ask(b.listener, payload)).payload.equals(payload)).toBe(true);
      },
    );

    test('random datagrams from many ports: received is forwarded plus dropped, exactly', async () => {
      const b = await bed({ maxSessions: 64 }).start(['a', 'b'], {
        limits: { ...RULES.limits, sessionsPerSource: 5 },
      });
      const clients = Array.from({ length: 100 }, (_, i) => b.peer(`127.9.0.${(i % 7) + 1}:0`));
      let random = 1;
      for (let round = 1; round <= 50; round++) {
        for (const client of clients) {
          random = Math.imul(random, 1_103_515_245) + 12_345;
          client.send(b.listener, Buffer.alloc((random >>> 8) % 600, random));
        }
        await expect.poll(() => b.counts().downstream.received).toBe(round * clients.length);
      }
      // Not every answer: those to sessions that gave up their sockets meanwhile find no port.
      await expect.poll(() => b.counts().upstream.received).toBeGreaterThan(1_000);
      await expect
        .poll(() => sums(b.counts()).every(({ received, accounted }) => received === accounted))
        .toBe(true);
      expect(b.counts().downstream.dropped['source-session-limit']).toBeGreaterThan(0);
    });
  });

  describe('a backend whose port is closed', () => {
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
      if (!UNSEEING_ENGINES.includes(engineName))
        await expect.poll(() => b.counts().upstreamUnreachable).toBe(5);
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
      if (!UNSEEING_ENGINES.includes(engineName))
        await expect.poll(() => b.counts().upstreamUnreachable).toBe(rounds * onA.length);
    });
  });

  describe('admission', () => {
    test('one IP has its cap of sessions, others are unaffected', async () => {
      const b = await bed().start(['a'], { limits: { ...RULES.limits, sessionsPerSource: 2 } });
      const greedy = Array.from({ length: 3 }, () => b.peer('127.9.0.1:0'));
      await b.serverOf(greedy[0]!);
      await b.serverOf(greedy[1]!);
      greedy[2]!.send(b.listener, 'one too many');
      await expect.poll(() => b.counts().downstream.dropped['source-session-limit']).toBe(1);
      expect(await b.serverOf(b.peer('127.9.0.2:0'))).toBe('a');
      expect(await b.serverOf(greedy[0]!)).toBe('a');
    });

    testOfExactCaps(
      'new sessions are bounded by the listener’s rate, and let in again with time',
      async () => {
        const b = await bed().start(['a'], { limits: { ...RULES.limits, sessionRate: 2 } });
        const clients = b.clients(3);
        await b.serversOf(clients.slice(0, 2));
        clients[2]!.send(b.listener, 'too fast');
        await expect.poll(() => b.counts().downstream.dropped['listener-rate-limit']).toBe(1);
        await b.advance(500);
        expect(await b.serverOf(clients[2]!)).toBe('a');
      },
    );

    test('while nobody is ready every drop says so, and takes nothing of a rate', async () => {
      // Three a worker, where there are three.
      const limits = { ...RULES.limits, sessionRatePerSource: 2, sessionRate: 9 };
      const b = await bed().start(['a'], { limits });
      expect(await b.serverOf(b.peer('127.9.0.1:0'))).toBe('a');
      b.pool.setHealthy('a', false);
      await b.publish();
      const others = b.clients(9).slice(1);
      const again = Array.from({ length: 4 }, () => b.peer('127.9.0.1:0'));
      for (const client of [...others, ...again]) client.send(b.listener, 'nobody is there');
      await expect.poll(() => b.counts().downstream.dropped['no-backend']).toBe(12);
      b.pool.setHealthy('a', true);
      await b.publish();
      expect(await b.serverOf(b.peer('127.9.0.1:0'))).toBe('a');
      expect(b.counts().downstream.dropped).toMatchObject({
        'source-rate-limit': 0,
        'listener-rate-limit': 0,
      });
    });

    test('one IP is bounded by its own rate', async () => {
      const b = await bed().start(['a'], { limits: { ...RULES.limits, sessionRatePerSource: 1 } });
      const [one, two, three] = Array.from({ length: 3 }, () => b.peer('127.9.0.1:0')) as [
        UdpPeer,
        UdpPeer,
        UdpPeer,
      ];
      await b.serverOf(one);
      two.send(b.listener, 'too fast');
      await expect.poll(() => b.counts().downstream.dropped['source-rate-limit']).toBe(1);
      expect(await b.serverOf(b.peer('127.9.0.2:0'))).toBe('a');
      await b.advance(1_000);
      expect(await b.serverOf(three)).toBe('a');
    });

    testOfExactCaps('a full table gives up half-open sessions, never an established one', async () => {
      const b = await bed({ maxSessions: 8 }).start(['a']);
      const established = b.clients(4);
      await b.serversOf(established);
      await b.serversOf(established);
      const flood = Array.from({ length: 40 }, (_, i) => b.peer(`127.8.0.${i + 1}:0`));
      for (const client of flood) await client.ask(b.listener, 'once');
      expect(b.counts().sessionsEvicted).toBe(36);
      expect(b.engine.capacity().liveSessions).toBe(8);
      expect(await b.serversOf(established)).toEqual(['a', 'a', 'a', 'a']);
      expect(b.counts().sessionsOpened).toBe(44);
    });

    testOfExactCaps('a table full of established sessions refuses new ones and counts them', async () => {
      const b = await bed({ maxSessions: 4 }).start(['a']);
      const players = b.clients(4);
      await b.serversOf(players);
      await b.serversOf(players);
      b.peer('127.8.0.1:0').send(b.listener, 'no room');
      await expect.poll(() => b.counts().downstream.dropped['session-table-full']).toBe(1);
      expect(await b.serversOf(players)).toEqual(['a', 'a', 'a', 'a']);
    });

    testOfSocketCaps(
      'a flood of single datagrams does not shut players out when upstream sockets run short',
      async () => {
        const b = await bed({ maxUpstreamSockets: 8 }).start(['a']);
        const players = b.clients(3);
        await b.serversOf(players);
        await b.serversOf(players);
        for (let i = 0; i < 60; i++) await b.peer(`127.8.0.${i + 1}:0`).ask(b.listener, 'once');
        const newcomers = Array.from({ length: 5 }, (_, i) => b.peer(`127.7.0.${i + 1}:0`));
        for (const newcomer of newcomers) {
          expect(await b.serverOf(newcomer)).toBe('a');
          expect(await b.serverOf(newcomer)).toBe('a');
        }
        expect(await b.serversOf(players)).toEqual(['a', 'a', 'a']);
        expect(b.counts().sessionsEvicted).toBe(60);
        if (!isSocketless) expect(b.engine.listeners()[0]!.upstreamSockets).toBe(8);
        b.peer('127.6.0.1:0').send(b.listener, 'full of players now');
        await expect.poll(() => b.counts().downstream.dropped['no-upstream-socket']).toBe(1);
      },
    );

    test('replies towards a half-open session are bounded when the limit is on', async () => {
      const b = bed();
      const server = b.peer('127.0.0.1:0', () => Buffer.alloc(1_000));
      b.pool.add({ id: 'loud', endpoint: server.local, weight: 1 });
      await b.start([], { limits: { ...RULES.limits, amplification: 3 } });
      const [client] = b.clients(1) as [UdpPeer];
      client.send(b.listener, 'x');
      await expect.poll(() => b.counts().upstream.dropped['amplification-limit']).toBe(1);
      await client.ask(b.listener, 'a real player sends again');
      expect(client.received).toHaveLength(1);
    });

    test('a draining engine keeps its sessions and takes no new ones', async () => {
      const b = await bed().start(['a']);
      const [player] = b.clients(1) as [UdpPeer];
      await b.serverOf(player);
      await b.engine.drain();
      b.peer('127.8.0.1:0').send(b.listener, 'too late');
      await expect.poll(() => b.counts().downstream.dropped['draining']).toBe(1);
      expect(await b.serverOf(player)).toBe('a');
    });
  });

  describe('addresses and listeners', () => {
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
});
