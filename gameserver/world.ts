/**
 * Where every player is. All of it is typed arrays indexed by player id, made once: an update allocates nothing.
 *
 * The live players also stand in one dense list, so that a tick and a sweep cost as much as there are players, not as
 * there are ids. Removing one moves the last into its place.
 */
import assert from 'node:assert/strict';
import type { PositionUpdate } from '../wire/position-update.ts';
import { MAX_PLAYER_ID } from '../wire/position-update.ts';
import type { WorldState } from '../wire/world-state.ts';
import { MAX_WORLD_PLAYERS } from '../wire/world-state.ts';

/** Every id may be a player. */
export const MAX_PLAYERS = MAX_PLAYER_ID + 1;

/** Players that one sweep looks at: some tens of microseconds of work. */
export const SWEEP_BUDGET = 4_096;

const ABSENT = -1;

export interface WorldOptions {
  /** Players of one match, 1 to 85 (what a world state holds): ids 0..n-1 are the first match, n..2n-1 the second... */
  readonly matchPlayers: number;
  /** Time since the last update, in ms, after which a player is forgotten. */
  readonly forgetMs: number;
}

export class World {
  readonly #matchPlayers: number;
  readonly #forgetMs: number;
  /** x, y, z by player id. */
  readonly #positions = new Float32Array(3 * MAX_PLAYERS);
  readonly #updatedMs = new Float64Array(MAX_PLAYERS);
  /** The ids of live players, densely, and by player id the place in that list. */
  readonly #ids = new Uint16Array(MAX_PLAYERS);
  readonly #places = new Int32Array(MAX_PLAYERS).fill(ABSENT);
  #playerCount = 0;
  /** Places below this one are still to be looked at. */
  #sweepPlace = 0;

  constructor(options: WorldOptions) {
    assert(options.matchPlayers >= 1 && options.matchPlayers <= MAX_WORLD_PLAYERS);
    this.#matchPlayers = options.matchPlayers;
    this.#forgetMs = options.forgetMs;
  }

  /** Live players. */
  get playerCount(): number {
    return this.#playerCount;
  }

  /** The id of live player number `place`, 0 <= place < playerCount, in no particular order. */
  playerIdAt(place: number): number {
    return this.#ids[place]!;
  }

  /** Moves a player, who is live from now on. @param nowMs a monotonic clock, the same as for `sweep` */
  update(update: PositionUpdate, nowMs: number): void {
    const { playerId } = update;
    if (this.#places[playerId] === ABSENT) {
      this.#places[playerId] = this.#playerCount;
      this.#ids[this.#playerCount++] = playerId;
    }
    this.#updatedMs[playerId] = nowMs;
    this.#positions[3 * playerId] = update.x;
    this.#positions[3 * playerId + 1] = update.y;
    this.#positions[3 * playerId + 2] = update.z;
  }

  /** Fills in the players of a live player's match: the player's own record, then the other live ones by id. */
  describeMatch(playerId: number, into: WorldState): void {
    const first = playerId - (playerId % this.#matchPlayers);
    const last = Math.min(first + this.#matchPlayers, MAX_PLAYERS) - 1;
    this.#describePlayer(playerId, into.players[0]!);
    let count = 1;
    for (let id = first; id <= last; id++) {
      if (id !== playerId && this.#places[id] !== ABSENT) this.#describePlayer(id, into.players[count++]!);
    }
    into.count = count;
  }

  /**
   * Forgets silent players. One call looks at SWEEP_BUDGET of them, the next one goes on from there. It goes downwards:
   * forgetting moves the last player into the gap, and that one has been looked at.
   */
  sweep(nowMs: number): void {
    if (this.#sweepPlace === 0) this.#sweepPlace = this.#playerCount;
    const end = Math.max(0, this.#sweepPlace - SWEEP_BUDGET);
    while (this.#sweepPlace > end) {
      const place = --this.#sweepPlace;
      const silentMs = nowMs - this.#updatedMs[this.#ids[place]!]!;
      if (silentMs >= this.#forgetMs) this.#forget(place);
    }
  }

  #describePlayer(playerId: number, into: PositionUpdate): void {
    into.playerId = playerId;
    into.x = this.#positions[3 * playerId]!;
    into.y = this.#positions[3 * playerId + 1]!;
    into.z = this.#positions[3 * playerId + 2]!;
  }

  #forget(place: number): void {
    const lastId = this.#ids[--this.#playerCount]!;
    this.#places[this.#ids[place]!] = ABSENT;
    if (place === this.#playerCount) return;
    this.#ids[place] = lastId;
    this.#places[lastId] = place;
  }
}
