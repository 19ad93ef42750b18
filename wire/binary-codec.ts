/** The game's own encoding: 14 bytes for an update, 8 + 14 for each player of a world state. Allocates nothing. */
import type { Codec } from './codec.ts';
import { POSITION_UPDATE_BYTES, decodePositionUpdate, encodePositionUpdate } from './position-update.ts';
import { MAX_WORLD_BYTES, decodeWorldState, encodeWorldState } from './world-state.ts';

export const binaryCodec: Codec = {
  name: 'binary',
  maxUpdateBytes: POSITION_UPDATE_BYTES,
  maxWorldBytes: MAX_WORLD_BYTES,
  encodeUpdate: (update, out) => encodePositionUpdate(update, out),
  decodeUpdate: decodePositionUpdate,
  encodeWorld: encodeWorldState,
  decodeWorld: decodeWorldState,
};
