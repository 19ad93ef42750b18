/** What each route does to a database's clients: throughput, latency, and the CPU that it takes itself. */
import { DIRECT } from '../results.ts';
import { WORKLOADS, type TcpResults, type TcpRun, type Workload } from '../tcp/tcp-results.ts';
import {
  figure,
  formatKnown,
  formatNumber,
  formatRatio,
  formatTime,
  text,
  type Finding,
  type Section,
  type Table,
} from './section.ts';
import { setupTable } from './setup-table.ts';

/** The peer that relays are measured against. */
const REFERENCE = 'haproxy';

const TITLES: Readonly<Record<Workload, string>> = {
  persistent: 'Select-only transactions over connections that stay',
  reconnecting: 'Select-only transactions, each over a connection of its own',
  bulk: 'Bytes from the service to the client over one connection, MiB',
  upload: 'Bytes from the client to the service over one connection, MiB',
};

export function tcpSection(results: TcpResults): Section {
  const { plan, absent } = results;
  return {
    title: `A database behind each route: ${plan.clients} clients`,
    findings: [
      ...WORKLOADS.flatMap((workload) => finding(results, workload)),
      ...absent.map(({ name, reason }): Finding => ({
        kind: 'note',
        text: `${name} is not in the run: ${reason}.`,
      })),
    ],
    tables: [
      ...WORKLOADS.map((workload) => workloadTable(results, workload)),
      setupTable({
        machine: results.machine,
        startedAt: results.startedAt,
        rows: [
          ['PostgreSQL', results.postgres],
          ...results.routes.map(({ name, detail }) => [name, detail] as const),
        ],
      }),
    ],
    plots: [],
    method:
      `pgbench -S with ${plan.clients} clients for ${plan.durationS} s, with and without -C, and ${formatNumber(plan.bulkBytes / 2 ** 20)} MiB over one ` +
      `connection each way, through every route in turn, ${plan.rounds} rounds; the figures are medians of the rounds, ratios those of each round. Every route carries 2,000 short connections and one run with -C before. Clients, routes and services share ` +
      `the machine. CPU is that of the relay or peer process during the run, for each transaction or MiB.`,
  };
}

/** The middle of the rounds; of two the lower one. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN;
}

function of(results: TcpResults, workload: Workload, route: string): readonly TcpRun[] {
  return results.runs.filter((run) => run.workload === workload && run.route === route);
}

function rate(results: TcpResults, workload: Workload, route: string): number {
  return median(of(results, workload, route).map(perSecond));
}

/** Microseconds for each unit; undefined where nothing stands between. */
function cpuUs(results: TcpResults, workload: Workload, route: string): number | undefined {
  const us = median(of(results, workload, route).map(cpuPerUnit));
  return Number.isNaN(us) ? undefined : us;
}

const perSecond = (run: TcpRun): number => run.unitsPerSecond;
const cpuPerUnit = ({ cpu, units }: TcpRun): number => (cpu?.totalUs ?? Number.NaN) / units;

/**
 * How a route's figure compares with another's in the same round: the median of the rounds, since what the machine does beside them
 * changes from one to the next. NaN where one of them is not in the run.
 */
function ratio(
  results: TcpResults,
  workload: Workload,
  { route, to, figure: value }: { route: string; to: string; figure: (run: TcpRun) => number },
): number {
  const others = new Map(of(results, workload, to).map((run) => [run.round, value(run)]));
  return median(
    of(results, workload, route).map((run) => value(run) / (others.get(run.round) ?? Number.NaN)),
  );
}

function finding(results: TcpResults, workload: Workload): Finding[] {
  const findings: Finding[] = [];
  const ofDirect = (route: string): number =>
    ratio(results, workload, { route, to: DIRECT, figure: perSecond });
  const toPeer = { route: 'userspace', to: REFERENCE };
  const peerRate = ratio(results, workload, { ...toPeer, figure: perSecond });
  const peerCpu = ratio(results, workload, { ...toPeer, figure: cpuPerUnit });
  if (!Number.isNaN(peerRate) && !Number.isNaN(peerCpu)) {
    findings.push({
      kind: 'note',
      text:
        `${workload}: userspace carried ${formatRatio(ofDirect('userspace'))} of the direct rate and ` +
        `${formatRatio(peerRate)} of HAProxy's, at ${formatRatio(peerCpu)} its CPU.`,
    });
  }
  if (!Number.isNaN(ofDirect('kernel'))) {
    findings.push({
      kind: 'note',
      text: `${workload}: kernel carried ${formatRatio(ofDirect('kernel'))} of the direct rate.`,
    });
  }
  return findings;
}

function workloadTable(results: TcpResults, workload: Workload): Table {
  return {
    caption: TITLES[workload],
    columns: [
      text('route'),
      ...['a second', 'of direct', 'p50, µs', 'p95, µs', 'p99, µs', 'p99.9, µs', 'process CPU µs'].map(
        figure,
      ),
    ],
    rows: results.routes.map(({ name }) => {
      const runs = of(results, workload, name);
      const latency = (pick: 'p50' | 'p95' | 'p99' | 'p999'): string => {
        const values = runs.flatMap(({ latencyUs }) => (latencyUs === undefined ? [] : [latencyUs[pick]]));
        return values.length === 0 ? '-' : formatTime(median(values));
      };
      return [
        name,
        formatNumber(rate(results, workload, name)),
        formatRatio(ratio(results, workload, { route: name, to: DIRECT, figure: perSecond })),
        latency('p50'),
        latency('p95'),
        latency('p99'),
        latency('p999'),
        formatKnown(cpuUs(results, workload, name), 1),
      ];
    }),
  };
}
