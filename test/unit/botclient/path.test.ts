import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PlayerPath } from '../../../botclient/path.ts';
import { createPositionUpdate, encodePositionUpdate } from '../../../wire/position-update.ts';

const seed = fc.nat(0xffff_ffff);
const playerId = fc.nat(0xffff);

/** The 12 position bytes of a tick, as text. */
function positionBytes(path: PlayerPath, tick: number): string {
  const update = createPositionUpdate();
  const bytes = new Uint8Array(14);
  path.positionAt(tick, update);
  encodePositionUpdate(update, bytes);
  return Buffer.from(bytes.subarray(2)).toString('hex');
}

test('the position bytes are unique among 2,048 ticks of a player, wherever they begin', () => {
  fc.assert(
    fc.property(seed, playerId, fc.nat(10_000_000), (s, id, first) => {
      const path = new PlayerPath(s, id);
      const seen = new Set(Array.from({ length: 2048 }, (_, i) => positionBytes(path, first + i)));
      expect(seen.size).toBe(2048);
    }),
    { numRuns: 30 },
  );
});

test('the same seed, player and tick give the same position, in any order of asking', () => {
  fc.assert(
    fc.property(seed, playerId, fc.array(fc.nat(10_000_000)), (s, id, ticks) => {
      const path = new PlayerPath(s, id);
      const forwards = ticks.map((tick) => positionBytes(path, tick));
      const backwards = ticks.toReversed().map((tick) => positionBytes(new PlayerPath(s, id), tick));
      expect(backwards.reverse()).toEqual(forwards);
    }),
  );
});

test('coordinates are finite float32 values on the map', () => {
  fc.assert(
    fc.property(seed, playerId, fc.nat(), (s, id, tick) => {
      const update = createPositionUpdate();
      new PlayerPath(s, id).positionAt(tick, update);
      for (const metres of [update.x, update.y, update.z]) expect(Math.fround(metres)).toBe(metres);
      for (const metres of [update.x, update.y]) {
        expect(metres).toBeGreaterThanOrEqual(0);
        expect(metres).toBeLessThanOrEqual(1000);
      }
    }),
  );
});

test('another seed or another player walks elsewhere', () => {
  const at = (s: number, id: number) => positionBytes(new PlayerPath(s, id), 0);
  const starts = [at(1, 0), at(1, 1), at(2, 0), at(2, 1), at(0, 0)];
  expect(new Set(starts).size).toBe(starts.length);
});
