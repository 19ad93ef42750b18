/**
 * Where a player walks: laps of a circle on a square map, each player on a circle of its own. The position is a pure
 * function of seed, player and tick, so that a run can be repeated and an update recognised by its position alone.
 *
 * A lap takes 4,096 ticks on a radius of 20 m or more: any two ticks of a lap are at least 3 cm apart, and float32
 * resolves 0.1 mm at the map's far corner. So the 12 position bytes are unique among the last 4,096 ticks of a player.
 */
import type { PositionUpdate } from '../wire/position-update.ts';

/** Ticks of one lap: 32 s at 128 Hz. */
export const LAP_TICKS = 4096;

/** The sine of each tick's angle, for every player: a lap begins at a whole tick. */
const SINES = Float64Array.from({ length: LAP_TICKS }, (_, tick) =>
  Math.sin((2 * Math.PI * tick) / LAP_TICKS),
);
const QUARTER_LAP = LAP_TICKS / 4;
const MAP_METRES = 1000;
const MIN_RADIUS_METRES = 20;
const MAX_RADIUS_METRES = 60;
const HILL_METRES = 2;

/** Doubles of one path: centre x and y, radius, and the tick in which its laps begin. */
export const PATH_DOUBLES = 4;

export class PlayerPath {
  readonly #memory: Float64Array;
  readonly #at: number;

  /**
   * @param memory where the path keeps its doubles, from `at` on: side by side with those of other players, since a double in an
   *   object is an object of its own, and of hundreds of players none is in the processor's cache
   */
  constructor(seed: number, playerId: number, memory: Float64Array = new Float64Array(PATH_DOUBLES), at = 0) {
    const draw = (index: number): number => unitHash(seed, playerId * 4 + index);
    const margin = MAX_RADIUS_METRES;
    this.#memory = memory;
    this.#at = at;
    memory[at] = margin + draw(0) * (MAP_METRES - 2 * margin);
    memory[at + 1] = margin + draw(1) * (MAP_METRES - 2 * margin);
    memory[at + 2] = MIN_RADIUS_METRES + draw(2) * (MAX_RADIUS_METRES - MIN_RADIUS_METRES);
    memory[at + 3] = Math.floor(draw(3) * LAP_TICKS);
  }

  /** Writes x, y and z in metres, of float32 precision, for `tick` >= 0. Allocates nothing. */
  positionAt(tick: number, into: PositionUpdate): void {
    const memory = this.#memory;
    const at = this.#at;
    const radius = memory[at + 2]!;
    const angle = memory[at + 3]! + tick;
    into.x = Math.fround(memory[at]! + radius * SINES[(angle + QUARTER_LAP) % LAP_TICKS]!);
    into.y = Math.fround(memory[at + 1]! + radius * SINES[angle % LAP_TICKS]!);
    into.z = Math.fround(HILL_METRES * SINES[(3 * angle) % LAP_TICKS]!);
  }
}

/** Two numbers to 0 <= h < 1, by the finaliser of MurmurHash3 (fmix32), which spreads neighbouring inputs. */
function unitHash(seed: number, index: number): number {
  let hash = Math.imul(seed, 0x9e3779b1) ^ index;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}
