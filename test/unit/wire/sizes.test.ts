import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { CODECS, CODEC_NAMES } from '../../../wire/codec.ts';
import { createWorldState } from '../../../wire/world-state.ts';

const document = readFileSync(new URL('../../../docs/wire-format.md', import.meta.url), 'utf8');

test.each(CODEC_NAMES)('docs/wire-format.md states the sizes that the %s codec has', (name) => {
  const codec = CODECS[name];
  const world = createWorldState();
  Object.assign(world, { serverId: 3, tick: 123_456, count: 10 });
  world.players.forEach((player, i) =>
    Object.assign(player, {
      playerId: 42 + i,
      x: Math.fround(12.34 + 3.7 * i),
      y: Math.fround(-56.78 + 1.3 * i),
      z: Math.fround(1.85),
    }),
  );
  const update = codec.encodeUpdate(world.players[0]!, new Uint8Array(codec.maxUpdateBytes));
  const state = codec.encodeWorld(world, new Uint8Array(codec.maxWorldBytes));
  const sizes = [update, state, codec.maxUpdateBytes, codec.maxWorldBytes];

  const row = document
    .split('\n')
    .find((line) => new RegExp(`^\\| \`${name}\` +\\| +[\\d,]+ \\|`).test(line));
  expect(row?.match(/[\d,]+/g)).toEqual(sizes.map((size) => size.toLocaleString('en-US')));
});
