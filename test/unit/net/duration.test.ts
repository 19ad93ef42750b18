import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseDurationMs } from '../../../net/duration.ts';

test.each([
  ['0s', 0],
  ['500ms', 500],
  ['1.5s', 1_500],
  ['120s', 120_000],
  ['5m', 300_000],
  ['2h', 7_200_000],
  ['1 d', 86_400_000],
])('%s is %i ms', (text, ms) => {
  expect(parseDurationMs(text)).toBe(ms);
});

test.each([
  '',
  '5',
  's',
  '-5s',
  '5S',
  '5 seconds',
  '1e3s',
  '.5s',
  '5.s',
  '5s ',
  '5  s',
  '1h30m',
  'Infinitys',
  '9'.repeat(200) + 's',
])('%j is refused by name', (text) => {
  expect(() => parseDurationMs(text)).toThrow(`"${text}" is not a duration (like 500ms, 120s, 5m or 2h)`);
});

test('any whole number of a unit is that many of it', () => {
  const units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
  fc.assert(
    fc.property(fc.nat(100_000), fc.constantFrom('ms', 's', 'm', 'h', 'd'), (count, unit) => {
      expect(parseDurationMs(`${count}${unit}`)).toBe(count * units[unit]);
    }),
  );
});
