import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { cpuSpent, readCpuTimes } from '../../../bench/machine.ts';
import { matchMbitPerSecond, measurePayloadTable } from '../../../bench/payload-table.ts';
import { parseCpuList, pinned } from '../../../bench/pinning.ts';
import { processCpuBetween, readProcessCpu } from '../../../bench/process-cpu.ts';
import { countsBetween, parseRelayMetrics } from '../../../bench/relay-metrics.ts';
import { median, timeInTurns } from '../../../bench/stopwatch.ts';
import { mergeHistograms, summarise } from '../../../bench/summary.ts';
import { fixtureRun } from './results-fixture.ts';

describe('the stopwatch', () => {
  it('gives the median', () => {
    expect(median([5])).toBe(5);
    expect(median([9, 1, 5])).toBe(5);
    expect(median([4, 1, 9, 2])).toBe(3);
  });

  it('lets the pieces take turns', () => {
    const order: string[] = [];
    const piece = (name: string) => ({
      name,
      run: (iterations: number) => {
        if (order.at(-1) !== name) order.push(name);
        let sum = 0;
        for (let i = 0; i < iterations; i++) sum += Math.sqrt(i);
        return sum;
      },
    });
    const times = timeInTurns([piece('a'), piece('b')], { turns: 3, turnMs: 0.1 });
    expect([...times.keys()]).toEqual(['a', 'b']);
    expect(order.slice(-6)).toEqual(['a', 'b', 'a', 'b', 'a', 'b']);
  });
});

describe('the payload table', () => {
  it('has all four encodings with their bytes', () => {
    const rows = measurePayloadTable({ tickHz: 128, turns: 1, turnMs: 0.05 });
    expect(rows.map(({ codec }) => codec)).toEqual(['binary', 'msgpack', 'json', 'http']);
    expect(rows[0]).toMatchObject({ updateBytes: 14, worldStateBytes: 148 });
    for (const row of rows)
      for (const ns of [row.encodeUpdateNs, row.decodeWorldStateNs]) expect(ns).toBeGreaterThan(0);
  });

  it('counts both directions and the headers of every datagram', () => {
    // 10 players x ((14 + 28) + (148 + 28)) bytes x 8 bits x 128 ticks
    expect(matchMbitPerSecond({ updateBytes: 14, worldStateBytes: 148, tickHz: 128 })).toBeCloseTo(
      2.23232,
      10,
    );
  });
});

describe("a relay's metrics", () => {
  const PAGE = `# HELP tickrelay_datagrams_received_total Datagrams received.
# TYPE tickrelay_datagrams_received_total counter
tickrelay_datagrams_received_total{listener="game",direction="downstream"} 120
tickrelay_datagrams_received_total{listener="game",direction="upstream"} 100
tickrelay_datagrams_forwarded_total{listener="game",direction="downstream"} 118
tickrelay_datagrams_forwarded_total{listener="game",direction="upstream"} 100
tickrelay_datagrams_dropped_total{listener="game",direction="downstream",reason="no-backend"} 2
process_cpu_user_seconds_total 1.5
tickrelay_process_cpu_system_seconds_total 0.25
process_cpu_seconds_total 1.75
process_resident_memory_bytes 62914560
process_open_fds 34
tickrelay_sessions{listener="game"} 60
tickrelay_sessions{listener="arena"} 40
tickrelay_sessions_opened_total{listener="game"} 300
tickrelay_upstream_sockets{listener="game"} 76
`;

  it('are summed over listeners and directions, with or without a prefix on the process metrics', () => {
    expect(parseRelayMetrics(PAGE)).toEqual({
      counts: { received: 220, forwarded: 218, dropped: 2 },
      cpu: { totalUs: 1_750_000, userUs: 1_500_000, systemUs: 250_000 },
      residentBytes: 62_914_560,
      openDescriptors: 34,
      liveSessions: 100,
      upstreamSockets: 76,
    });
  });

  it('say nothing of descriptors where the system does not', () => {
    expect(parseRelayMetrics('process_resident_memory_bytes 1').openDescriptors).toBeUndefined();
  });

  it('are counted from one reading to the next', () => {
    const from = { received: 20, forwarded: 18, dropped: 2 };
    expect(countsBetween(from, parseRelayMetrics(PAGE).counts)).toEqual({
      received: 200,
      forwarded: 200,
      dropped: 0,
    });
  });
});

describe('CPU time', () => {
  it('is the busy time between two readings, and its share of all time', () => {
    const from = { busyMs: 1_000, totalMs: 10_000 };
    expect(cpuSpent(from, { busyMs: 1_500, totalMs: 12_000 })).toEqual({ busyMs: 500, share: 0.25 });
  });

  it('of this machine grows', () => {
    const from = readCpuTimes();
    expect(from.totalMs).toBeGreaterThan(from.busyMs);
    expect(readCpuTimes().busyMs).toBeGreaterThanOrEqual(from.busyMs);
  });
});

describe.runIf(process.platform === 'linux')('CPU time of a process', () => {
  it('is read with its threads and children, and grows', async () => {
    const from = readProcessCpu(process.pid)!;
    const child = spawn(process.execPath, [
      '-e',
      'for (let i = 0; i < 1e7; i++) Math.sqrt(i); console.log(1); setInterval(() => {}, 1000)',
    ]);
    await once(child.stdout, 'data');
    const alone = readProcessCpu(child.pid!)!;
    const both = readProcessCpu(process.pid)!;
    child.kill('SIGKILL');
    expect(alone.totalUs).toBeGreaterThan(0);
    expect(processCpuBetween(from, both).totalUs).toBeGreaterThanOrEqual(alone.totalUs);
  });

  it('of a process that is not there is not known', () => {
    expect(readProcessCpu(2 ** 22 + 1)).toBeUndefined();
  });
});

describe('pinning', () => {
  it('reads lists of processors as the kernel writes them', () => {
    expect(parseCpuList('0-2,5,8-9')).toEqual([0, 1, 2, 5, 8, 9]);
    expect(parseCpuList('')).toEqual([]);
  });

  it('starts a process by taskset, and leaves it alone without processors', () => {
    const spec = { name: 'nginx', program: '/usr/sbin/nginx', args: ['-c', 'x'] };
    expect(pinned(spec, undefined)).toBe(spec);
    expect(pinned(spec, [1, 3])).toEqual({
      name: 'nginx',
      program: 'taskset',
      args: ['-c', '1,3', '/usr/sbin/nginx', '-c', 'x'],
    });
  });
});

describe('a summary', () => {
  it('divides the median of the CPU time as all rounds together do', () => {
    const runs = [100, 300, 200].map((totalUs, i) =>
      fixtureRun({
        deliveredBetweenReadings: 100,
        processCpu: { totalUs, userUs: i === 0 ? 100 : 0, systemUs: i === 0 ? 0 : 150 },
      }),
    );
    expect(summarise(runs, 'route')[0]!.processCpuUsPerDatagram).toEqual({
      total: 2,
      user: 0.5,
      system: 1.5,
    });
  });

  it('takes medians of times and sums of losses', () => {
    const runs = [1, 2, 3].map((round) =>
      fixtureRun({
        round,
        lost: round,
        sent: 1_000,
        machineCpuUsPerDatagram: 10 * round,
        wrongServer: round - 1,
      }),
    );
    expect(summarise(runs, 'route')).toMatchObject([
      {
        name: 'direct',
        runs: 3,
        lost: 6,
        sent: 3_000,
        loss: 0.002,
        wrongServer: 3,
        machineCpuUsPerDatagram: 20,
      },
    ]);
  });

  it('keeps routes and codecs apart', () => {
    const runs = [fixtureRun(), fixtureRun({ route: 'relay' }), fixtureRun({ codec: 'json' })];
    expect(summarise(runs, 'route').map(({ name, runs: count }) => [name, count])).toEqual([
      ['direct', 2],
      ['relay', 1],
    ]);
    expect(summarise(runs, 'codec').map(({ name }) => name)).toEqual(['binary', 'json']);
  });

  it('merges the round trips of its runs', () => {
    const merged = mergeHistograms(
      [fixtureRun({ fromUs: 100 }), fixtureRun({ fromUs: 1_000 })].map((run) => run.roundTripHistogram),
    );
    expect(merged.totalCount).toBe(8_000);
    expect(merged.getValueAtPercentile(25)).toBeLessThan(200);
    expect(merged.getValueAtPercentile(75)).toBeGreaterThan(900);
  });
});
