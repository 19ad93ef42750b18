/** What nobody should send, and what arrives all the same: the same on every engine. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { UdpPeer } from '../support/udp-peer.ts';
import { describeEachEngine } from './each-engine.ts';
import { Bed, RULES, sums } from './engine-harness.ts';

describeEachEngine('hostile and unlucky datagrams', ({ engineName, bed, testOfUpstreamSockets }) => {
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

  describe('payloads', () => {
    let b: Bed;
    let client: UdpPeer;
    beforeAll(async () => {
      b = new Bed(engineName);
      const server = b.peer('127.0.0.1:0', ({ payload }) => payload);
      b.pool.add({ id: 'echo', endpoint: server.local, weight: 1 });
      await b.start([]);
      [client] = b.clients(1) as [UdpPeer];
    });
    afterAll(() => b.stop());

    test.each([0, 1, 14, 508, 1200, 1472, 1473, 65_507])(
      '%i bytes pass byte-exact both ways',
      async (length) => {
        const payload = Buffer.from(Array.from({ length }, (_, i) => (i * 31 + length) & 255));
        expect((await client.ask(b.listener, payload)).payload.equals(payload)).toBe(true);
      },
    );
  });

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
