/** How much of what goes wrong the log has. */
import { beforeEach, expect, test } from 'vitest';
import { TroubleLog } from '../../../relay/trouble-log.ts';

let lines: unknown[];
let nowMs: number;
let log: TroubleLog;

beforeEach(() => {
  lines = [];
  nowMs = 1_000;
  const warn = (first: unknown): void => {
    lines.push(typeof first === 'string' ? first : (first as { err: Error }).err.message);
  };
  log = new TroubleLog({ warn }, () => nowMs);
});

test('different troubles of one moment are all told, each once', () => {
  for (const text of ['backend a', 'backend b', 'backend a', 'backend c']) log.add(new Error(text));
  expect(lines).toEqual(['backend a', 'backend b', 'backend c']);
});

test('one that goes on is told every 10 s', () => {
  for (; nowMs < 26_000; nowMs += 100) log.add(new Error('send: ENOBUFS'));
  expect(lines).toEqual(['send: ENOBUFS', 'send: ENOBUFS', 'send: ENOBUFS']);
});

test('of many different ones 20 are told, and that there were more', () => {
  for (let i = 0; i < 100; i++) log.add(new Error(`trouble ${i}`));
  expect(lines).toHaveLength(21);
  expect(lines[19]).toBe('trouble 19');
  expect(lines[20]).toBe('more than 20 different troubles in 10 s; the others are not told');
  nowMs += 10_000;
  log.add(new Error('later'));
  expect(lines.at(-1)).toBe('later');
});
