/** Encoding and decoding the binary messages allocate nothing: the heap may not grow by a fraction of the smallest object each. */
import { expect, test } from 'vitest';
import {
  createPositionUpdate,
  decodePositionUpdate,
  encodePositionUpdate,
  POSITION_UPDATE_BYTES,
  type PositionUpdate,
} from '../../../wire/position-update.ts';
import {
  createWorldState,
  decodeWorldState,
  encodeWorldState,
  MAX_WORLD_BYTES,
  type WorldState,
} from '../../../wire/world-state.ts';
import { bytesPerCall, CALLS, MOST_BYTES_EACH } from '../../support/heap-growth.ts';

const MESSAGES = 64;
const MATCH = 10;

test('a position update', () => {
  const updates = Array.from({ length: MESSAGES }, (_, i) => position(i));
  const received = createPositionUpdate();
  const bytes = new Uint8Array(POSITION_UPDATE_BYTES);
  let decoded = 0;
  const grown = bytesPerCall((i) => {
    encodePositionUpdate(updates[i % MESSAGES]!, bytes);
    if (decodePositionUpdate(bytes, POSITION_UPDATE_BYTES, received)) decoded++;
  });
  expect(grown).toBeLessThan(MOST_BYTES_EACH);
  expect(decoded).toBe(2 * CALLS);
  expect(received).toEqual(updates[(CALLS - 1) % MESSAGES]);
});

test('a world state', () => {
  const worlds = Array.from({ length: MESSAGES }, (_, i) => world(i));
  const received = createWorldState();
  const bytes = new Uint8Array(MAX_WORLD_BYTES);
  let decoded = 0;
  const grown = bytesPerCall((i) => {
    const length = encodeWorldState(worlds[i % MESSAGES]!, bytes);
    if (decodeWorldState(bytes, length, received)) decoded++;
  });
  expect(grown).toBeLessThan(MOST_BYTES_EACH);
  expect(decoded).toBe(2 * CALLS);
  expect(received).toEqual(worlds[(CALLS - 1) % MESSAGES]);
});

function position(i: number): PositionUpdate {
  return { playerId: i, x: i + 0.5, y: -i - 0.25, z: i / 64 };
}

function world(i: number): WorldState {
  const state = createWorldState();
  Object.assign(state, { serverId: 7, tick: i, count: MATCH });
  for (let player = 0; player < MATCH; player++) Object.assign(state.players[player]!, position(i + player));
  return state;
}
