/**
 * The messages as plain values, as JSON and MessagePack parsers return them:
 *
 *   update  { playerId, x, y, z }
 *   world   { serverId, tick, players: [update, ...] }
 *
 * The checks are strict: exactly these keys, integers in range, coordinates that are finite as float32.
 */
import type { PositionUpdate } from './position-update.ts';
import { MAX_PLAYER_ID } from './position-update.ts';
import type { WorldState } from './world-state.ts';
import { MAX_SERVER_ID, MAX_TICK, MAX_WORLD_PLAYERS } from './world-state.ts';

const UPDATE_KEYS = ['playerId', 'x', 'y', 'z'] as const;
const WORLD_KEYS = ['serverId', 'tick', 'players'] as const;

/** Copies a parsed update. @returns false when it has another shape */
export function readUpdateShape(value: unknown, into: PositionUpdate): boolean {
  if (!hasExactly(value, UPDATE_KEYS)) return false;
  const { playerId, x, y, z } = value;
  if (!isInteger(playerId, MAX_PLAYER_ID) || !isCoordinate(x) || !isCoordinate(y) || !isCoordinate(z)) {
    return false;
  }
  into.playerId = playerId;
  into.x = Math.fround(x);
  into.y = Math.fround(y);
  into.z = Math.fround(z);
  return true;
}

/** Copies a parsed world state. @returns false when it has another shape */
export function readWorldShape(value: unknown, into: WorldState): boolean {
  if (!hasExactly(value, WORLD_KEYS)) return false;
  const { serverId, tick, players } = value;
  if (!isInteger(serverId, MAX_SERVER_ID) || !isInteger(tick, MAX_TICK) || !Array.isArray(players))
    return false;
  if (players.length < 1 || players.length > MAX_WORLD_PLAYERS) return false;
  into.serverId = serverId;
  into.tick = tick;
  into.count = players.length;
  return players.every((player, i) => readUpdateShape(player, into.players[i]!));
}

function hasExactly<Key extends string>(value: unknown, keys: readonly Key[]): value is Record<Key, unknown> {
  if (typeof value !== 'object' || value === null) return false;
  return Object.keys(value).length === keys.length && keys.every((key) => Object.hasOwn(value, key));
}

function isInteger(value: unknown, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max;
}

function isCoordinate(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(Math.fround(value));
}
