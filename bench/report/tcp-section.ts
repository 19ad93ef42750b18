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
      `connection each way, through every route in turn, ${plan.rounds} rounds; the figures are medians of the rounds. Clients, routes and services share ` +
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
  return median(of(results, workload, route).map(({ unitsPerSecond }) => unitsPerSecond));
}

/** Microseconds for each unit; undefined where nothing stands between. */
function cpuUs(results: TcpResults, workload: Workload, route: string): number | undefined {
  const values = of(results, workload, route).flatMap(({ cpu, units }) =>
    cpu === undefined ? [] : [cpu.totalUs / units],
  );
  return values.length === 0 ? undefined : median(values);
}

function finding(results: TcpResults, workload: Workload): Finding[] {
  const own = rate(results, workload, 'userspace');
  const peer = rate(results, workload, REFERENCE);
  const ownCpu = cpuUs(results, workload, 'userspace');
  const peerCpu = cpuUs(results, workload, REFERENCE);
  if (Number.isNaN(peer) || ownCpu === undefined || peerCpu === undefined) return [];
  return [
    {
      kind: 'note',
      text:
        `${workload}: userspace carried ${formatRatio(own / rate(results, workload, DIRECT))} of the direct rate and ` +
        `${formatRatio(own / peer)} of HAProxy's, at ${formatRatio(ownCpu / peerCpu)} its CPU.`,
    },
  ];
}

function workloadTable(results: TcpResults, workload: Workload): Table {
  const direct = rate(results, workload, DIRECT);
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
      const perSecond = rate(results, workload, name);
      return [
        name,
        formatNumber(perSecond),
        formatRatio(perSecond / direct),
        latency('p50'),
        latency('p95'),
        latency('p99'),
        latency('p999'),
        formatKnown(cpuUs(results, workload, name), 1),
      ];
    }),
  };
}
