/** When sessions, pins and upstream sockets end: the same on every engine. */
import { expect, test } from 'vitest';
import { UPSTREAM_OPENS_PER_SWEEP, UPSTREAM_RESERVE } from '../../relay/core/limits.ts';
import type { UdpPeer } from '../support/udp-peer.ts';
import { describeEachEngine } from './each-engine.ts';
import { QUARANTINE_MS, RULES } from './engine-harness.ts';

/** Enough for the reserve of upstream sockets to be filled or emptied. */
const RESERVE_STEPS = Math.ceil(UPSTREAM_RESERVE.least / UPSTREAM_OPENS_PER_SWEEP);

describeEachEngine('expiry', ({ bed, isSocketless, testOfSockets, testOfSocketCaps }) => {
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

  testOfSockets('says what receive buffer the system granted, and takes another size in place', async () => {
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
  });

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
