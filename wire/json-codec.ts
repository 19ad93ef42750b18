/**
 * The messages as JSON text. Numbers are printed as JavaScript prints them: the shortest text that reads back as the
 * same double, hence as the same float32.
 */
import type { Codec } from './codec.ts';
import { readAscii, writeAscii } from './ascii.ts';
import { readUpdateShape, readWorldShape } from './message-shape.ts';
import type { PositionUpdate } from './position-update.ts';
import type { WorldState } from './world-state.ts';
import { MAX_WORLD_PLAYERS } from './world-state.ts';

/** `{"playerId":65535,"x":,"y":,"z":}` and three numbers of at most 25 characters (-0.0000011754943508222875). */
const MAX_UPDATE_BYTES = 33 + 3 * 25;

/** `{"serverId":65535,"tick":4294967295,"players":[]}`, and a comma after each player. */
const MAX_WORLD_BYTES = 50 + MAX_WORLD_PLAYERS * (MAX_UPDATE_BYTES + 1);

export const jsonCodec: Codec = {
  name: 'json',
  maxUpdateBytes: MAX_UPDATE_BYTES,
  maxWorldBytes: MAX_WORLD_BYTES,
  encodeUpdate: (update, out) => writeAscii(formatUpdate(update), out),
  decodeUpdate: (bytes, length, into) =>
    length <= MAX_UPDATE_BYTES && parseUpdate(readAscii(bytes, length), into),
  encodeWorld: (world, out) => writeAscii(formatWorld(world), out),
  decodeWorld: (bytes, length, into) =>
    length <= MAX_WORLD_BYTES && parseWorld(readAscii(bytes, length), into),
};

export function formatUpdate({ playerId, x, y, z }: PositionUpdate): string {
  return `{"playerId":${playerId},"x":${formatCoordinate(x)},"y":${formatCoordinate(y)},"z":${formatCoordinate(z)}}`;
}

export function formatWorld({ serverId, tick, count, players }: WorldState): string {
  const records = players.slice(0, count).map(formatUpdate);
  return `{"serverId":${serverId},"tick":${tick},"players":[${records.join(',')}]}`;
}

/** @returns false when the text is not JSON, or not an update */
export function parseUpdate(text: string, into: PositionUpdate): boolean {
  return readUpdateShape(parse(text), into);
}

/** @returns false when the text is not JSON, or not a world state */
export function parseWorld(text: string, into: WorldState): boolean {
  return readWorldShape(parse(text), into);
}

/** JSON has a -0, but JSON.stringify does not write it. */
function formatCoordinate(value: number): string {
  return Object.is(value, -0) ? '-0' : String(value);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
