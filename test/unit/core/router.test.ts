import { describe, expect, test } from 'vitest';
import { IpAddress } from '../../../net/address.ts';
import { MAX_BACKENDS } from '../../../relay/core/limits.ts';
import { NO_UPSTREAM } from '../../../relay/core/session-table.ts';
import { NO_LIMITS, RouterRig, RULES } from './router-rig.ts';

describe('routing', () => {
  test('a session keeps its backend, whatever joins', () => {
    const rig = new RouterRig({ ids: ['a'] });
    const game = rig.listen('game', { algorithm: 'round-robin' });
    expect(rig.backend(game, '127.9.0.1', 1, 0)).toBe('a');
    rig.add('b');
    rig.publish();
    expect([1, 2, 3].map((port) => rig.backend(game, '127.9.0.1', port, 0))).toEqual(['a', 'a', 'a']);
  });

  test.each([
    ['0.0.0.0', 5],
    ['0.1.2.3', 5],
    ['224.0.0.1', 5],
    ['239.255.255.255', 5],
    ['255.255.255.255', 5],
    ['::', 5],
    ['ff02::1', 5],
    ['10.0.0.1', 0],
    ['2001:db8::1', 0],
  ])('nobody answers to %s port %i', (ip, port) => {
    const rig = new RouterRig();
    expect(rig.backend(rig.listen('game'), ip, port, 0)).toBe('bad-source');
    rig.check();
  });

  test.each(['223.255.255.255', '1.0.0.1', 'fe80::1', '::1', '::2:0:0'])('%s can be answered', (ip) => {
    const rig = new RouterRig();
    expect(['a', 'b', 'c']).toContain(rig.backend(rig.listen('game'), ip, 65_535, 0));
  });

  test('an idle session ends with its timeout, although no sweep came', () => {
    const rig = new RouterRig();
    const game = rig.listen('game');
    rig.route(game, '127.9.0.1', 1, 0);
    rig.route(game, '127.9.0.1', 1, 999);
    const kept = rig.route(game, '127.9.0.1', 1, 1_998);
    expect(rig.router.sessions.datagramsDownstream(Number(kept))).toBe(3);
    const renewed = rig.route(game, '127.9.0.1', 1, 2_998);
    expect(rig.router.sessions.datagramsDownstream(Number(renewed))).toBe(1);
    expect(game.counters.dump()).toMatchObject({ sessionsOpened: 2, sessionsExpired: 1 });
    rig.check();
  });

  test('replies do not keep a session alive', () => {
    const rig = new RouterRig({ ids: ['a'] });
    const game = rig.listen('game');
    const session = Number(rig.route(game, '127.9.0.1', 1, 0));
    rig.router.sessions.replied(session, 100);
    expect(rig.router.mayReply(session, 0, 999)).toBe(true);
    expect(rig.router.mayReply(session, 0, 1_000)).toBe(false);
  });

  test('all down: datagrams of old and new players are dropped, sessions stay, service resumes', () => {
    const rig = new RouterRig({ ids: ['a'] });
    const game = rig.listen('game');
    rig.route(game, '127.9.0.1', 1, 0);
    rig.pool.setHealthy('a', false);
    rig.publish();
    expect(rig.backend(game, '127.9.0.1', 1, 10)).toBe('no-backend');
    expect(rig.backend(game, '127.9.0.2', 1, 10)).toBe('no-backend');
    expect(game.liveSessions).toBe(1);
    rig.pool.setHealthy('a', true);
    rig.publish();
    expect(rig.backend(game, '127.9.0.1', 1, 20)).toBe('a');
    expect(game.counters.dump().sessionsRepinned).toBe(1);
    rig.check();
  });

  test('a re-pinned session gives its upstream up before it moves', () => {
    const rig = new RouterRig({ ids: ['a', 'b'] });
    const game = rig.listen('game');
    const before = rig.backend(game, '127.9.0.1', 1, 0);
    const [upstream] = rig.owners.keys();
    rig.pool.remove(before);
    rig.publish();
    const session = rig.router.route(game, IpAddress.parse('127.9.0.1').words, 0, 1, 14, 10);
    expect(rig.router.sessions.upstream(session)).toBe(NO_UPSTREAM);
    expect(rig.owners.has(upstream!)).toBe(false);
  });

  test('a draining relay takes no new sessions', () => {
    const rig = new RouterRig({ ids: ['a'] });
    const game = rig.listen('game');
    rig.route(game, '127.9.0.1', 1, 0);
    rig.router.drain();
    expect(rig.backend(game, '127.9.0.1', 1, 1)).toBe('a');
    expect(rig.backend(game, '127.9.0.1', 2, 1)).toBe('draining');
  });

  test('listeners have sessions and pins of their own', () => {
    const rig = new RouterRig();
    const [one, two] = [rig.listen('one'), rig.listen('two')];
    rig.route(one, '127.9.0.1', 1, 0);
    rig.route(two, '127.9.0.1', 1, 0);
    expect([...rig.sessions().keys()].sort()).toEqual(['one 127.9.0.1 1', 'two 127.9.0.1 1']);
    rig.router.removeListener(one, 0);
    expect([...rig.sessions().keys()]).toEqual(['two 127.9.0.1 1']);
    expect([...rig.pins().keys()]).toEqual(['two 127.9.0.1']);
  });

  test('a listener leaves a full table completely', () => {
    const rig = new RouterRig({ maxSessions: 200 });
    const [one, two] = [rig.listen('one'), rig.listen('two')];
    for (let i = 0; i < 100; i++) {
      rig.route(one, `10.1.0.${i}`, 1, 0);
      rig.route(two, `10.1.0.${i}`, 1, 0);
    }
    rig.router.removeListener(one, 0);
    expect([one.liveSessions, two.liveSessions, rig.owners.size]).toEqual([0, 100, 100]);
    expect(rig.pins().size).toBe(100);
    rig.check();
  });
});

describe('admission', () => {
  test('a full table gives up the half-open session that is silent longest, and only half-open ones', () => {
    const rig = new RouterRig({ maxSessions: 3 });
    const game = rig.listen('game');
    for (const [ip, nowMs] of [
      ['10.1.0.1', 0],
      ['10.1.0.2', 1],
      ['10.1.0.3', 2],
      ['10.1.0.1', 3],
    ] as const)
      rig.route(game, ip, 1, nowMs);
    rig.route(game, '10.1.0.4', 1, 4);
    expect([...rig.sessions().keys()].sort()).toEqual([
      'game 10.1.0.1 1',
      'game 10.1.0.3 1',
      'game 10.1.0.4 1',
    ]);
    for (const ip of ['10.1.0.3', '10.1.0.4']) rig.route(game, ip, 1, 5);
    expect(rig.backend(game, '10.1.0.5', 1, 6)).toBe('session-table-full');
    expect(game.counters.dump().sessionsEvicted).toBe(1);
    rig.check();
  });

  test('a refused client leaves nothing behind', () => {
    const rig = new RouterRig({ maxSessions: 1 });
    const game = rig.listen('game');
    rig.route(game, '10.1.0.1', 1, 0);
    rig.route(game, '10.1.0.1', 1, 0);
    expect(rig.backend(game, '10.1.0.2', 1, 0)).toBe('session-table-full');
    expect(rig.pins().size).toBe(1);
  });

  test('a flood of sources pushes no confirmed pin and no established session out', () => {
    const rig = new RouterRig({ maxSessions: 32 });
    const game = rig.listen('game');
    const players = Array.from({ length: 16 }, (_, i) => `10.1.0.${i + 1}`);
    for (const nowMs of [0, 1]) for (const ip of players) rig.route(game, ip, 1, nowMs);
    for (let i = 0; i < 2_000; i++) rig.route(game, `10.${2 + (i >> 8)}.0.${i & 255}`, 1, 2);
    const sessions = rig.sessions();
    expect(players.every((ip) => sessions.has(`game ${ip} 1`))).toBe(true);
    expect(sessions.size).toBe(32);
    expect(rig.pins().size).toBe(64);
    rig.check();
  });

  test('an IP that hits a limit leaves the others alone', () => {
    const rig = new RouterRig({ ids: ['a'] });
    const game = rig.listen('game', {
      limits: { ...NO_LIMITS, sessionsPerSource: 1, sessionRatePerSource: 1 },
    });
    expect(rig.backend(game, '10.1.0.1', 1, 0)).toBe('a');
    expect(rig.backend(game, '10.1.0.1', 2, 0)).toBe('source-session-limit');
    expect(rig.backend(game, '10.1.0.2', 1, 0)).toBe('a');
    expect(rig.backend(game, '10.1.0.1', 1, 0)).toBe('a');
    game.apply({ ...RULES, limits: { ...NO_LIMITS, sessionRatePerSource: 1 } }, 0);
    expect(rig.backend(game, '10.1.0.1', 2, 0)).toBe('source-rate-limit');
    expect(rig.backend(game, '10.1.0.1', 2, 1_000)).toBe('a');
  });

  test('a clock that steps back gives no client IP a second helping', () => {
    const rig = new RouterRig({ ids: ['a'] });
    const game = rig.listen('game', { limits: { ...NO_LIMITS, sessionRatePerSource: 1 } });
    const at = (nowMs: number, port: number): string => rig.backend(game, '10.1.0.1', port, nowMs);
    expect([at(5_000, 1), at(4_000, 2), at(5_000, 3)]).toEqual([
      'a',
      'source-rate-limit',
      'source-rate-limit',
    ]);
  });
});

describe('a sweep', () => {
  test('is bounded, and a few of them end everything', () => {
    const rig = new RouterRig({ maxSessions: 64 });
    const game = rig.listen('game');
    for (let i = 0; i < 64; i++) rig.route(game, `10.1.0.${i}`, 1, 0);
    rig.router.sweep(16, 1_000);
    expect(rig.router.sessions.records.size).toBeGreaterThanOrEqual(48);
    for (let i = 0; i < 16; i++) rig.router.sweep(16, 1_000);
    expect(rig.router.sessions.records.size).toBe(0);
    expect(rig.pins().size).toBe(64);
    for (let i = 0; i < 32; i++) rig.router.sweep(16, 4_000);
    expect(rig.pins().size).toBe(0);
    rig.check();
  });

  test('live figures by slot reach as far as pools do', () => {
    expect(new RouterRig().view.live).toHaveLength(MAX_BACKENDS);
  });
});
