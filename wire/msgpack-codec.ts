/**
 * The messages as MessagePack maps with the same keys as the JSON ones. Coordinates are float32, or integers where they
 * are whole, as the library's encoder chooses.
 */
import { Decoder, Encoder } from '@msgpack/msgpack';
import type { Codec } from './codec.ts';
import { readUpdateShape, readWorldShape } from './message-shape.ts';
import type { PositionUpdate } from './position-update.ts';
import type { WorldState } from './world-state.ts';
import { MAX_WORLD_PLAYERS } from './world-state.ts';

/** A map of four: 1 byte, keys of 9 + 2 + 2 + 2, four numbers of at most 9. */
const MAX_UPDATE_BYTES = 1 + 15 + 4 * 9;

/** A map of three: 1 byte, keys of 9 + 5 + 8, two numbers, an array's header of 3, the players. */
const MAX_WORLD_BYTES = 1 + 22 + 2 * 9 + 3 + MAX_WORLD_PLAYERS * MAX_UPDATE_BYTES;

const encoder = new Encoder({ forceFloat32: true });

/** Writes every number as float64. Needed for -0, which the encoder above takes for the integer 0. */
const wideEncoder = new Encoder({ forceIntegerToFloat: true });

/** Nothing in the messages is longer or wider; the decoder itself refuses the key `__proto__`. */
const decoder = new Decoder({
  maxStrLength: 'playerId'.length,
  maxBinLength: 0,
  maxArrayLength: MAX_WORLD_PLAYERS,
  maxMapLength: 4,
  maxExtLength: 0,
});

export const msgpackCodec: Codec = {
  name: 'msgpack',
  maxUpdateBytes: MAX_UPDATE_BYTES,
  maxWorldBytes: MAX_WORLD_BYTES,

  encodeUpdate(update, out) {
    return pack(plainUpdate(update), hasNegativeZero(update), out);
  },
  decodeUpdate: (bytes, length, into) =>
    length <= MAX_UPDATE_BYTES && readUpdateShape(unpack(bytes, length), into),

  encodeWorld({ serverId, tick, count, players }, out) {
    const counted = players.slice(0, count);
    const value = { serverId, tick, players: counted.map(plainUpdate) };
    return pack(value, counted.some(hasNegativeZero), out);
  },
  decodeWorld: (bytes: Uint8Array, length: number, into: WorldState) =>
    length <= MAX_WORLD_BYTES && readWorldShape(unpack(bytes, length), into),
};

function pack(value: unknown, isWide: boolean, out: Uint8Array): number {
  const packed = (isWide ? wideEncoder : encoder).encodeSharedRef(value);
  out.set(packed);
  return packed.length;
}

function unpack(bytes: Uint8Array, length: number): unknown {
  try {
    return decoder.decode(bytes.subarray(0, length));
  } catch {
    return undefined;
  }
}

function plainUpdate({ playerId, x, y, z }: PositionUpdate): PositionUpdate {
  return { playerId, x, y, z };
}

function hasNegativeZero({ x, y, z }: PositionUpdate): boolean {
  return Object.is(x, -0) || Object.is(y, -0) || Object.is(z, -0);
}
