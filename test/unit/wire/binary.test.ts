import { describe, expect, test } from 'vitest';
import fc from 'fast-check';
import {
  createPositionUpdate,
  decodePositionUpdate,
  encodePositionUpdate,
} from '../../../wire/position-update.ts';
import {
  MAX_WORLD_PLAYERS,
  createWorldState,
  decodeWorldState,
  encodeWorldState,
} from '../../../wire/world-state.ts';

const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'));
const toHex = (bytes: Uint8Array, length = bytes.length): string =>
  Buffer.from(bytes.subarray(0, length)).toString('hex');

const UPDATE = 'abcd 3fc00000 c0200000 00000001';
const WORLD = `
  0102 00010203 0002
  abcd 3fc00000 c0200000 00000001
  0007 80000000 7f7fffff ff7fffff`;

describe('the position update', () => {
  test('is written as 14 big-endian bytes: u16 and three f32', () => {
    const out = new Uint8Array(14);
    const update = { playerId: 0xabcd, x: 1.5, y: -2.5, z: 2 ** -149 };
    expect(encodePositionUpdate(update, out)).toBe(14);
    expect(toHex(out)).toBe(toHex(hex(UPDATE)));
  });

  test('is written at an offset without touching the bytes around it', () => {
    const out = new Uint8Array(16).fill(0xee);
    encodePositionUpdate({ playerId: 1, x: 0, y: -0, z: 1 }, out, 1);
    expect(toHex(out)).toBe('ee000100000000800000003f800000ee');
  });

  test('is read back', () => {
    const into = createPositionUpdate();
    expect(decodePositionUpdate(hex(UPDATE), 14, into)).toBe(true);
    expect(into).toEqual({ playerId: 0xabcd, x: 1.5, y: -2.5, z: 2 ** -149 });
  });

  test('of any other length is malformed, the 15 bytes of `!HfffB` too', () => {
    const bytes = new Uint8Array(64);
    for (let length = 0; length <= bytes.length; length++) {
      expect(decodePositionUpdate(bytes, length, createPositionUpdate()), `${length} bytes`).toBe(
        length === 14,
      );
    }
  });

  test.each([
    ['infinity in x', '0000 7f800000 00000000 00000000'],
    ['minus infinity in y', '0000 00000000 ff800000 00000000'],
    ['a quiet NaN in z', '0000 00000000 00000000 7fc00000'],
    ['a signalling NaN in z', '0000 00000000 00000000 7f800001'],
  ])('with %s is malformed', (_, text) => {
    expect(decodePositionUpdate(hex(text), 14, createPositionUpdate())).toBe(false);
  });

  test('survives the round trip for every finite float32 bit pattern, bit by bit', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 14, maxLength: 14 }), (bytes) => {
        const into = createPositionUpdate();
        fc.pre(decodePositionUpdate(bytes, 14, into));
        const out = new Uint8Array(14);
        encodePositionUpdate(into, out);
        expect(toHex(out)).toBe(toHex(bytes));
      }),
    );
  });

  test('agrees with DataView about every field', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 14, maxLength: 14 }), (bytes) => {
        const into = createPositionUpdate();
        decodePositionUpdate(bytes, 14, into);
        const view = new DataView(bytes.buffer);
        const fields = [view.getUint16(0), view.getFloat32(2), view.getFloat32(6), view.getFloat32(10)];
        expect([into.playerId, into.x, into.y, into.z]).toEqual(fields);
      }),
    );
  });
});

describe('the world state', () => {
  test('is written as its header and the records in their order', () => {
    const world = createWorldState();
    Object.assign(world, { serverId: 0x0102, tick: 0x010203, count: 2 });
    Object.assign(world.players[0]!, { playerId: 0xabcd, x: 1.5, y: -2.5, z: 2 ** -149 });
    Object.assign(world.players[1]!, {
      playerId: 7,
      x: -0,
      y: 3.4028234663852886e38,
      z: -3.4028234663852886e38,
    });
    const out = new Uint8Array(1200);
    expect(encodeWorldState(world, out)).toBe(36);
    expect(toHex(out, 36)).toBe(toHex(hex(WORLD)));
  });

  test('is read back', () => {
    const into = createWorldState();
    expect(decodeWorldState(hex(WORLD), 36, into)).toBe(true);
    expect(into).toMatchObject({ serverId: 0x0102, tick: 0x010203, count: 2 });
    expect(into.players.slice(0, 2)).toEqual([
      { playerId: 0xabcd, x: 1.5, y: -2.5, z: 2 ** -149 },
      { playerId: 7, x: -0, y: 3.4028234663852886e38, z: -3.4028234663852886e38 },
    ]);
  });

  test('has a tick of 32 bits', () => {
    const into = createWorldState();
    expect(decodeWorldState(hex('0000 ffffffff 0001 0000 00000000 00000000 00000000'), 22, into)).toBe(true);
    expect(into.tick).toBe(4_294_967_295);
  });

  test('truncated at any length is malformed, and so is one that is too long', () => {
    const bytes = new Uint8Array(64);
    bytes.set(hex(WORLD));
    for (let length = 0; length <= bytes.length; length++) {
      expect(decodeWorldState(bytes, length, createWorldState()), `${length} bytes`).toBe(length === 36);
    }
  });

  test.each([
    ['no player', '0001 00000000 0000'],
    ['no player and a record', '0001 00000000 0000 0000 00000000 00000000 00000000'],
    ['a record fewer than it counts', '0001 00000000 0002 0000 00000000 00000000 00000000'],
    ['65,535 players in 22 bytes', '0001 00000000 ffff 0000 00000000 00000000 00000000'],
    ['a NaN in its record', '0001 00000000 0001 0000 00000000 7fc00000 00000000'],
  ])('with %s is malformed', (_, text) => {
    const bytes = hex(text);
    expect(decodeWorldState(bytes, bytes.length, createWorldState())).toBe(false);
  });

  test('holds 85 players in 1,198 bytes, and 86 are malformed', () => {
    const world = createWorldState();
    world.count = MAX_WORLD_PLAYERS;
    const out = new Uint8Array(1200);
    expect(encodeWorldState(world, out)).toBe(1198);
    expect(decodeWorldState(out, 1198, createWorldState())).toBe(true);

    const longer = new Uint8Array(8 + 86 * 14);
    longer[7] = 86;
    expect(decodeWorldState(longer, longer.length, createWorldState())).toBe(false);
  });

  test('cannot be written with no player or with more than 85', () => {
    const out = new Uint8Array(2000);
    for (const count of [0, 86]) {
      expect(() => encodeWorldState({ ...createWorldState(), count }, out)).toThrow('1 to 85');
    }
  });
});
