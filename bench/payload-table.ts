/**
 * What each encoding costs: bytes on the wire and time at both ends, for the two messages of the game. The messages
 * are those of a match of ten, with positions as a game has them, all digits of a float32.
 */
import { CODEC_NAMES, CODECS, type Codec } from '../wire/codec.ts';
import { createPositionUpdate, type PositionUpdate } from '../wire/position-update.ts';
import { createWorldState, type WorldState } from '../wire/world-state.ts';
import type { PayloadRow } from './results.ts';
import { timeInTurns, type StopwatchOptions, type TimedPiece } from './stopwatch.ts';

export const MATCH_PLAYERS = 10;
/** IPv4 header without options (RFC 791) and UDP header (RFC 768), in bytes. */
export const HEADER_BYTES = 20 + 8;

/** Different messages that take turns, so that no run sees the same bytes again and again. A power of two. */
const SAMPLES = 64;

interface Encoded {
  readonly bytes: Uint8Array;
  readonly length: number;
}

export interface PayloadTableOptions extends StopwatchOptions {
  readonly tickHz: number;
}

export function measurePayloadTable({ tickHz, ...stopwatch }: PayloadTableOptions): PayloadRow[] {
  const updates = Array.from({ length: SAMPLES }, (_, i) => sampleUpdate(i));
  const worlds = Array.from({ length: SAMPLES }, (_, i) => sampleWorld(i));
  const lanes = CODEC_NAMES.map((name) => prepare(CODECS[name], updates, worlds));
  const times = timeInTurns(
    lanes.flatMap(({ pieces }) => pieces),
    stopwatch,
  );
  return lanes.map(({ codec, updateBytes, worldStateBytes }) => ({
    codec,
    updateBytes,
    worldStateBytes,
    encodeUpdateNs: times.get(`${codec} encode update`)!,
    decodeUpdateNs: times.get(`${codec} decode update`)!,
    encodeWorldStateNs: times.get(`${codec} encode world state`)!,
    decodeWorldStateNs: times.get(`${codec} decode world state`)!,
    matchMbitPerSecond: matchMbitPerSecond({ updateBytes, worldStateBytes, tickHz }),
  }));
}

/** Each of ten players sends one update and gets one world state in every tick, each in one datagram. */
export function matchMbitPerSecond(sizes: {
  readonly updateBytes: number;
  readonly worldStateBytes: number;
  readonly tickHz: number;
}): number {
  const bytesPerTick = MATCH_PLAYERS * (sizes.updateBytes + sizes.worldStateBytes + 2 * HEADER_BYTES);
  return (bytesPerTick * 8 * sizes.tickHz) / 1e6;
}

function prepare(codec: Codec, updates: readonly PositionUpdate[], worlds: readonly WorldState[]) {
  const encodedUpdates = updates.map((update) =>
    encode(codec.maxUpdateBytes, (out) => codec.encodeUpdate(update, out)),
  );
  const encodedWorlds = worlds.map((world) =>
    encode(codec.maxWorldBytes, (out) => codec.encodeWorld(world, out)),
  );
  const out = new Uint8Array(Math.max(codec.maxUpdateBytes, codec.maxWorldBytes));
  const update = createPositionUpdate();
  const world = createWorldState();
  const pieces: TimedPiece[] = [
    repeat(`${codec.name} encode update`, (i) => codec.encodeUpdate(updates[i]!, out)),
    repeat(`${codec.name} encode world state`, (i) => codec.encodeWorld(worlds[i]!, out)),
    repeat(`${codec.name} decode update`, (i) => {
      const { bytes, length } = encodedUpdates[i]!;
      return Number(codec.decodeUpdate(bytes, length, update)) * update.x;
    }),
    repeat(`${codec.name} decode world state`, (i) => {
      const { bytes, length } = encodedWorlds[i]!;
      return Number(codec.decodeWorld(bytes, length, world)) * world.players[MATCH_PLAYERS - 1]!.x;
    }),
  ];
  return {
    codec: codec.name,
    updateBytes: meanLength(encodedUpdates),
    worldStateBytes: meanLength(encodedWorlds),
    pieces,
  };
}

function repeat(name: string, once: (sample: number) => number): TimedPiece {
  const run = (iterations: number): number => {
    let sum = 0;
    for (let i = 0; i < iterations; i++) sum += once(i & (SAMPLES - 1));
    return sum;
  };
  return { name, run };
}

function encode(maxBytes: number, write: (out: Uint8Array) => number): Encoded {
  const out = new Uint8Array(maxBytes);
  const length = write(out);
  return { bytes: out.slice(0, length), length };
}

function meanLength(messages: readonly Encoded[]): number {
  return messages.reduce((sum, { length }) => sum + length, 0) / messages.length;
}

/** A position somewhere on a map of a kilometre, with all the digits that a float32 has. */
function sampleUpdate(seed: number): PositionUpdate {
  return {
    playerId: seed,
    x: Math.fround(512 * Math.sin(seed + 1)),
    y: Math.fround(512 * Math.cos(seed * 1.7 + 1)),
    z: Math.fround(16 * Math.sin(seed * 2.3 + 1)),
  };
}

function sampleWorld(seed: number): WorldState {
  const world = createWorldState();
  world.serverId = 1;
  world.tick = 100_000 + seed;
  world.count = MATCH_PLAYERS;
  for (let i = 0; i < MATCH_PLAYERS; i++)
    Object.assign(world.players[i]!, sampleUpdate(seed * MATCH_PLAYERS + i));
  return world;
}
