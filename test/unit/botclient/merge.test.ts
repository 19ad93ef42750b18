import fc from 'fast-check';
import { decodeFromCompressedBase64, encodeIntoCompressedBase64 } from 'hdr-histogram-js';
import { expect, test } from 'vitest';
import type { BotProgress } from '../../../botclient/bot-fleet.ts';
import { createHistogram, Measurement, percentilesOf } from '../../../botclient/measurement.ts';
import { mergeProgress, mergeSummaries } from '../../../botclient/merge.ts';
import { summarise, type BotSummary } from '../../../botclient/report.ts';

/** What one player measured: how late its updates were, and the round trips of those that were answered. */
interface Played {
  readonly serverId: number | undefined;
  readonly lagsUs: readonly number[];
  readonly roundTripsUs: readonly number[];
  readonly skipped: number;
}

const us = fc.oneof(fc.nat(2_000), fc.nat(500_000));
const played: fc.Arbitrary<Played> = fc
  .record({
    serverId: fc.option(fc.nat(3), { nil: undefined }),
    lagsUs: fc.array(us, { maxLength: 50 }),
    skipped: fc.nat(5),
  })
  .chain((player) =>
    fc.array(us, { maxLength: player.lagsUs.length }).map((roundTripsUs) => ({ ...player, roundTripsUs })),
  );

function summaryOf(players: readonly Played[]): BotSummary {
  const measurement = new Measurement();
  const { counts } = measurement;
  for (const { lagsUs, roundTripsUs, skipped } of players) {
    for (const lagUs of lagsUs) measurement.countUpdate(true, 14, lagUs / 1000);
    for (const roundTripUs of roundTripsUs) {
      counts.matched++;
      counts.received++;
      measurement.recordRoundTrip(roundTripUs / 1000);
    }
    counts.intended += skipped;
    counts.skipped += skipped;
  }
  return summarise({
    target: '127.0.0.1:7777',
    codec: 'binary',
    reply: 'immediate',
    seed: 1,
    tickHz: 128,
    measuredMs: 1000,
    sendingMs: 1000,
    players,
    measurement,
  });
}

const outline = (encoded: string): object => decodeFromCompressedBase64(encoded).toJSON();

/** Rates as sums of quotients differ in the last bits; equal histograms may be encoded differently. */
function comparable({
  achievedPerSecond,
  roundTripHistogram,
  sendLagHistogram,
  ...rest
}: BotSummary): object {
  return {
    ...rest,
    achievedPerSecond: achievedPerSecond.toFixed(6),
    roundTrips: outline(roundTripHistogram),
    sendLags: outline(sendLagHistogram),
  };
}

test('the merged summary of several fleets is the summary of all their players in one', () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(played, { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 4 }),
      (fleets) => {
        const merged = mergeSummaries(fleets.map(summaryOf));
        expect(comparable(merged)).toEqual(comparable(summaryOf(fleets.flat())));
        expect(merged.sent + merged.skipped + merged.refused).toBe(merged.intended);
        expect(merged.matched + merged.superseded + merged.lost).toBe(merged.sent);
      },
    ),
    { numRuns: 50 },
  );
});

test('one generator that was too slow shows in the merged verdict', () => {
  const quick: Played = { serverId: 1, lagsUs: [100, 100], roundTripsUs: [200, 200], skipped: 0 };
  const slow: Played = { serverId: 1, lagsUs: [90_000], roundTripsUs: [], skipped: 1 };
  expect(mergeSummaries([summaryOf([quick]), summaryOf([slow])]).generator.verdict).toMatch(/^too slow/);
});

test('merged progress adds up, and is as far as the last fleet', () => {
  const of = (phase: BotProgress['phase'], roundTripUs: number): BotProgress => {
    const recent = createHistogram();
    recent.recordValue(roundTripUs);
    return {
      elapsedMs: 1000,
      phase,
      players: 10,
      sent: 5,
      matched: 4,
      wrongServer: 1,
      recentUs: percentilesOf(recent),
      recentHistogram: encodeIntoCompressedBase64(recent),
    };
  };
  expect(mergeProgress([of('measuring', 300), of('warm-up', 50)])).toMatchObject({
    elapsedMs: 1000,
    phase: 'warm-up',
    players: 20,
    sent: 10,
    matched: 8,
    wrongServer: 2,
    recentUs: { p50: 50, max: 300 },
  });
});
