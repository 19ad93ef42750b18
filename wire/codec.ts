/**
 * The two messages in four encodings, so that the cost of each can be measured on the same traffic. Binary is what the
 * game speaks; the others are what it might have spoken. A new codec is one file and one line in the table below.
 */
import { binaryCodec } from './binary-codec.ts';
import { httpCodec } from './http-codec.ts';
import { jsonCodec } from './json-codec.ts';
import { msgpackCodec } from './msgpack-codec.ts';
import type { PositionUpdate } from './position-update.ts';
import type { WorldState } from './world-state.ts';

export const CODEC_NAMES = ['binary', 'msgpack', 'json', 'http'] as const;
export type CodecName = (typeof CODEC_NAMES)[number];

/**
 * Encoders write at the start of `out`, which has room for the codec's largest message, and return the length in bytes.
 * Decoders read `length` bytes from the start of `bytes` and return false, never throw, for anything malformed; `into`
 * is then undefined in content. All four carry float32 values exactly: a double comes out as the nearest float32.
 */
export interface Codec {
  readonly name: CodecName;
  /** No update is longer, in bytes. Longer input is malformed. */
  readonly maxUpdateBytes: number;
  /** No world state is longer, in bytes. Longer input is malformed. */
  readonly maxWorldBytes: number;
  encodeUpdate(update: PositionUpdate, out: Uint8Array): number;
  decodeUpdate(bytes: Uint8Array, length: number, into: PositionUpdate): boolean;
  encodeWorld(world: WorldState, out: Uint8Array): number;
  decodeWorld(bytes: Uint8Array, length: number, into: WorldState): boolean;
}

export const CODECS: Readonly<Record<CodecName, Codec>> = {
  binary: binaryCodec,
  msgpack: msgpackCodec,
  json: jsonCodec,
  http: httpCodec,
};
