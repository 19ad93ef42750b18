import { describe, expect, test } from 'vitest';
import fc from 'fast-check';
import { SWEEP_BUDGET, World } from '../../../gameserver/world.ts';
import type { PositionUpdate } from '../../../wire/position-update.ts';
import { createWorldState } from '../../../wire/world-state.ts';

const at = (playerId: number, x = 0): PositionUpdate => ({ playerId, x, y: x + 0.25, z: -x });

function matchOf(world: World, playerId: number): PositionUpdate[] {
  const state = createWorldState();
  world.describeMatch(playerId, state);
  return state.players.slice(0, state.count);
}

const idsOf = (world: World, playerId: number): number[] => matchOf(world, playerId).map((p) => p.playerId);

const liveIds = (world: World): number[] =>
  Array.from({ length: world.playerCount }, (_, place) => world.playerIdAt(place));

describe('a match', () => {
  test("begins with the player's own record, then has the others by id", () => {
    const world = new World({ matchPlayers: 10, forgetMs: 10_000 });
    for (const id of [19, 12, 10, 15]) world.update(at(id, id), 0);
    expect(matchOf(world, 15)).toEqual([at(15, 15), at(10, 10), at(12, 12), at(19, 19)]);
  });

  test('is the block of ids that the player id falls in', () => {
    const world = new World({ matchPlayers: 10, forgetMs: 10_000 });
    for (const id of [9, 10, 19, 20]) world.update(at(id), 0);
    expect(idsOf(world, 9)).toEqual([9]);
    expect(idsOf(world, 10)).toEqual([10, 19]);
    expect(idsOf(world, 20)).toEqual([20]);
  });

  test('at the end of the ids is a short one', () => {
    const world = new World({ matchPlayers: 10, forgetMs: 10_000 });
    for (const id of [65_530, 65_535]) world.update(at(id), 0);
    expect(idsOf(world, 65_535)).toEqual([65_535, 65_530]);
  });

  test('of 85 fills a world state', () => {
    const world = new World({ matchPlayers: 85, forgetMs: 10_000 });
    for (let id = 0; id < 85; id++) world.update(at(id), 0);
    expect(matchOf(world, 84)).toHaveLength(85);
  });

  test('has the latest position of each player', () => {
    const world = new World({ matchPlayers: 10, forgetMs: 10_000 });
    world.update(at(3, 1), 0);
    world.update(at(3, 2), 1);
    expect(matchOf(world, 3)).toEqual([at(3, 2)]);
    expect(world.playerCount).toBe(1);
  });
});

describe('a silent player', () => {
  test('stays until the forget time and is gone at it', () => {
    const world = new World({ matchPlayers: 10, forgetMs: 10_000 });
    world.update(at(1), 500);
    world.sweep(10_499);
    expect(liveIds(world)).toEqual([1]);
    world.sweep(10_500);
    expect(liveIds(world)).toEqual([]);
  });

  test('leaves the world states of the match', () => {
    const world = new World({ matchPlayers: 10, forgetMs: 10_000 });
    world.update(at(1), 0);
    world.update(at(2), 9_000);
    world.sweep(12_000);
    expect(idsOf(world, 2)).toEqual([2]);
  });

  test('is live again with the next update', () => {
    const world = new World({ matchPlayers: 10, forgetMs: 10_000 });
    world.update(at(1), 0);
    world.sweep(10_000);
    world.update(at(1, 5), 10_001);
    expect(matchOf(world, 1)).toEqual([at(1, 5)]);
  });

  test('among 65,536 is forgotten within 16 sweeps, each of which looks at 4,096', () => {
    const world = new World({ matchPlayers: 10, forgetMs: 10_000 });
    for (let id = 0; id < 65_536; id++) world.update(at(id), id === 40_000 ? 9_000 : 0);
    expect(world.playerCount).toBe(65_536);
    world.sweep(10_000);
    expect(world.playerCount).toBe(65_536 - SWEEP_BUDGET);
    for (let sweep = 2; sweep <= 16; sweep++) world.sweep(10_000);
    expect(liveIds(world)).toEqual([40_000]);
  });
});

test('the world agrees with a plain map under any sequence of updates and sweeps', () => {
  const step = fc.oneof(
    fc.record({ id: fc.integer({ min: 0, max: 30 }), x: fc.integer({ min: -9, max: 9 }) }),
    fc.record({ waitMs: fc.integer({ min: 0, max: 400 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const world = new World({ matchPlayers: 4, forgetMs: 1_000 });
      const naive = new Map<number, { update: PositionUpdate; ms: number }>();
      let nowMs = 0;
      for (const now of steps) {
        if ('id' in now) {
          const update = at(now.id, now.x);
          world.update(update, nowMs);
          naive.set(now.id, { update, ms: nowMs });
        } else {
          nowMs += now.waitMs;
          world.sweep(nowMs);
          for (const [id, { ms }] of naive) if (nowMs - ms >= 1_000) naive.delete(id);
        }
      }
      const byId = [...naive.keys()].sort((a, b) => a - b);
      expect(liveIds(world).sort((a, b) => a - b)).toEqual(byId);
      for (const id of byId) {
        const others = byId.filter((other) => other !== id && Math.floor(other / 4) === Math.floor(id / 4));
        expect(matchOf(world, id)).toEqual([id, ...others].map((one) => naive.get(one)?.update));
      }
    }),
  );
});
