import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { refill, TokenBucket } from '../../../relay/core/token-bucket.ts';
import { NaiveTokenBucket } from '../../support/naive-token-bucket.ts';

/** How many of `count` takes at once get a token. */
function takes(bucket: TokenBucket, nowMs: number, count = 1000): number {
  return Array.from({ length: count }, () => bucket.take(nowMs)).filter(Boolean).length;
}

describe('TokenBucket', () => {
  test('starts with a burst of one second, then follows the rate', () => {
    const bucket = new TokenBucket(10);
    expect(takes(bucket, 5_000)).toBe(10);
    expect(takes(bucket, 5_099)).toBe(0);
    expect(takes(bucket, 5_100)).toBe(1);
    expect(takes(bucket, 5_600)).toBe(5);
  });

  test('never saves up more than one second, however long it waits', () => {
    const bucket = new TokenBucket(10);
    takes(bucket, 0);
    expect(takes(bucket, 3_600_000)).toBe(10);
  });

  test('a rate below one a second still allows one at a time', () => {
    const bucket = new TokenBucket(0.5);
    expect(takes(bucket, 0)).toBe(1);
    expect(takes(bucket, 1_999)).toBe(0);
    expect(takes(bucket, 2_000)).toBe(1);
    expect(takes(bucket, 60_000)).toBe(1);
  });

  test('a rate of 0 is no bound', () => {
    expect(takes(new TokenBucket(0), 0, 100_000)).toBe(100_000);
  });

  test('a clock that goes backwards has no effect', () => {
    const bucket = new TokenBucket(10);
    expect(takes(bucket, 10_000)).toBe(10);
    expect(takes(bucket, 0)).toBe(0);
    expect(takes(bucket, 10_000)).toBe(0);
    expect(takes(bucket, 10_100)).toBe(1);
  });

  test('agrees with the naive twin, also when the clock jumps', () => {
    // Multiples of 125 a second make whole eighths of a token each ms, which doubles hold exactly.
    const rate = fc.nat({ max: 16 }).map((n) => n * 125);
    const step = fc.tuple(fc.integer({ min: -50, max: 200 }), fc.integer({ min: 1, max: 300 }));
    fc.assert(
      fc.property(
        rate,
        fc.nat({ max: 10_000 }),
        fc.array(step, { maxLength: 20 }),
        (rate, startMs, steps) => {
          const bucket = new TokenBucket(rate);
          const naive = new NaiveTokenBucket(rate);
          let nowMs = startMs;
          for (const [elapsedMs, count] of steps) {
            nowMs += elapsedMs;
            for (let i = 0; i < count; i++) expect(bucket.take(nowMs)).toBe(naive.take(nowMs));
          }
        },
      ),
    );
  });
});

describe('refill', () => {
  test('adds what the rate gave since, up to a burst of one second and at least one token', () => {
    expect(refill(0, 1_000, 1_250, 8)).toBe(2);
    expect(refill(7, 1_000, 9_000, 8)).toBe(8);
    expect(refill(0, 0, 500, 0.25)).toBe(0.125);
    expect(refill(0, 0, 60_000, 0.25)).toBe(1);
  });

  test('leaves the tokens when no time has passed or the clock went backwards', () => {
    expect(refill(3.5, 1_000, 1_000, 8)).toBe(3.5);
    expect(refill(3.5, 1_000, 10, 8)).toBe(3.5);
  });

  test('gives a full bucket for one that was never used, and no bound for rate 0', () => {
    expect(refill(0, -Infinity, 0, 8)).toBe(8);
    expect(refill(0, 0, 0, 0)).toBe(Infinity);
  });
});
