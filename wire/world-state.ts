/**
 * The world state: a game server's answer, the positions of one match.
 *
 * Layout, 22 to 1,198 bytes, big-endian:
 *
 *   offset   size  field
 *        0      2  serverId     u16
 *        2      4  tick         u32
 *        6      2  playerCount  u16, 1 to 85
 *        8  14 * n  players     position updates (position-update.ts), the addressed player's own record first
 *
 * The length says nothing that playerCount does not: any other length is malformed.
 */
import assert from 'node:assert/strict';
import { readU16, readU32, writeU16, writeU32 } from './big-endian.ts';
import type { PositionUpdate } from './position-update.ts';
import {
  POSITION_UPDATE_BYTES,
  createPositionUpdate,
  encodePositionUpdate,
  readPositionRecord,
} from './position-update.ts';

export const WORLD_HEADER_BYTES = 8;

/** The bound that keeps a world state in one packet on every path: IPv6's 1,280 less the headers, and a tunnel. */
export const MAX_WORLD_BYTES = 1_200;

/** Records of 14 bytes that fit: 85. */
export const MAX_WORLD_PLAYERS = Math.floor((MAX_WORLD_BYTES - WORLD_HEADER_BYTES) / POSITION_UPDATE_BYTES);

/** Server ids are 0 to this. */
export const MAX_SERVER_ID = 0xffff;

/** Ticks are 0 to this, then 0 again. */
export const MAX_TICK = 0xffff_ffff;

export interface WorldState {
  serverId: number;
  tick: number;
  /** Records of `players` that count, 1 to MAX_WORLD_PLAYERS. The rest is left over from earlier messages. */
  count: number;
  /** MAX_WORLD_PLAYERS records, made once and overwritten in place. The addressed player's own is the first. */
  readonly players: readonly PositionUpdate[];
}

/** A world state to decode into or to fill and send, over and over. */
export function createWorldState(): WorldState {
  const players = Array.from({ length: MAX_WORLD_PLAYERS }, createPositionUpdate);
  return { serverId: 0, tick: 0, count: 0, players };
}

/** The size of a binary world state with `count` players. */
export function worldStateBytes(count: number): number {
  return WORLD_HEADER_BYTES + count * POSITION_UPDATE_BYTES;
}

/** Writes a world state at the start of `out`. @returns its length in bytes */
export function encodeWorldState(world: WorldState, out: Uint8Array): number {
  const { count } = world;
  const length = worldStateBytes(count);
  assert(count >= 1 && count <= MAX_WORLD_PLAYERS, 'a world state has 1 to 85 players');
  assert(out.length >= length, 'no room for the world state');
  writeU16(out, 0, world.serverId);
  writeU32(out, 2, world.tick);
  writeU16(out, 6, count);
  for (let i = 0; i < count; i++) encodePositionUpdate(world.players[i]!, out, worldStateBytes(i));
  return length;
}

/**
 * Reads a datagram that should be one world state.
 *
 * @returns false, with `into` undefined in content, for a length over 1,200 bytes or other than playerCount's, for no
 *   player at all, and for a coordinate that is no finite number
 */
export function decodeWorldState(bytes: Uint8Array, length: number, into: WorldState): boolean {
  if (length < worldStateBytes(1) || length > MAX_WORLD_BYTES) return false;
  const count = readU16(bytes, 6);
  if (length !== worldStateBytes(count)) return false;
  into.serverId = readU16(bytes, 0);
  into.tick = readU32(bytes, 2);
  into.count = count;
  for (let i = 0; i < count; i++) {
    if (!readPositionRecord(bytes, worldStateBytes(i), into.players[i]!)) return false;
  }
  return true;
}
