import { expect, test } from 'vitest';
import {
  decodeLogin,
  decodeLoginAnswer,
  encodeLogin,
  encodeLoginAnswer,
  MAX_LOGIN_BYTES,
  stubCredentials,
} from '../../../wire/login.ts';

test('a login is one line, which reads back', () => {
  expect(encodeLogin({ name: 'player-7', password: 'secret-7' })).toBe('LOGIN player-7 secret-7\n');
  expect(decodeLogin('LOGIN player-7 secret-7')).toEqual({ name: 'player-7', password: 'secret-7' });
  expect(encodeLogin(stubCredentials(65_535)).length).toBeLessThanOrEqual(MAX_LOGIN_BYTES);
});

test.each([
  '',
  'LOGIN',
  'LOGIN a',
  'LOGIN a b c',
  'LOGIN  a b',
  'login a b',
  'LOGIN a b\r',
  'LOGIN a \x7f',
  'LOGIN a \xe9',
  'GET / HTTP/1.1',
])('is no login: %j', (line) => {
  expect(decodeLogin(line)).toBeUndefined();
});

test.each([
  [0, 'WELCOME 0\n'],
  [65_535, 'WELCOME 65535\n'],
  ['denied', 'DENIED\n'],
  ['unavailable', 'UNAVAILABLE\n'],
] as const)('the answer %s reads back', (answer, line) => {
  expect(encodeLoginAnswer(answer)).toBe(line);
  expect(decodeLoginAnswer(line.slice(0, -1))).toBe(answer);
});

test.each(['', 'WELCOME', 'WELCOME 65536', 'WELCOME -1', 'WELCOME 1 2', 'welcome 1', 'DENIED '])(
  'is no answer: %j',
  (line) => {
    expect(decodeLoginAnswer(line)).toBeUndefined();
  },
);
