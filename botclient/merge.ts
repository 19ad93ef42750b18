/**
 * Several fleets' figures as those of one: counts and rates add up, and percentiles come from the merged histograms, so
 * they are what one fleet would have measured.
 */
import assert from 'node:assert/strict';
import { decodeFromCompressedBase64, encodeIntoCompressedBase64, type Histogram } from 'hdr-histogram-js';
import { PHASES, type BotProgress } from './bot-fleet.ts';
import { createHistogram, percentilesOf, sumCounts, type Percentiles } from './measurement.ts';
import { judge, type BotSummary } from './report.ts';

/** Summaries of fleets that played the same target in the same way. */
export function mergeSummaries(summaries: readonly BotSummary[]): BotSummary {
  const [first] = summaries;
  assert(first !== undefined);
  if (summaries.length === 1) return first;
  const sum = (pick: (summary: BotSummary) => number): number => total(summaries, pick);
  const counts = sumCounts(summaries);
  const lost = sum((s) => s.lost);
  const rates = {
    askedPerSecond: sum((s) => s.askedPerSecond),
    achievedPerSecond: sum((s) => s.achievedPerSecond),
  };
  const roundTrips = mergeHistograms(summaries.map((s) => s.roundTripHistogram));
  const sendLags = mergeHistograms(summaries.map((s) => s.sendLagHistogram));
  const sendLagUs = percentilesWithMax(
    sendLags,
    summaries.map((s) => s.sendLagUs),
  );
  return {
    ...first,
    ...counts,
    ...rates,
    players: sum((s) => s.players),
    durationMs: Math.max(...summaries.map((s) => s.durationMs)),
    lost,
    loss: counts.sent === 0 ? 0 : lost / counts.sent,
    roundTripUs: percentilesWithMax(
      roundTrips,
      summaries.map((s) => s.roundTripUs),
    ),
    sendLagUs,
    roundTripHistogram: encodeIntoCompressedBase64(roundTrips),
    sendLagHistogram: encodeIntoCompressedBase64(sendLags),
    servers: mergeServers(summaries),
    unansweredPlayers: sum((s) => s.unansweredPlayers),
    generator: judge({ intended: counts.intended, ...rates, lag: sendLagUs, tickHz: first.tickHz }),
  };
}

/** What a live view shows of several fleets: the phase is that of the last one. */
export function mergeProgress(all: readonly BotProgress[]): BotProgress {
  const recent = mergeHistograms(all.map((progress) => progress.recentHistogram));
  return {
    elapsedMs: Math.min(...all.map((progress) => progress.elapsedMs)),
    phase: PHASES.find((phase) => all.some((progress) => progress.phase === phase)) ?? 'grace',
    players: total(all, (progress) => progress.players),
    sent: total(all, (progress) => progress.sent),
    matched: total(all, (progress) => progress.matched),
    wrongServer: total(all, (progress) => progress.wrongServer),
    recentUs: percentilesWithMax(
      recent,
      all.map((progress) => progress.recentUs),
    ),
    recentHistogram: encodeIntoCompressedBase64(recent),
  };
}

function total<T>(all: readonly T[], pick: (one: T) => number): number {
  return all.reduce((sum, one) => sum + pick(one), 0);
}

function mergeHistograms(encoded: readonly string[]): Histogram {
  const merged = createHistogram();
  for (const text of encoded) merged.add(decodeFromCompressedBase64(text));
  return merged;
}

/** A histogram knows its buckets; the exact maximum stands beside it. */
function percentilesWithMax(merged: Histogram, parts: readonly Percentiles[]): Percentiles {
  return { ...percentilesOf(merged), max: Math.max(...parts.map(({ max }) => max)) };
}

function mergeServers(summaries: readonly BotSummary[]): Record<string, number> {
  const merged: Record<string, number> = {};
  for (const { servers } of summaries) {
    for (const [id, players] of Object.entries(servers)) merged[id] = (merged[id] ?? 0) + players;
  }
  return merged;
}
