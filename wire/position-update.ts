/**
 * The position update: what a player sends 128 times a second, and one record of a world state.
 *
 * Layout, 14 bytes, big-endian (Python's struct format `!Hfff`):
 *
 *   offset  size  field
 *        0     2  playerId  u16
 *        2     4  x         f32
 *        6     4  y         f32
 *       10     4  z         f32
 *
 * There is no sequence number: whoever must know which update a world state reflects compares the position.
 */
import assert from 'node:assert/strict';
import { readI32, readU16, writeU16, writeU32 } from './big-endian.ts';

export const POSITION_UPDATE_BYTES = 14;

// The same bytes as three IEEE 754 singles and as signed integers: a double handed to a function, or returned by one, may
// be put on the heap where the call is not inlined; an integer of 32 bits is not.
const coordinates = new Float32Array(3);
const bits = new Int32Array(coordinates.buffer);

/** Player ids are 0 to this. */
export const MAX_PLAYER_ID = 0xffff;

export interface PositionUpdate {
  /** 0 to 65,535. */
  playerId: number;
  /** Metres from the map's origin, finite, of float32 precision; so are y and z. */
  x: number;
  y: number;
  z: number;
}

/** An update to decode into or to fill and send, over and over. */
export function createPositionUpdate(): PositionUpdate {
  return { playerId: 0, x: 0, y: 0, z: 0 };
}

/** Writes the 14 bytes at `out[at]`. @returns 14 */
export function encodePositionUpdate(update: PositionUpdate, out: Uint8Array, at = 0): number {
  assert(out.length >= at + POSITION_UPDATE_BYTES, 'no room for a position update');
  writeU16(out, at, update.playerId);
  coordinates[0] = update.x;
  coordinates[1] = update.y;
  coordinates[2] = update.z;
  for (let i = 0; i < 3; i++) writeU32(out, at + 2 + 4 * i, bits[i]!);
  return POSITION_UPDATE_BYTES;
}

/**
 * Reads a datagram that should be one position update.
 *
 * @returns false, with `into` undefined in content, for any other length and for a coordinate that is no finite number
 */
export function decodePositionUpdate(bytes: Uint8Array, length: number, into: PositionUpdate): boolean {
  return length === POSITION_UPDATE_BYTES && readPositionRecord(bytes, 0, into);
}

/** Reads the 14 bytes at `bytes[at]`, which must be there. @returns false for a coordinate that is no finite number */
export function readPositionRecord(bytes: Uint8Array, at: number, into: PositionUpdate): boolean {
  into.playerId = readU16(bytes, at);
  for (let i = 0; i < 3; i++) bits[i] = readI32(bytes, at + 2 + 4 * i);
  into.x = coordinates[0]!;
  into.y = coordinates[1]!;
  into.z = coordinates[2]!;
  return Number.isFinite(into.x) && Number.isFinite(into.y) && Number.isFinite(into.z);
}
