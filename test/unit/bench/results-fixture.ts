/** Results as a run leaves them, with invented figures: what the report is made from, without a run. */
import * as hdr from 'hdr-histogram-js';
import { climb } from '../../../bench/ladder.ts';
import type { BenchResults, LoadRun, SoakResults } from '../../../bench/results.ts';
import { growthOf } from '../../../bench/soak.ts';
import { rankRuns } from '../../../bench/standings.ts';
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
    deliveredBetweenReadings: players * 128 * 6,
    processCpu: undefined,
    relay: undefined,
    bufferOverflows: 0,
    ...fields,
  };
}

/** The routes of the fixture in their order, with what sets them apart. */
export const ENGINE = 'mmsg';
export const RIVAL = 'dgram';
export const PEER = 'nginx';

const MACHINE = {
  cpuModel: 'A Processor <with> "signs" & more',
  cores: 2,
  memoryBytes: 8 * 2 ** 30,
  kernel: 'Linux 6.1',
  platform: 'linux x64',
  node: 'v20.20.0',
  tickrelay: '0.1.0',
  commit: '0123456789ab',
  busyBefore: 0.01,
};

/** 76,800 datagrams were delivered while the CPU was read. */
const cpu = (totalUs: number) => ({ totalUs, userUs: 0.25 * totalUs, systemUs: 0.75 * totalUs });
const relay = { received: 76_800, forwarded: 76_800, dropped: 0 };

/** @param changes to every run of the first engine */
export async function fixtureResults(changes: Partial<LoadRun> = {}): Promise<BenchResults> {
  const relayed = {
    route: ENGINE,
    relay,
    fromUs: 190,
    machineCpuUsPerDatagram: 21,
    processCpu: cpu(153_600),
    ...changes,
  };
  const rival = { ...relayed, route: RIVAL, lost: 0, wrongServer: 0, fromUs: 240, processCpu: cpu(768_000) };
  const peer = { ...rival, route: PEER, fromUs: 150, relay: undefined, processCpu: cpu(192_000) };
  const runs = [1, 2].flatMap((round) => [
    fixtureRun({ round }),
    fixtureRun({ ...relayed, round }),
    fixtureRun({ ...rival, round }),
    fixtureRun({ ...peer, round }),
  ]);
  const live = [fixtureRun(relayed), fixtureRun({ ...relayed, codec: 'json', fromUs: 260 })];
  const dialRuns = ['0', '200'].map((us) => fixtureRun({ ...relayed, route: `mmsg --coalesce ${us}` }));
  const ladder = [50, 100, 150];
  const ladders = await climb({
    routes: [ENGINE, PEER],
    steps: ladder,
    tickHz: 128,
    compared: [],
    hasTime: () => true,
    measure: (route, players) =>
      Promise.resolve(fixtureRun({ ...relayed, route, players, fromUs: players < 150 ? players : 9_000 })),
  });
  const routes = [ENGINE, RIVAL, PEER];
  return {
    startedAt: '2026-01-02T03:04:05.000Z',
    tookMs: 70_000,
    machine: MACHINE,
    plan: {
      players: 100,
      loads: [100],
      tickHz: 128,
      rounds: 2,
      seed: 1,
      gameServers: 2,
      engines: [ENGINE, RIVAL],
      peers: [PEER, 'haproxy'],
      pinning: { relayCpu: 0, loadCpus: [1] },
      dialUs: [0, 200],
      ladder,
      quick: false,
      netns: false,
      comparisonMs: 3_000,
      ladderMs: 1_500,
      payloadMs: 2_000,
      payloadRounds: 1,
      rampMs: 500,
      warmupMs: 500,
      comparisonBudgetMs: 48_000,
      ladderBudgetMs: 22_000,
      ladderEndMs: 62_000,
    },
    routes: [
      { name: 'direct', kind: 'direct', detail: 'nothing between' },
      { name: ENGINE, kind: 'engine', detail: 'tickrelay relay --engine mmsg --workers 1' },
      { name: RIVAL, kind: 'engine', detail: 'tickrelay relay --engine dgram' },
      { name: PEER, kind: 'peer', detail: 'nginx/1.22.1' },
    ],
    absent: [{ name: 'haproxy', reason: 'haproxy is not installed' }],
    comparison: {
      runs,
      loads: [
        {
          players: 100,
          routes: summarise(runs, 'route'),
          standings: rankRuns(runs, { routes, machineIsShared: false }),
        },
      ],
    },
    ladders,
    dial: { runs: dialRuns, settings: summarise(dialRuns, 'route') },
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
    sessionTable: {
      smallSessions: 1_000,
      largeSessions: 1_000_000,
      batched: { smallNs: 30, largeNs: 45, ratio: 1.5 },
      single: { smallNs: 28, largeNs: 70, ratio: 2.5 },
    },
  };
}

export function fixtureSoak(changes: Partial<LoadRun> = {}): SoakResults {
  const samples = Array.from({ length: 21 }, (_, i) => ({
    atMs: 1_000 * i,
    residentBytes: (60 + i / 10) * 2 ** 20,
    openDescriptors: 34,
  }));
  return {
    startedAt: '2026-01-02T03:04:05.000Z',
    machine: MACHINE,
    route: { name: ENGINE, kind: 'engine', detail: 'tickrelay relay --engine mmsg --workers 1' },
    pinning: undefined,
    run: fixtureRun({ route: ENGINE, relay, processCpu: cpu(153_600), ...changes }),
    durationMs: 20_000,
    samples,
    growth: growthOf(samples),
  };
}
