import { expect, test } from 'vitest';
import { Measurement } from '../../../botclient/measurement.ts';
import { formatSummary, summarise, type BotSummary } from '../../../botclient/report.ts';

/** Ten players for a second at 100 Hz: `sent` updates left, each `lagMs` late, in `sendingMs`. */
function summaryOf({ sent = 1000, lagMs = 0.2, sendingMs = 1000 } = {}): BotSummary {
  const measurement = new Measurement();
  for (let i = 0; i < sent; i++) {
    measurement.countUpdate(true, 14, lagMs);
    measurement.counts.matched++;
    measurement.recordRoundTrip(lagMs + (i + 1) / 1000);
  }
  measurement.counts.intended = 1000;
  return summarise({
    target: '127.0.0.1:7777',
    codec: 'binary',
    reply: 'immediate',
    seed: 1,
    tickHz: 100,
    measuredMs: 1000,
    sendingMs,
    players: [
      { serverId: 1 },
      { serverId: 2 },
      { serverId: 2 },
      ...new Array<{ serverId: undefined }>(7).fill({ serverId: undefined }),
    ],
    measurement,
  });
}

test('a generator that kept its schedule is said to have', () => {
  expect(summaryOf().generator).toEqual({ ok: true, verdict: 'kept its schedule' });
});

test('a generator that sent under 99 % of what was asked is too slow', () => {
  expect(summaryOf({ sent: 990 }).generator.ok).toBe(true);
  expect(summaryOf({ sent: 989 }).generator).toEqual({
    ok: false,
    verdict: 'too slow: it sent 98.900 % of the updates it was asked for',
  });
});

test('a generator that needed longer than the measured time is too slow, though it sent everything', () => {
  expect(summaryOf({ sendingMs: 1050 }).achievedPerSecond).toBeCloseTo(952.38);
  expect(summaryOf({ sendingMs: 1050 }).generator.ok).toBe(false);
});

test('a generator whose updates left over a tick late is too slow', () => {
  expect(summaryOf({ lagMs: 12 }).generator).toEqual({
    ok: false,
    verdict: 'too slow: 1 % of its updates left more than a tick late (p99 12.0 ms)',
  });
});

test('players are counted by the server that answered them last', () => {
  expect(summaryOf()).toMatchObject({ servers: { 1: 1, 2: 2 }, unansweredPlayers: 7 });
});

test('percentiles are in microseconds', () => {
  expect(summaryOf({ lagMs: 0 }).roundTripUs).toEqual({
    p50: 500,
    p90: 900,
    p95: 950,
    p99: 990,
    p999: 999,
    max: 1000,
  });
});

test('the table names every figure that matters', () => {
  const table = formatSummary(summaryOf());
  for (const line of [
    /^rate +1000\/s of 1000\/s asked$/m,
    /^generator +kept its schedule$/m,
    /^lost +0 \(0\.000 %\)$/m,
    /^round trip +p50 700 us, p90 1100 us, .* p99\.9 \d+ us, max \d+ us$/m,
    /^players +server 1: 1, server 2: 2, never answered: 7$/m,
  ]) {
    expect(table).toMatch(line);
  }
});
