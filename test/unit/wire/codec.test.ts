import { describe, expect, test } from 'vitest';
import fc from 'fast-check';
import { encode } from '@msgpack/msgpack';
import { CODECS, CODEC_NAMES } from '../../../wire/codec.ts';
import type { PositionUpdate } from '../../../wire/position-update.ts';
import { createPositionUpdate } from '../../../wire/position-update.ts';
import type { WorldState } from '../../../wire/world-state.ts';
import { MAX_WORLD_PLAYERS, createWorldState } from '../../../wire/world-state.ts';

const ascii = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'latin1'));

const coordinate = fc.float({ noNaN: true, noDefaultInfinity: true });
const update = fc.record({
  playerId: fc.integer({ min: 0, max: 65_535 }),
  x: coordinate,
  y: coordinate,
  z: coordinate,
});
const world = fc
  .record({
    serverId: fc.integer({ min: 0, max: 65_535 }),
    tick: fc.integer({ min: 0, max: 0xffff_ffff }),
    players: fc.array(update, { minLength: 1, maxLength: MAX_WORLD_PLAYERS }),
  })
  .map((parts): WorldState => ({ ...parts, count: parts.players.length }));

/** The float32 values that are easiest to lose. */
const AWKWARD: PositionUpdate[] = [
  { playerId: 0, x: -0, y: 0, z: -0 },
  { playerId: 65_535, x: 2 ** -149, y: -(2 ** -149), z: 1.1754942106924411e-38 },
  { playerId: 1, x: 3.4028234663852886e38, y: -3.4028234663852886e38, z: Math.fround(1e20) },
  { playerId: 2, x: Math.fround(0.1), y: Math.fround(1 / 3), z: 16_777_216 },
  { playerId: 3, x: Math.fround(-1.1754943e-6), y: Math.fround(-1.1754943e-7), z: Math.fround(123456.789) },
];

describe.each(CODEC_NAMES)('the %s codec', (name) => {
  const codec = CODECS[name];
  const updateBytes = new Uint8Array(codec.maxUpdateBytes);
  const worldBytes = new Uint8Array(codec.maxWorldBytes);

  const roundTripUpdate = (value: PositionUpdate): PositionUpdate => {
    const into = createPositionUpdate();
    expect(codec.decodeUpdate(updateBytes, codec.encodeUpdate(value, updateBytes), into)).toBe(true);
    return into;
  };

  test('goes by its own name', () => {
    expect(codec.name).toBe(name);
  });

  test.each(AWKWARD)('carries the float32 values of $x $y $z exactly', (value) => {
    expect(roundTripUpdate(value)).toStrictEqual(value);
  });

  test('rounds a double to the nearest float32', () => {
    expect(roundTripUpdate({ playerId: 1, x: 0.1, y: 1 / 3, z: 12.3 }).x).toBe(Math.fround(0.1));
  });

  test('brings every update back exactly, in no more bytes than it promises', () => {
    fc.assert(
      fc.property(update, (value) => {
        expect(roundTripUpdate(value)).toStrictEqual({ ...value });
      }),
    );
  });

  test('brings every world state back exactly, in no more bytes than it promises', () => {
    fc.assert(
      fc.property(world, (value) => {
        const into = createWorldState();
        expect(codec.decodeWorld(worldBytes, codec.encodeWorld(value, worldBytes), into)).toBe(true);
        const { serverId, tick, count } = into;
        expect({ serverId, tick, count, players: into.players.slice(0, count) }).toStrictEqual({
          serverId: value.serverId,
          tick: value.tick,
          count: value.count,
          players: value.players.map((player) => ({ ...player })),
        });
      }),
      { numRuns: 30 },
    );
  });

  test('has room for the longest numbers in every record', () => {
    const full = createWorldState();
    Object.assign(full, { serverId: 65_535, tick: 0xffff_ffff, count: MAX_WORLD_PLAYERS });
    for (const player of full.players)
      Object.assign(player, { playerId: 65_535, x: -0, y: Math.fround(-1.1754943e-6) });
    expect(codec.encodeWorld(full, worldBytes)).toBeLessThanOrEqual(codec.maxWorldBytes);
  });

  test('takes no update for a world state and no world state for an update', () => {
    const value = createWorldState();
    value.count = 1;
    expect(codec.decodeWorld(updateBytes, codec.encodeUpdate(AWKWARD[3]!, updateBytes), value)).toBe(false);
    const length = codec.encodeWorld(value, worldBytes);
    expect(codec.decodeUpdate(worldBytes, length, createPositionUpdate())).toBe(false);
  });

  test('refuses an update truncated at any length', () => {
    const length = codec.encodeUpdate(AWKWARD[3]!, updateBytes);
    for (let cut = 0; cut < length; cut++) {
      expect(codec.decodeUpdate(updateBytes, cut, createPositionUpdate()), `${cut} bytes`).toBe(false);
    }
  });

  test('refuses a world state truncated at any length', () => {
    const value = createWorldState();
    value.count = 2;
    const length = codec.encodeWorld(value, worldBytes);
    for (let cut = 0; cut < length; cut++) {
      expect(codec.decodeWorld(worldBytes, cut, createWorldState()), `${cut} bytes`).toBe(false);
    }
  });

  test('refuses 65,507 bytes', () => {
    const bytes = new Uint8Array(65_507).fill(0x5b);
    expect(codec.decodeUpdate(bytes, bytes.length, createPositionUpdate())).toBe(false);
    expect(codec.decodeWorld(bytes, bytes.length, createWorldState())).toBe(false);
  });

  test('never throws, whatever arrives, and still works afterwards', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        codec.decodeUpdate(bytes, bytes.length, createPositionUpdate());
        codec.decodeWorld(bytes, bytes.length, createWorldState());
      }),
      { numRuns: 500 },
    );
    expect(roundTripUpdate(AWKWARD[2]!)).toStrictEqual(AWKWARD[2]);
  });

  test('never throws for a valid message with bytes changed', () => {
    const change = fc.tuple(fc.nat(1000), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(world, fc.array(change, { minLength: 1, maxLength: 4 }), (value, changes) => {
        const length = codec.encodeWorld(value, worldBytes);
        for (const [at, byte] of changes) worldBytes[at % length] = byte;
        codec.decodeWorld(worldBytes, length, createWorldState());
      }),
      { numRuns: 50 },
    );
  });
});

describe('the json codec', () => {
  const decodes = (text: string): boolean =>
    CODECS.json.decodeUpdate(ascii(text), text.length, createPositionUpdate());

  test('writes what a JavaScript game would write', () => {
    const out = new Uint8Array(CODECS.json.maxUpdateBytes);
    const length = CODECS.json.encodeUpdate({ playerId: 7, x: 1.5, y: -2, z: -0 }, out);
    expect(Buffer.from(out.subarray(0, length)).toString()).toBe('{"playerId":7,"x":1.5,"y":-2,"z":-0}');
  });

  test('reads keys in any order', () => {
    expect(decodes('{"z":0,"y":0,"x":0,"playerId":0}')).toBe(true);
  });

  test.each([
    '{"playerId":65536,"x":0,"y":0,"z":0}',
    '{"playerId":-1,"x":0,"y":0,"z":0}',
    '{"playerId":1.5,"x":0,"y":0,"z":0}',
    '{"playerId":"1","x":0,"y":0,"z":0}',
    '{"playerId":1,"x":3.5e38,"y":0,"z":0}',
    '{"playerId":1,"x":1e999,"y":0,"z":0}',
    '{"playerId":1,"x":null,"y":0,"z":0}',
    '{"playerId":1,"x":0,"y":0}',
    '{"playerId":1,"x":0,"y":0,"z":0,"w":0}',
    '{"playerId":1,"x":0,"y":0,"__proto__":{"z":0}}',
    '{"playerId":1,"x":0,"y":0,"z":0,}',
    '[1,0,0,0]',
    'null',
    '[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[',
  ])('refuses %s', (text) => {
    expect(decodes(text)).toBe(false);
  });

  test('leaves the prototype of everything alone', () => {
    decodes('{"__proto__":{"polluted":1}}');
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  test.each([
    '{"serverId":1,"tick":0,"players":[]}',
    '{"serverId":1,"tick":4294967296,"players":[{"playerId":0,"x":0,"y":0,"z":0}]}',
    '{"serverId":1,"tick":0,"players":{"playerId":0,"x":0,"y":0,"z":0}}',
    '{"serverId":1,"tick":0,"players":[null]}',
  ])('refuses the world state %s', (text) => {
    expect(CODECS.json.decodeWorld(ascii(text), text.length, createWorldState())).toBe(false);
  });
});

describe('the msgpack codec', () => {
  const decodes = (bytes: Uint8Array): boolean =>
    CODECS.msgpack.decodeUpdate(bytes, bytes.length, createPositionUpdate());

  test('writes a map with float32 coordinates', () => {
    const out = new Uint8Array(CODECS.msgpack.maxUpdateBytes);
    const length = CODECS.msgpack.encodeUpdate({ playerId: 300, x: 1.5, y: -2.5, z: 0.5 }, out);
    expect(Buffer.from(out.subarray(0, length)).toString('hex')).toBe(
      '84' + 'a8706c617965724964' + 'cd012c' + 'a178ca3fc00000' + 'a179cac0200000' + 'a17aca3f000000',
    );
  });

  test.each([
    ['nested beyond reason', new Uint8Array(50).fill(0x91)],
    ['an array that claims 4,294,967,295 elements', ascii('\xdd\xff\xff\xff\xff')],
    ['a map that claims 65,535 entries', ascii('\xde\xff\xff')],
    ['a string that claims 4 GiB', ascii('\xdb\xff\xff\xff\xff')],
    ['an extension', ascii('\xd6\xff\x00\x00\x00\x00')],
    ['the key __proto__', encode({ ['__proto__']: 1, x: 0, y: 0, z: 0 })],
    ['a further key', encode({ playerId: 1, x: 0, y: 0, z: 0, w: 0 })],
    ['a string where a number belongs', encode({ playerId: 1, x: '0', y: 0, z: 0 })],
    ['a NaN', encode({ playerId: 1, x: NaN, y: 0, z: 0 })],
    ['a double beyond float32', encode({ playerId: 1, x: 3.5e38, y: 0, z: 0 })],
    [
      'bytes after the end',
      ascii(`${Buffer.from(encode({ playerId: 1, x: 0, y: 0, z: 0 })).toString('latin1')}\0`),
    ],
  ])('refuses %s', (_, bytes) => {
    expect(decodes(bytes)).toBe(false);
  });
});

describe('the http codec', () => {
  const out = new Uint8Array(CODECS.http.maxUpdateBytes);
  const sample = { playerId: 42, x: Math.fround(12.34), y: Math.fround(-56.78), z: Math.fround(9.1) };
  const request = Buffer.from(out.subarray(0, CODECS.http.encodeUpdate(sample, out))).toString();
  const decodes = (text: string): boolean =>
    CODECS.http.decodeUpdate(ascii(text), text.length, createPositionUpdate());

  test('sends an update of about 300 bytes', () => {
    expect(request.length).toBeGreaterThan(270);
    expect(request.length).toBeLessThan(330);
  });

  test('sends a request line, the host, the content, its length and a bearer token', () => {
    expect(request).toMatch(/^POST \/v1\/players\/position HTTP\/1\.1\r\n/);
    expect(request).toMatch(/\r\nHost: \S+\r\n/);
    expect(request).toMatch(/\r\nContent-Type: application\/json\r\n/);
    expect(request).toMatch(/\r\nAuthorization: Bearer \S{64}\r\n/);
    expect(Number(/\r\nContent-Length: (\d+)\r\n/.exec(request)?.[1])).toBe(
      request.split('\r\n\r\n')[1]?.length,
    );
  });

  test('reads headers in any case, and further ones', () => {
    expect(decodes(request.replace('Host:', 'hOsT:').replace('\r\n\r\n', '\r\nAccept: */*\r\n\r\n'))).toBe(
      true,
    );
  });

  test.each([
    ['no token', request.replace(/Authorization: .*\r\n/, '')],
    ['an empty token', request.replace(/Bearer \S+/, 'Bearer ')],
    ['no host', request.replace(/Host: .*\r\n/, '')],
    ['another content type', request.replace('application/json', 'text/plain')],
    ['a longer content than stated', `${request} `],
    ['the content length twice', request.replace(/(Content-Length: \d+\r\n)/, '$1$1')],
    ['another method', request.replace('POST', 'GET')],
    ['a line that is no header', request.replace('Host:', 'Host')],
    ['bare line feeds', request.replaceAll('\r\n', '\n')],
  ])('refuses %s', (_, text) => {
    expect(decodes(text)).toBe(false);
  });
});
