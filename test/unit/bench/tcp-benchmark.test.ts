/** What the TCP benchmark makes of the output of others, and of its own figures. */
import { expect, test } from 'vitest';
import { median, tcpSection } from '../../../bench/report/tcp-section.ts';
import { haproxyConfig } from '../../../bench/tcp/haproxy.ts';
import { percentiles, readLatencies, readSummary } from '../../../bench/tcp/pgbench.ts';
import type { TcpResults, TcpRun } from '../../../bench/tcp/tcp-results.ts';
import { Endpoint } from '../../../net/address.ts';

const OUTPUT = `transaction type: <builtin: select only>
number of clients: 4
number of transactions actually processed: 22841
number of failed transactions: 0 (0.000%)
latency average = 0.350 ms
initial connection time = 9.871 ms
tps = 11420.742150 (without initial connection time)
`;

test("pgbench's summary and its log of transactions are read", () => {
  expect(readSummary(OUTPUT)).toEqual({ transactions: 22_841, transactionsPerSecond: 11_420.74215 });
  expect(() => readSummary('pgbench: error')).toThrow('pgbench did not say how it went');
  expect(readLatencies('0 1 350 0 1700000000 1\n3 2 410 0 1700000000 2\n')).toEqual([350, 410]);
});

test('percentiles are values that occurred', () => {
  const values = Array.from({ length: 1_000 }, (_, i) => 1_000 - i);
  expect(percentiles(values)).toEqual({ p50: 500, p95: 950, p99: 990, p999: 999 });
  expect(percentiles([7])).toEqual({ p50: 7, p95: 7, p99: 7, p999: 7 });
});

test('the median is a round that was', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 3, 2])).toBe(2);
});

test('HAProxy gets one section for each service', () => {
  const [listen, backend] = [Endpoint.parse('127.0.0.1:1'), Endpoint.parse('127.0.0.1:2')];
  const config = haproxyConfig([{ listen, backends: [backend], server: 'send-proxy-v2' }]);
  expect(config).toContain('  bind 127.0.0.1:1\n');
  expect(config).toContain('  server backend-0 127.0.0.1:2 send-proxy-v2\n');
});

test('the report compares with the direct way and with HAProxy round by round, and takes the middle', () => {
  const run = (route: string, round: number, unitsPerSecond: number, cpuUs: number | undefined): TcpRun => ({
    route,
    round,
    workload: 'persistent',
    units: 1_000,
    unitsPerSecond,
    latencyUs: { p50: 100, p95: 200, p99: 300, p999: 400 },
    cpu: cpuUs === undefined ? undefined : { totalUs: 1_000 * cpuUs, userUs: 0, systemUs: 0 },
  });
  const results: TcpResults = {
    startedAt: '2026-01-01T00:00:00.000Z',
    machine: {
      cpuModel: 'test',
      cores: 2,
      memoryBytes: 1,
      kernel: 'Linux',
      platform: 'linux',
      node: 'v20',
      tickrelay: '0',
      commit: undefined,
      busyBefore: 0,
    },
    plan: { rounds: 3, clients: 4, durationS: 1, bulkBytes: 2 ** 20 },
    postgres: '15',
    routes: ['direct', 'userspace', 'kernel', 'haproxy'].map((name) => ({
      name,
      kind: 'peer',
      detail: name,
    })),
    absent: [{ name: 'nginx', reason: 'nginx is not installed' }],
    runs: [1, 2, 3].flatMap((round) => [
      run('direct', round, [10_000, 20_000, 30_000][round - 1]!, undefined),
      run('userspace', round, [6_000, 16_000, 12_000][round - 1]!, [30, 45, 99][round - 1]),
      run('kernel', round, [9_000, 19_000, 29_400][round - 1]!, 1),
      run('haproxy', round, [8_000, 8_000, 24_000][round - 1]!, [30, 30, 44][round - 1]),
    ]),
  };
  const { findings, tables } = tcpSection(results);
  expect(findings.map(({ text }) => text)).toEqual([
    "persistent: userspace carried 0.60 x of the direct rate and 0.75 x of HAProxy's, at 1.50 x its CPU.",
    'persistent: kernel carried 0.95 x of the direct rate.',
    'nginx is not in the run: nginx is not installed.',
  ]);
  expect(tables[0]?.rows[1]).toEqual(['userspace', '12,000', '0.60 x', '100', '200', '300', '400', '45']);
  expect(tables[0]?.rows[0]?.at(-1)).toBe('-');
});
