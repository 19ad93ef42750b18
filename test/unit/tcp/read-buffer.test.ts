import { expect, test } from 'vitest';
import { ReadBuffer } from '../../../relay/tcp/streams/read-buffer.ts';

/** Reads `count` bytes of this value, as the system would. @returns what is handed on */
function read(buffer: ReadBuffer, count: number, value: number): Buffer {
  buffer.target.fill(value, 0, count);
  return buffer.take(count);
}

test('connections that say little share one buffer, and keep what they read', () => {
  const [one, two] = [new ReadBuffer(), new ReadBuffer()];
  expect(one.target).toBe(two.target);
  const first = read(one, 300, 1);
  one.settle(300, true);
  const second = read(two, 300, 2);
  expect(first.equals(Buffer.alloc(300, 1))).toBe(true);
  expect(second.equals(Buffer.alloc(300, 2))).toBe(true);
});

test('one that has much to say gets a buffer of its own, and gives it back when it is quiet', () => {
  const [busy, quiet] = [new ReadBuffer(), new ReadBuffer()];
  busy.settle(16 * 1024, false);
  const own = busy.target;
  expect(own).not.toBe(quiet.target);
  expect(own).toHaveLength(128 * 1024);
  expect(read(busy, 50_000, 3).buffer).toBe(own.buffer);
  busy.settle(50_000, false);
  expect(busy.target).toBe(own);
  busy.settle(4 * 1024, false);
  expect(busy.target).toBe(quiet.target);
});

test('a buffer whose bytes are still wanted is left alone', () => {
  const buffer = new ReadBuffer();
  buffer.settle(16 * 1024, false);
  const waiting = read(buffer, 10_000, 4);
  buffer.settle(10_000, true);
  read(buffer, 128 * 1024, 5);
  expect(waiting.equals(Buffer.alloc(10_000, 4))).toBe(true);
});
