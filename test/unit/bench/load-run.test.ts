import * as hdr from 'hdr-histogram-js';
import { describe, expect, it } from 'vitest';
import { mainJobHolds } from '../../../bench/command.ts';
import { countSteps } from '../../../bench/benchmark.ts';
import { merge } from '../../../bench/load-run.ts';
import { makePlan } from '../../../bench/plan.ts';
import { createProgress } from '../../../bench/progress.ts';
import { summarise } from '../../../bench/summary.ts';
import type { BotSummary } from '../../../botclient/report.ts';
import { fixtureResults, fixtureRun, RIVAL } from './results-fixture.ts';

function histogramOf(values: readonly number[]): string {
  const histogram = hdr.build({ autoResize: true, numberOfSignificantValueDigits: 3 });
  for (const value of values) histogram.recordValue(value);
  return hdr.encodeIntoCompressedBase64(histogram);
}

function generated(changes: Partial<BotSummary>): BotSummary {
  const summary: Partial<BotSummary> = {
    askedPerSecond: 6_400,
    achievedPerSecond: 6_390,
    sent: 1_000,
    matched: 1_000,
    lost: 0,
    duplicates: 0,
    reordered: 0,
    wrongServer: 0,
    roundTripHistogram: histogramOf([100]),
    sendLagHistogram: histogramOf([10]),
    generator: { ok: true, verdict: 'kept its schedule' },
    ...changes,
  };
  return summary as BotSummary;
}

describe("several generators' summaries", () => {
  it('are merged as if one had made them', () => {
    const merged = merge([
      generated({ roundTripHistogram: histogramOf([100, 100, 100]) }),
      generated({ lost: 30, matched: 970, wrongServer: 2, roundTripHistogram: histogramOf([900]) }),
    ]);
    expect(merged).toMatchObject({
      offeredPerSecond: 12_800,
      achievedPerSecond: 12_780,
      sent: 2_000,
      answered: 1_970,
      lost: 30,
      loss: 0.015,
      wrongServer: 2,
      roundTripUs: { p50: 100, p90: 900, max: 900 },
      sendLagUs: { p50: 10, p99: 10, max: 10 },
      generatorLimit: undefined,
    });
  });

  it('say that the generator was the limit when one of them was', () => {
    const slow = generated({ generator: { ok: false, verdict: 'too slow: it sent 80 %' } });
    expect(merge([generated({}), slow]).generatorLimit).toBe('too slow: it sent 80 %');
  });
});

describe('the main job', () => {
  it('holds when the relay answered every update from the right server', async () => {
    expect(mainJobHolds(await fixtureResults())).toBe(true);
  });

  it.each([{ lost: 1 }, { wrongServer: 1 }])('fails with %o through the relay', async (fault) => {
    expect(mainJobHolds(await fixtureResults(fault))).toBe(false);
  });

  it('is not judged by what the direct route or a peer lost', async () => {
    const results = await fixtureResults();
    const runs = [
      fixtureRun({ lost: 5 }),
      fixtureRun({ route: RIVAL }),
      fixtureRun({ route: 'nginx', lost: 3 }),
    ];
    const loads = [{ players: 100, routes: summarise(runs, 'route'), standings: [] }];
    expect(mainJobHolds({ ...results, comparison: { runs, loads } })).toBe(true);
  });
});

describe('progress', () => {
  it('is a line for each step where there is no terminal', () => {
    const lines: string[] = [];
    const stream = {
      isTTY: false,
      write: (line: string) => lines.push(line),
    } as unknown as NodeJS.WriteStream;
    const progress = createProgress(4, stream);
    progress.step('one');
    progress.skip(2);
    progress.step('four');
    progress.step('one more than planned');
    progress.close();
    expect(lines).toEqual(['[1/4] one\n', '[4/4] four\n', '[5/5] one more than planned\n']);
  });

  it('counts every run of the plan', () => {
    const asked = {
      players: 4,
      engines: ['mmsg'],
      peers: ['nginx'],
      pinning: undefined,
      seed: 1,
      quick: true,
      netns: false,
    };
    const steps = { loads: [4, 8, 12], rounds: 2, ladder: [4, 8], dialUs: [0, 200] };
    // The start, 3 routes x (2 rounds x 3 loads + 2 steps), 2 rounds x 2 of the dial, two micro-benchmarks;
    // when it is not quick, another start, and binary and JSON.
    expect(countSteps(makePlan({ ...asked, ...steps }))).toBe(1 + 24 + 4 + 2);
    expect(countSteps(makePlan({ ...asked, ...steps, quick: false }))).toBe(1 + 24 + 4 + 2 + 1 + 2);
  });
});
