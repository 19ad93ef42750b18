import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createHistogram } from '../../../botclient/measurement.ts';
import { MicrosecondTally } from '../../../botclient/microsecond-tally.ts';

test('gives a histogram the same buckets as recording in it, however often it is drained', () => {
  const durations = fc.array(fc.oneof(fc.nat(3_000), fc.nat(200_000), fc.nat(100_000_000)));
  fc.assert(
    fc.property(fc.array(durations, { maxLength: 4 }), (rounds) => {
      const direct = createHistogram();
      const tallied = createHistogram();
      const tally = new MicrosecondTally();
      for (const round of rounds) {
        for (const us of round) {
          direct.recordValue(us);
          tally.record(us);
        }
        tally.drainInto(tallied);
      }
      expect(tallied.totalCount).toBe(direct.totalCount);
      expect(tallied.maxValue).toBe(direct.maxValue);
      for (const percentile of [1, 25, 50, 90, 99, 99.9]) {
        expect(tallied.getValueAtPercentile(percentile)).toBe(direct.getValueAtPercentile(percentile));
      }
    }),
    { numRuns: 30 },
  );
});
