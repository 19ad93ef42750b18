import { afterEach, describe, expect, test } from 'vitest';
import { BotCrew, dividePlan, type BotCrewOptions } from '../../../botclient/bot-crew.ts';
import type { GameServer } from '../../../gameserver/game-server.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { localGameServer } from '../../support/local-game-server.ts';

const plan: BotCrewOptions = {
  workers: 2,
  target: '127.0.0.1:7777',
  players: 9,
  tickHz: 128,
  rampMs: 0,
  warmupMs: 0,
  durationMs: 250,
  graceMs: 1000,
  codec: 'binary',
  reply: 'immediate',
  seed: 1,
  firstPlayer: 100,
  firstAddress: undefined,
  login: undefined,
  socket: 'dgram',
};

const servers: GameServer[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});

function serve(): GameServer {
  const server = localGameServer();
  servers.push(server);
  return server;
}

describe('the players', () => {
  test('are divided evenly, ids and addresses in one row', () => {
    const shares = dividePlan({ ...plan, workers: 4, firstAddress: '127.2.0.251' });
    expect(
      shares.map(({ players, firstPlayer, firstAddress }) => [players, firstPlayer, firstAddress]),
    ).toEqual([
      [2, 100, '127.2.0.251'],
      [2, 102, '127.2.0.253'],
      [2, 104, '127.2.1.1'],
      [3, 106, '127.2.1.3'],
    ]);
  });

  test('begin at 127.1.0.1 for a target on loopback, and where the system says for another', () => {
    expect(dividePlan(plan).map(({ firstAddress }) => firstAddress)).toEqual(['127.1.0.1', '127.1.0.5']);
    const elsewhere = dividePlan({ ...plan, target: '10.0.0.3:7777' });
    expect(elsewhere.map(({ firstAddress }) => firstAddress)).toEqual([undefined, undefined]);
  });
});

describe.each(['dgram', 'mmsg'] as const)('in worker threads on %s sockets', (socket) => {
  const available = loadLibc();
  if (socket === 'mmsg' && 'unavailable' in available) {
    test.skip(`skipped: ${available.unavailable}`, () => undefined);
    return;
  }

  test('every player plays from its own address, and the sums hold over all of them', async () => {
    const server = serve();
    const crew = new BotCrew({ ...plan, workers: 3, socket, target: server.local.toString() });
    expect(await crew.bound).toMatchObject({ socket });
    crew.start();
    const progress = await crew.progress();
    expect(progress.players).toBe(9);
    const summary = await crew.finished;
    const { intended, sent, skipped, refused, matched, superseded, lost, received, duplicates } = summary;
    expect(summary).toMatchObject({ players: 9, servers: { 3: 9 }, unansweredPlayers: 0, durationMs: 250 });
    expect(intended).toBe(9 * 32);
    expect(sent + skipped + refused).toBe(intended);
    expect(matched + superseded + lost).toBe(sent);
    expect(matched + duplicates + summary.unknown).toBe(received);
    expect(server.counts.players).toBe(9);
  });

  test('a stop ends all of them early', async () => {
    const server = serve();
    const crew = new BotCrew({ ...plan, socket, target: server.local.toString(), durationMs: 600_000 });
    await crew.bound;
    crew.start();
    crew.stop();
    const summary = await crew.finished;
    expect(summary.players).toBe(9);
    expect(summary.intended).toBeLessThan(9 * 128 * 60);
  });

  test('an address that can’t be had fails them all', async () => {
    const crew = new BotCrew({ ...plan, socket, firstAddress: '192.0.2.1' });
    const error = { code: 'TICKRELAY_ERR_BIND', message: expect.stringContaining('192.0.2.') as string };
    await expect(crew.bound).rejects.toMatchObject(error);
    await expect(crew.finished).rejects.toMatchObject(error);
  });
});
