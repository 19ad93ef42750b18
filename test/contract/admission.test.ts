/** Who is let in when there are limits: the same on every engine. */
import { expect, test } from 'vitest';
import type { UdpPeer } from '../support/udp-peer.ts';
import { describeEachEngine } from './each-engine.ts';
import { RULES } from './engine-harness.ts';

describeEachEngine('admission', ({ bed, isSocketless, testOfExactCaps, testOfSocketCaps }) => {
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

  testOfExactCaps('new sessions are bounded by the listener’s rate, and let in again with time', async () => {
    const b = await bed().start(['a'], { limits: { ...RULES.limits, sessionRate: 2 } });
    const clients = b.clients(3);
    await b.serversOf(clients.slice(0, 2));
    clients[2]!.send(b.listener, 'too fast');
    await expect.poll(() => b.counts().downstream.dropped['listener-rate-limit']).toBe(1);
    await b.advance(500);
    expect(await b.serverOf(clients[2]!)).toBe('a');
  });

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

  test('a reply of just as much as the limit allows passes, and not a byte more', async () => {
    const b = bed();
    const server = b.peer('127.0.0.1:0', ({ payload }) => Buffer.alloc(payload[0]!));
    b.pool.add({ id: 'measured', endpoint: server.local, weight: 1 });
    await b.start([], { limits: { ...RULES.limits, amplification: 3 } });
    const [within, beyond] = b.clients(2) as [UdpPeer, UdpPeer];
    beyond.send(b.listener, Buffer.alloc(10, 31));
    await expect.poll(() => b.counts().upstream.dropped['amplification-limit']).toBe(1);
    expect((await within.ask(b.listener, Buffer.alloc(10, 30))).payload).toHaveLength(30);
    expect(beyond.received).toHaveLength(0);
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
