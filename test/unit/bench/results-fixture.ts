/** Results as a run leaves them, with invented figures: what the report is made from, without a run. */
import * as hdr from 'hdr-histogram-js';
import { climb } from '../../../bench/ladder.ts';
import type { BenchResults, LoadRun } from '../../../bench/results.ts';
import { roundTripOf, summarise } from '../../../bench/summary.ts';

/** A run whose round trips grow from `fromUs`, with one in a hundred ten times as slow. */
export function fixtureRun(changes: Partial<LoadRun> & { readonly fromUs?: number } = {}): LoadRun {
  const { fromUs = 100, ...fields } = changes;
  const histogram = hdr.build({
    bitBucketSize: 'packed',
    autoResize: true,
    numberOfSignificantValueDigits: 3,
  });
  for (let i = 0; i < 4_000; i++)
    histogram.recordValue(fromUs + (i % 50) + (i % 100 === 99 ? 9 * fromUs : 0));
  const players = fields.players ?? 100;
  return {
    route: 'direct',
    codec: 'binary',
    players,
    round: 1,
    startedAt: '2026-01-02T03:04:05.000Z',
    offeredPerSecond: players * 128,
    achievedPerSecond: players * 128,
    sent: players * 128 * 3,
    answered: players * 128 * 3,
    lost: 0,
    loss: 0,
    duplicates: 0,
    reordered: 0,
    wrongServer: 0,
    roundTripUs: roundTripOf(histogram),
    roundTripHistogram: hdr.encodeIntoCompressedBase64(histogram),
    sendLagUs: { p50: 20, p99: 120, max: 900 },
    generatorLimit: undefined,
    machineCpuUsPerDatagram: 11.5,
    machineBusy: 0.6,
    relay: undefined,
    bufferOverflows: 0,
    ...fields,
  };
}

export const RELAYED = 'relay (dgram)';

export async function fixtureResults(changes: Partial<LoadRun> = {}): Promise<BenchResults> {
  const relay = { received: 76_800, forwarded: 76_800, dropped: 0, cpuUs: 500_000 };
  const relayed = { route: RELAYED, relay, fromUs: 190, machineCpuUsPerDatagram: 21, ...changes };
  const runs = [
    fixtureRun(),
    fixtureRun(relayed),
    fixtureRun({ round: 2 }),
    fixtureRun({ ...relayed, round: 2 }),
  ];
  const live = [fixtureRun(relayed), fixtureRun({ ...relayed, codec: 'json', fromUs: 260 })];
  const ladder = [50, 100, 150];
  const climbed = await climb({
    route: RELAYED,
    steps: ladder,
    tickHz: 128,
    hasTime: () => true,
    measure: (players) =>
      Promise.resolve(fixtureRun({ ...relayed, players, fromUs: players < 150 ? players : 9_000 })),
  });
  return {
    startedAt: '2026-01-02T03:04:05.000Z',
    tookMs: 70_000,
    machine: {
      cpuModel: 'A Processor <with> "signs" & more',
      cores: 2,
      memoryBytes: 8 * 2 ** 30,
      kernel: 'Linux 6.1',
      platform: 'linux x64',
      node: 'v20.20.0',
      tickrelay: '0.1.0',
      commit: '0123456789ab',
      busyBefore: 0.01,
    },
    plan: {
      players: 100,
      tickHz: 128,
      rounds: 2,
      seed: 1,
      gameServers: 2,
      engines: ['dgram'],
      ladder,
      quick: false,
      comparisonMs: 3_000,
      ladderMs: 1_500,
      payloadMs: 2_000,
      payloadRounds: 1,
      rampMs: 500,
      warmupMs: 500,
      budgetMs: 80_000,
    },
    comparison: { runs, routes: summarise(runs, 'route') },
    ladders: [climbed],
    payload: {
      rows: (['binary', 'msgpack', 'json', 'http'] as const).map((codec, i) => ({
        codec,
        updateBytes: 14 + 30 * i,
        worldStateBytes: 148 + 200 * i,
        encodeUpdateNs: 20 * (i + 1),
        decodeUpdateNs: 21 * (i + 1),
        encodeWorldStateNs: 200 * (i + 1),
        decodeWorldStateNs: 210 * (i + 1),
        matchMbitPerSecond: 2.2 * (i + 1),
      })),
      runs: live,
      live: summarise(live, 'codec'),
    },
    sessionTable: { smallSessions: 1_000, largeSessions: 1_000_000, smallNs: 30, largeNs: 45, ratio: 1.5 },
  };
}
