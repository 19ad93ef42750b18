/**
 * `tickrelay bench --tcp`: what the way through a relay costs a database. A PostgreSQL server of the run's own, and every
 * route to it in turn, round after round, so that what the machine does beside it meets all of them alike.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RelayError } from '../../net/relay-error.ts';
import { cpuSpent, describeMachine, readCpuTimes } from '../machine.ts';
import { PostgresCluster, postgresPrograms } from '../postgres-cluster.ts';
import { processCpuBetween, readProcessCpu } from '../process-cpu.ts';
import type { ProcessGroup } from '../process-group.ts';
import type { Progress } from '../progress.ts';
import type { AbsentPeer } from '../results.ts';
import { download, startBulkServer, upload } from './bulk.ts';
import { initPgbench, runPgbench } from './pgbench.ts';
import { WORKLOADS, type TcpPlan, type TcpResults, type TcpRun, type Workload } from './tcp-results.ts';
import { openTcpRoute, TCP_ROUTES, type TcpRoute } from './tcp-routes.ts';

const IDLE_WATCH_MS = 400;
const MIB = 2 ** 20;

/** Short connections that a route carries before it is measured, and how many of them at a time. */
const WARM_UP_CONNECTIONS = 2_000;
const WARM_UP_AT_ONCE = 4;

export interface TcpBenchmarkOptions {
  readonly plan: TcpPlan;
  readonly group: ProcessGroup;
  readonly signal: AbortSignal;
  readonly progress: Progress;
}

export function countTcpSteps({ rounds }: TcpPlan): number {
  return 1 + (1 + rounds * WORKLOADS.length) * Object.keys(TCP_ROUTES).length;
}

/** @throws RelayError TICKRELAY_ERR_LOAD when a program failed or is not there; an AbortError when `signal` fired */
export async function runTcpBenchmark(options: TcpBenchmarkOptions): Promise<TcpResults> {
  const programs = postgresPrograms();
  if (programs === undefined) {
    throw new RelayError(
      'TICKRELAY_ERR_LOAD',
      '--tcp needs a PostgreSQL server in /usr/lib/postgresql (Debian: postgresql)',
    );
  }
  const folder = mkdtempSync(join(tmpdir(), 'tickrelay-tcp-'));
  chmodSync(folder, 0o755);
  try {
    return await measure({ ...options, programs, folder });
  } finally {
    await options.group.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

type Context = TcpBenchmarkOptions & { readonly programs: string; readonly folder: string };

async function measure(context: Context): Promise<TcpResults> {
  const { plan, group, signal, progress, programs, folder } = context;
  const startedAt = new Date().toISOString();
  progress.step('starting PostgreSQL and the routes');
  const idle = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  const machine = describeMachine(cpuSpent(idle, readCpuTimes()).share);
  const cluster = await PostgresCluster.start({ group, programs, folder, settings: ['max_connections=200'] });
  await initPgbench(programs, cluster.endpoint);
  const postgres = await cluster.query(cluster.endpoint, 'show server_version');
  const services = [cluster.endpoint, await startBulkServer(group)];
  const routes: TcpRoute[] = [];
  const absent: AbsentPeer[] = [];
  for (const name of Object.keys(TCP_ROUTES)) {
    const route = await openTcpRoute(name, { group, services, folder });
    if ('targets' in route) routes.push(route);
    else absent.push(route);
  }
  progress.skip(absent.length * (1 + plan.rounds * WORKLOADS.length));
  for (const route of routes) {
    progress.step(`warming ${route.info.name} up`);
    await warmUp(route, context);
  }

  const runs: TcpRun[] = [];
  for (let round = 1; round <= plan.rounds; round++) {
    for (const workload of WORKLOADS) {
      for (const route of routes) {
        progress.step(`round ${round}: ${workload}, ${route.info.name}`);
        signal.throwIfAborted();
        runs.push({ ...(await runOne(route, workload, context)), round });
      }
    }
  }
  await cluster.close();
  return { startedAt, machine, plan, postgres, routes: routes.map(({ info }) => info), absent, runs };
}

/**
 * Connections that nobody measures, until code that is compiled when it is hot is compiled: short ones first, of which a server in
 * this language takes ten times as many as PostgreSQL.
 */
async function warmUp(route: TcpRoute, context: Context): Promise<void> {
  let left = WARM_UP_CONNECTIONS;
  const carry = async (): Promise<void> => {
    while (left-- > 0) await download(route.targets[1]!, 1, context.signal);
  };
  await Promise.all(Array.from({ length: WARM_UP_AT_ONCE }, carry));
  await queries(route, 'reconnecting', context);
}

async function runOne(route: TcpRoute, workload: Workload, context: Context): Promise<Omit<TcpRun, 'round'>> {
  const before = route.pid === undefined ? undefined : readProcessCpu(route.pid);
  const isBulk = workload === 'bulk' || workload === 'upload';
  const load = isBulk ? await bulk(route, workload, context) : await queries(route, workload, context);
  const after = route.pid === undefined ? undefined : readProcessCpu(route.pid);
  const cpu = before && after && processCpuBetween(before, after);
  return { route: route.info.name, workload, cpu, ...load };
}

async function queries({ targets }: TcpRoute, workload: Workload, context: Context) {
  const { programs, plan, folder, signal } = context;
  const { transactions, transactionsPerSecond, latencyUs } = await runPgbench({
    programs,
    target: targets[0]!,
    clients: plan.clients,
    durationS: plan.durationS,
    isReconnecting: workload === 'reconnecting',
    folder,
    signal,
  });
  return { units: transactions, unitsPerSecond: transactionsPerSecond, latencyUs };
}

async function bulk({ targets }: TcpRoute, workload: 'bulk' | 'upload', { plan, signal }: Context) {
  const carry = workload === 'bulk' ? download : upload;
  const tookMs = await carry(targets[1]!, plan.bulkBytes, signal);
  const units = plan.bulkBytes / MIB;
  return { units, unitsPerSecond: (1000 * units) / tookMs, latencyUs: undefined };
}
