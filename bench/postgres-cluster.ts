/**
 * A PostgreSQL cluster of one run's own, in a folder of the run, by default on 127.0.0.1: for tests, the benchmark and the demo. It
 * may have a replica. The server refuses to run as root, so that a run that does has it run as `nobody`.
 */
import { execFile } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Endpoint } from '../net/address.ts';
import { RelayError } from '../net/relay-error.ts';
import { freeTcpPort } from './free-port.ts';
import type { ManagedProcess, ProcessGroup, ProcessSpec } from './process-group.ts';

const run = promisify(execFile);

const ROOT = '/usr/lib/postgresql';
export const POSTGRES_USER = 'tester';

/** How long the server may take to answer, in ms. */
const READY_DEADLINE_MS = 30_000;
const POLL_MS = 50;
/** How long the server may take to end by itself, and so to leave no shared memory behind. */
const STOP_DEADLINE_MS = 10_000;

const AS_IT_IS = (spec: ProcessSpec): ProcessSpec => spec;

/** The folder of the newest server's programs, or undefined where there is none. */
export function postgresPrograms(): string | undefined {
  const versions = existsSync(ROOT) ? readdirSync(ROOT).sort((a, b) => Number(b) - Number(a)) : [];
  return versions
    .map((version) => join(ROOT, version, 'bin'))
    .find((bin) => existsSync(join(bin, 'postgres')));
}

export interface PostgresOptions {
  readonly group: Pick<ProcessGroup, 'start'>;
  /** As `postgresPrograms` says. */
  readonly programs: string;
  /** Of the run; others must be allowed into it. The cluster's files are in a folder below it. */
  readonly folder: string;
  readonly name?: string;
  /** Further settings, `name=value`. */
  readonly settings?: readonly string[];
  /** Where it listens; by default on a free port of 127.0.0.1. */
  readonly listen?: Endpoint;
  /** How the server and those who ask it are started, such as in a network namespace. By default as they are. */
  readonly inside?: (spec: ProcessSpec) => ProcessSpec;
}

export class PostgresCluster {
  readonly endpoint: Endpoint;
  readonly process: ManagedProcess;
  readonly #options: PostgresOptions;

  private constructor(options: PostgresOptions, endpoint: Endpoint, process: ManagedProcess) {
    this.#options = options;
    this.endpoint = endpoint;
    this.process = process;
  }

  /** Resolves when it answers queries. */
  static async start(options: PostgresOptions): Promise<PostgresCluster> {
    const data = makeFolder(options);
    await runUnprivileged(options, 'initdb', ['-D', data, '-U', POSTGRES_USER, '-A', 'trust', '-N']);
    const cluster = await PostgresCluster.#launch(options, data);
    await cluster.untilAnswers();
    return cluster;
  }

  /** Starts a replica of this cluster. Does not wait until it answers: it may be told not to (hot_standby=off). */
  async replicate(options: Omit<PostgresOptions, 'group' | 'programs' | 'folder'>): Promise<PostgresCluster> {
    const own = { ...this.#options, name: 'replica', ...options };
    const data = makeFolder(own);
    const { ip, port } = this.endpoint;
    const from = ['-h', ip.toString(), '-p', `${port}`, '-U', POSTGRES_USER];
    await runUnprivileged(own, 'pg_basebackup', [...from, '-D', data, '-R', '-X', 'stream', '-c', 'fast']);
    return PostgresCluster.#launch(own, data);
  }

  static async #launch(options: PostgresOptions, data: string): Promise<PostgresCluster> {
    const endpoint = options.listen ?? (await freeTcpPort());
    const { inside = AS_IT_IS } = options;
    const settings = [
      `listen_addresses=${endpoint.ip.toString()}`,
      `port=${endpoint.port}`,
      'unix_socket_directories=',
      'fsync=off',
      'shared_buffers=16MB',
      ...(options.settings ?? []),
    ].flatMap((setting) => ['-c', setting]);
    const spec = unprivileged(options, 'postgres', ['-D', data, ...settings]);
    return new PostgresCluster(options, endpoint, options.group.start(inside(spec)));
  }

  /** Waits until it answers queries. @throws RelayError TICKRELAY_ERR_LOAD when it does not */
  async untilAnswers(): Promise<void> {
    const deadline = performance.now() + READY_DEADLINE_MS;
    while (!(await this.query(this.endpoint, 'select 1').then(Boolean, () => false))) {
      if (this.process.exit !== undefined || performance.now() > deadline) {
        const said = this.process.stderr;
        throw new RelayError('TICKRELAY_ERR_LOAD', `PostgreSQL did not come up. It wrote:\n${said}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** Runs psql against an address: the cluster's own, or a relay's. @returns what it prints, without decoration */
  async query(at: Endpoint, sql: string): Promise<string> {
    const where = ['-h', at.ip.toString(), '-p', String(at.port), '-U', POSTGRES_USER, '-d', 'postgres'];
    const psql = join(this.#options.programs, 'psql');
    const { inside = AS_IT_IS } = this.#options;
    const asked = inside({ name: 'psql', program: psql, args: [...where, '-X', '-A', '-t', '-c', sql] });
    const { stdout } = await run(asked.program ?? psql, asked.args, {
      maxBuffer: 64 * 1024 * 1024,
      env: { ...process.env, PGSSLMODE: 'disable', PGCONNECT_TIMEOUT: '10' },
    });
    return stdout.trimEnd();
  }

  /** Fast shutdown: clients are cut, files and shared memory are left in order. */
  async close(): Promise<void> {
    this.process.signal('SIGINT');
    await this.process.ended(STOP_DEADLINE_MS).catch(() => undefined);
  }
}

/** A folder that the server's user may write to. @returns where its data goes */
function makeFolder({ folder, name = 'postgres' }: PostgresOptions): string {
  const own = join(folder, name);
  mkdirSync(own);
  chmodSync(folder, 0o755);
  chmodSync(own, 0o777);
  return join(own, 'data');
}

async function runUnprivileged(options: PostgresOptions, program: string, args: readonly string[]) {
  const spec = unprivileged(options, program, args);
  await run(spec.program!, spec.args, { cwd: join(options.folder, options.name ?? 'postgres') });
}

function unprivileged(
  { programs, name = 'postgres' }: PostgresOptions,
  tool: string,
  args: readonly string[],
) {
  const program = join(programs, tool);
  const spec: ProcessSpec = { name, program, args };
  if (process.getuid?.() !== 0) return spec;
  return {
    ...spec,
    program: 'setpriv',
    args: ['--reuid=nobody', '--regid=nogroup', '--clear-groups', program, ...args],
  };
}
