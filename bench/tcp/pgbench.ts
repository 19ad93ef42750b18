/**
 * pgbench, PostgreSQL's own load generator, against one address: select-only, with clients that stay connected or that
 * connect anew for every transaction. https://www.postgresql.org/docs/current/pgbench.html
 */
import { execFile } from 'node:child_process';
import { readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { POSTGRES_USER } from '../postgres-cluster.ts';
import type { LatencyUs } from './tcp-results.ts';

const run = promisify(execFile);

/** Rows of the benchmark's table are 100,000 times this. */
const SCALE = '1';

export interface PgbenchOptions {
  /** The folder of PostgreSQL's programs. */
  readonly programs: string;
  readonly target: Endpoint;
  readonly clients: number;
  readonly durationS: number;
  /** A connection for each transaction. */
  readonly isReconnecting: boolean;
  /** For its log of single transactions, which goes again. */
  readonly folder: string;
  readonly signal: AbortSignal;
}

export interface PgbenchResult {
  readonly transactions: number;
  readonly transactionsPerSecond: number;
  readonly latencyUs: LatencyUs;
}

/** Fills the tables, once. */
export async function initPgbench(programs: string, target: Endpoint): Promise<void> {
  await pgbench(programs, target, ['-i', '-q', '-s', SCALE]);
}

/** @throws RelayError TICKRELAY_ERR_LOAD with what it wrote, when it fails; an AbortError when `signal` fired */
export async function runPgbench(options: PgbenchOptions): Promise<PgbenchResult> {
  const { programs, target, clients, durationS, isReconnecting, folder, signal } = options;
  const prefix = 'pgbench-transactions';
  const out = await pgbench(
    programs,
    target,
    [
      ...['-n', '-S', '-c', `${clients}`, '-j', '1', '-T', `${durationS}`],
      ...['-l', '--log-prefix', join(folder, prefix)],
      ...(isReconnecting ? ['-C'] : []),
    ],
    signal,
  );
  const logs = readdirSync(folder).filter((name) => name.startsWith(prefix));
  const latencies = logs.flatMap((name) => readLatencies(readFileSync(join(folder, name), 'utf8')));
  for (const name of logs) rmSync(join(folder, name));
  return { ...readSummary(out), latencyUs: percentiles(latencies) };
}

async function pgbench(
  programs: string,
  { ip, port }: Endpoint,
  args: readonly string[],
  signal?: AbortSignal,
) {
  const where = ['-h', ip.toString(), '-p', `${port}`, '-U', POSTGRES_USER];
  try {
    const { stdout } = await run(join(programs, 'pgbench'), [...where, ...args, 'postgres'], {
      env: { ...process.env, PGSSLMODE: 'disable' },
      ...(signal && { signal }),
    });
    return stdout;
  } catch (error) {
    if (signal?.aborted === true) throw error;
    const { stderr = '', message } = error as { stderr?: string; message: string };
    throw new RelayError('TICKRELAY_ERR_LOAD', `pgbench failed: ${stderr.trim() || message}`, {
      cause: error,
    });
  }
}

/** @throws RelayError TICKRELAY_ERR_LOAD when it says nothing of the kind */
export function readSummary(out: string): Pick<PgbenchResult, 'transactions' | 'transactionsPerSecond'> {
  const transactions = /^number of transactions actually processed: (\d+)/m.exec(out)?.[1];
  const perSecond = /^tps = ([\d.]+)/m.exec(out)?.[1];
  if (transactions === undefined || perSecond === undefined) {
    throw new RelayError('TICKRELAY_ERR_LOAD', `pgbench did not say how it went:\n${out}`);
  }
  return { transactions: Number(transactions), transactionsPerSecond: Number(perSecond) };
}

/** The third field of each line: how long the transaction took, in microseconds. */
export function readLatencies(log: string): number[] {
  return log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => Number(line.split(' ')[2]));
}

/** @param valuesUs at least one */
export function percentiles(valuesUs: readonly number[]): LatencyUs {
  const sorted = Float64Array.from(valuesUs).sort();
  const at = (share: number): number =>
    sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999) };
}
