import assert from 'node:assert/strict';
import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { type Arrival, EngineRig, Host, LISTEN, QUARANTINE_MS } from './engine-rig.ts';

const rigs: EngineRig[] = [];

function rig(settings?: ConstructorParameters<typeof EngineRig>[0]): EngineRig {
  const made = new EngineRig(settings);
  rigs.push(made);
  return made;
}

afterEach(async () => {
  vi.useRealTimers();
  await Promise.all(rigs.splice(0).map(({ engine }) => engine.close()));
});

describe('the userspace engine, in a bad network', () => {
  test('forwards what arrives, each datagram once and in order', async () => {
    const { network, ...r } = await started(rig());
    const player = new Host(network, '10.1.0.1:5000');
    let flight = 0;
    network.fault = (from) => (from.equals(player.local) ? [1, 0, 2, 1][flight++ % 4]! : 1);
    for (let i = 0; i < 8; i++) player.send(LISTEN, `${i}`);
    network.deliver();
    expect(player.texts).toEqual(['0', '2', '2', '3', '4', '6', '6', '7'].map((text) => `a:${text}`));
    expect(r.rig.sum('downstream')).toEqual({ received: 8, forwarded: 8, dropped: 0 });
    expect(r.rig.sum('upstream')).toEqual({ received: 8, forwarded: 8, dropped: 0 });
  });

  test('a loss behind the relay is no drop of the relay', async () => {
    const { network, ...r } = await started(rig());
    const player = new Host(network, '10.1.0.1:5000');
    network.fault = (from) => (from.equals(player.local) ? 1 : 0);
    player.send(LISTEN, 'x');
    network.deliver();
    expect(r.rig.sum('downstream')).toEqual({ received: 1, forwarded: 1, dropped: 0 });
    expect(r.rig.sum('upstream')).toEqual({ received: 0, forwarded: 0, dropped: 0 });
  });

  test('a full send queue towards the server drops and counts, and the session goes on', async () => {
    const { network, ...r } = await started(rig({ sendQueueLimit: 3 }));
    const players = Array.from({ length: 5 }, (_, i) => new Host(network, `10.1.0.1:${5_000 + i}`));
    const [first] = players as [Host];
    // All five arrive in one go; nothing of what the relay sends is on its way before the last of them.
    for (let i = 0; i < 5; i++) first.send(LISTEN, `${i}`);
    network.deliver();
    expect(r.rig.counts.downstream.dropped['send-queue-full']).toBe(2);
    expect(r.rig.sum('downstream')).toEqual({ received: 5, forwarded: 3, dropped: 2 });
    first.send(LISTEN, 'after');
    network.deliver();
    expect(first.texts.at(-1)).toBe('a:after');
  });

  test('a full send queue towards the players drops and counts', async () => {
    const r = rig({ sendQueueLimit: 3 });
    r.server('a', (host, { from }) => {
      for (let i = 0; i < 5; i++) host.send(from, `${i}`);
    });
    await r.listen();
    const player = new Host(r.network, '10.1.0.1:5000');
    player.send(LISTEN, 'x');
    r.network.deliver();
    expect(player.texts).toEqual(['0', '1', '2']);
    expect(r.counts.upstream.dropped['send-queue-full']).toBe(2);
    const { sessions } = await r.engine.sessions({ limit: 1 });
    expect(sessions[0]).toMatchObject({ upstreamDatagrams: 3, upstreamBytes: 3 });
  });

  test('without descriptors, sessions that live go on, new ones are dropped, and come through afterwards', async () => {
    const { network, ...r } = await started(rig());
    const [old, fresh] = [new Host(network, '10.1.0.1:5000'), new Host(network, '10.1.0.2:5000')];
    old.send(LISTEN, '1');
    network.deliver();
    r.rig.refusal = Object.assign(new Error('too many open files'), { code: 'EMFILE' });
    for (let i = 0; i < 10; i++) {
      old.send(LISTEN, '2');
      fresh.send(LISTEN, '2');
      network.deliver();
    }
    expect(old.received).toHaveLength(11);
    expect(fresh.received).toHaveLength(0);
    expect(r.rig.counts.downstream.dropped['no-upstream-socket']).toBe(10);
    expect(r.rig.troubles).toEqual([r.rig.refusal]);
    r.rig.refusal = undefined;
    r.rig.advance(100);
    fresh.send(LISTEN, '3');
    network.deliver();
    expect(fresh.texts).toEqual(['a:3']);
    expect(r.rig.sum('downstream')).toEqual({ received: 22, forwarded: 12, dropped: 10 });
  });

  test('an upstream socket each is what a backend’s sessions need, and no more are opened than allowed', async () => {
    const { network, ...r } = await started(rig({ maxUpstreamSockets: 2 }));
    const players = Array.from({ length: 3 }, (_, i) => new Host(network, `10.1.0.${i + 1}:5000`));
    const [first, second, third] = players as [Host, Host, Host];
    // Whoever has sent twice gives way to nobody.
    for (const player of [first, second, first, second, third]) {
      player.send(LISTEN, 'x');
      network.deliver();
    }
    expect(players.map(({ texts }) => texts)).toEqual([['a:x', 'a:x'], ['a:x', 'a:x'], []]);
    expect(r.rig.engine.listeners()[0]!.upstreamSockets).toBe(2);
  });

  test('a newcomer whom the end of the session that made room for it renumbers is served', async () => {
    // In a table of four places every fourth newcomer or so stands behind the session that gives way, and moves up.
    const { network } = await started(rig({ maxUpstreamSockets: 1, maxSessions: 2 }));
    const players = Array.from({ length: 64 }, (_, i) => new Host(network, `10.1.0.${i + 1}:5000`));
    for (const [i, player] of players.entries()) {
      player.send(LISTEN, `${i}`);
      network.deliver();
    }
    expect(players.map(({ texts }) => texts)).toEqual(players.map((_, i) => [`a:${i}`]));
  });

  test('the wall clock has no say', async () => {
    const { network, ...r } = await started(rig());
    const player = new Host(network, '10.1.0.1:5000');
    const start = Date.now();
    vi.useFakeTimers({ toFake: ['Date'] });
    for (const hours of [0, 1, -1]) {
      vi.setSystemTime(start + hours * 3_600_000);
      player.send(LISTEN, 'x');
      network.deliver();
      r.rig.engine.sweep();
    }
    expect(player.received).toHaveLength(3);
    expect(r.rig.counts).toMatchObject({ sessionsOpened: 1, sessionsExpired: 0 });
  });

  test('the loop stood still: what was received meanwhile keeps its session', async () => {
    const { network, ...r } = await started(rig(), { idleTimeoutMs: 1_000 });
    const player = new Host(network, '10.1.0.1:5000');
    for (let i = 0; i < 5; i++) {
      player.send(LISTEN, 'x');
      network.deliver();
      r.rig.advance(999);
    }
    expect(r.rig.counts).toMatchObject({ sessionsOpened: 1, sessionsExpired: 0 });
  });
});

async function started(
  made: EngineRig,
  rules = {},
): Promise<{ rig: EngineRig; network: EngineRig['network'] }> {
  made.server('a');
  await made.listen(rules);
  return { rig: made, network: made.network };
}

describe('the userspace engine, through anything', () => {
  const step = fc.oneof(
    { weight: 10, arbitrary: fc.record({ kind: fc.constant('send' as const), n: fc.nat(11) }) },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('deliver' as const), n: fc.constant(0) }) },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('reply' as const), n: fc.nat(1_000) }) },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant('wait' as const), n: fc.constantFrom(50, 400, 999, 2_000) }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('faults' as const), n: fc.nat(1_000) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('refuse' as const), n: fc.nat(2) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('pool' as const), n: fc.nat(1_000) }) },
  );

  test('received is forwarded plus dropped, and nobody gets what was meant for another', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 40, maxLength: 150, size: 'max' }), async (steps) => {
        const r = new EngineRig({ sendQueueLimit: 4, maxUpstreamSockets: 6, maxSessions: 10 });
        const held: { host: Host; arrival: Arrival; atMs: number }[] = [];
        for (const id of ['a', 'b', 'c']) {
          r.server(id, (host, arrival) => held.push({ host, arrival, atMs: r.nowMs }));
        }
        await r.listen({ idleTimeoutMs: 1_500, algorithm: 'round-robin' });
        const players = Array.from(
          { length: 12 },
          (_, i) => new Host(r.network, `10.1.0.${i >> 1}:${5_000 + i}`),
        );
        for (const { kind, n } of steps) {
          if (kind === 'send') players[n]!.send(LISTEN, `player ${n}`);
          else if (kind === 'deliver') r.network.deliver();
          else if (kind === 'wait') r.advance(n);
          else if (kind === 'refuse') r.refusal = n === 0 ? new Error('EMFILE') : undefined;
          else if (kind === 'faults') {
            let flight = n;
            r.network.fault = () => [1, 1, 0, 1, 2][(flight = (flight * 7 + 3) % 1_001) % 5]!;
          } else if (kind === 'reply' && held.length > 0) {
            const [{ host, arrival, atMs }] = held.splice(n % held.length, 1) as [(typeof held)[number]];
            // Later than the quarantine is too late for anyone to tell whose reply it is.
            if (r.nowMs - atMs < QUARANTINE_MS) host.send(arrival.from, arrival.text);
          } else if (kind === 'pool') {
            const id = 'abc'[n % 3]!;
            if (n % 2 === 0) r.pool.setHealthy(id, n % 4 === 0);
            else r.pool.setDraining(id, n % 4 === 1);
            r.publish();
          }
          if (kind !== 'deliver') continue;
          for (const direction of ['downstream', 'upstream'] as const) {
            const { received, forwarded, dropped } = r.sum(direction);
            assert.equal(received, forwarded + dropped, direction);
          }
          for (const [i, player] of players.entries()) {
            assert(player.received.every(({ text, from }) => text === `player ${i}` && from.equals(LISTEN)));
          }
          const { liveSessions } = r.engine.capacity();
          const status = r.engine.listeners()[0]!;
          assert.equal(status.liveSessions, liveSessions);
          assert((await r.engine.sessions({ limit: 100 })).total === liveSessions && liveSessions <= 10);
          assert(status.upstreamSockets <= 6);
        }
        r.network.fault = () => 0;
        r.network.deliver();
        for (let i = 0; i < 3; i++) r.advance(2_000);
        assert.deepEqual(
          [r.engine.capacity().liveSessions, r.engine.listeners()[0]!.upstreamSockets],
          [0, 0],
        );
        await r.engine.close();
      }),
      { numRuns: 40 },
    );
  });
});

test('pools that are gone are forgotten, however many there were; those in use or with backends stay', async () => {
  const made = rig();
  made.server('a');
  await made.listen();
  const { engine } = made;
  for (let i = 0; i < 500; i++) {
    const pool = new BackendPool(`pool-${i}`);
    pool.add({ id: 'x', endpoint: Endpoint.parse('10.0.0.200:1'), weight: 1 });
    await engine.publish(pool.snapshot());
    expect(engine.dump().pools).toContain(pool.name);
    pool.remove('x');
    await engine.publish(pool.snapshot());
  }
  expect(engine.dump().pools).toEqual(['game']);
  made.pool.remove('a');
  made.publish();
  expect(engine.dump().pools).toEqual(['game']);
  await engine.removeListener('game');
  expect(engine.dump().pools).toEqual([]);
  made.refusal = new Error('no socket');
  await expect(made.listen()).rejects.toThrow('no socket');
  expect(engine.dump().pools).toEqual([]);
});
