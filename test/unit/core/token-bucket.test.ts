import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BUCKET_DOUBLES, fill, refill, TokenBucket } from '../../../relay/core/token-bucket.ts';
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

describe('a bucket whose rate changes', () => {
  test('stays empty when it was: a change gives nobody a new burst', () => {
    for (const rate of [5, 10, 1_000]) {
      const bucket = new TokenBucket(10);
      takes(bucket, 1_000);
      bucket.changeRate(rate, 1_000);
      expect(takes(bucket, 1_000)).toBe(0);
      expect(takes(bucket, 1_200)).toBe(rate / 5);
    }
  });

  test('stays full to the same part, and what the old rate gave until then counts', () => {
    const bucket = new TokenBucket(100);
    takes(bucket, 1_000);
    bucket.changeRate(10, 1_500);
    expect(takes(bucket, 1_500)).toBe(5);
    bucket.changeRate(1_000, 2_500);
    expect(takes(bucket, 2_500, 2_000)).toBe(1_000);
  });

  test('is left alone by the same rate', () => {
    const bucket = new TokenBucket(10);
    takes(bucket, 1_000);
    for (let i = 0; i < 100; i++) bucket.changeRate(10, 1_000);
    expect(takes(bucket, 1_000)).toBe(0);
    expect(takes(bucket, 1_100)).toBe(1);
  });

  test('a bound that is new begins with a full bucket, and one that goes is gone', () => {
    const bucket = new TokenBucket(0);
    takes(bucket, 1_000);
    bucket.changeRate(10, 1_000);
    expect(takes(bucket, 1_000)).toBe(10);
    bucket.changeRate(0, 1_000);
    expect(takes(bucket, 1_000)).toBe(1_000);
  });

  test('one that nobody has used is full by the new rate', () => {
    const bucket = new TokenBucket(10);
    bucket.changeRate(20, 1_000);
    expect(takes(bucket, 1_000)).toBe(20);
  });

  test('never holds more than one second, nor less than nothing, whatever changes when', () => {
    const step = fc.record({
      rate: fc.nat({ max: 500 }).map((rate) => rate + 1),
      elapsedMs: fc.integer({ min: -100, max: 3_000 }),
      count: fc.nat({ max: 600 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
        const bucket = new TokenBucket(10);
        let nowMs = 1_000;
        for (const { rate, elapsedMs, count } of steps) {
          nowMs += elapsedMs;
          bucket.changeRate(rate, nowMs);
          expect(takes(bucket, nowMs, count)).toBeLessThanOrEqual(rate);
        }
      }),
    );
  });
});

describe('refill', () => {
  /** Tokens in a bucket that had these at `lastMs`. */
  const refilled = (tokens: number, lastMs: number, nowMs: number, rate: number): number => {
    const doubles = Float64Array.of(7, tokens, lastMs, 7);
    refill(doubles, 1, nowMs, rate);
    expect([doubles[0], doubles[3]]).toEqual([7, 7]);
    return doubles[1]!;
  };

  test('adds what the rate gave since, up to a burst of one second and at least one token', () => {
    expect(refilled(0, 1_000, 1_250, 8)).toBe(2);
    expect(refilled(7, 1_000, 9_000, 8)).toBe(8);
    expect(refilled(0, 0, 500, 0.25)).toBe(0.125);
    expect(refilled(0, 0, 60_000, 0.25)).toBe(1);
  });

  test('leaves the tokens when no time has passed or the clock went backwards', () => {
    expect(refilled(3.5, 1_000, 1_000, 8)).toBe(3.5);
    expect(refilled(3.5, 1_000, 10, 8)).toBe(3.5);
  });

  test('gives a full bucket for one that was never used', () => {
    const doubles = new Float64Array(BUCKET_DOUBLES);
    fill(doubles, 0);
    refill(doubles, 0, 0, 8);
    expect(doubles[0]).toBe(8);
  });
});
