/** What `bench --tcp` measured, as tcp.json holds it. The tables are made from this and nothing else. */
import type { AbsentPeer, Machine, ProcessCpu, RouteInfo } from '../results.ts';

export const WORKLOADS = ['persistent', 'reconnecting', 'bulk', 'upload'] as const;
/**
 * persistent: select-only transactions over connections that stay. reconnecting: a connection for each of them. bulk: one
 * connection that carries bytes from the service to the client. upload: the same the other way.
 */
export type Workload = (typeof WORKLOADS)[number];

export interface LatencyUs {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly p999: number;
}

export interface TcpRun {
  readonly route: string;
  readonly round: number;
  readonly workload: Workload;
  /** Transactions, or MiB. */
  readonly units: number;
  readonly unitsPerSecond: number;
  /** Of single transactions; with `reconnecting` the time to connect is in it. Undefined for bulk and upload. */
  readonly latencyUs: LatencyUs | undefined;
  /** Of the relay or peer during the run. */
  readonly cpu: ProcessCpu | undefined;
}

export interface TcpPlan {
  readonly rounds: number;
  readonly clients: number;
  /** Of one run of pgbench, in seconds. */
  readonly durationS: number;
  readonly bulkBytes: number;
}

export interface TcpResults {
  readonly startedAt: string;
  readonly machine: Machine;
  readonly plan: TcpPlan;
  /** As the server names itself. */
  readonly postgres: string;
  readonly routes: readonly RouteInfo[];
  readonly absent: readonly AbsentPeer[];
  readonly runs: readonly TcpRun[];
}
