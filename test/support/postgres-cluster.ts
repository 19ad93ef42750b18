/**
 * A PostgreSQL cluster of its own for one test, in the test's folder, on 127.0.0.1. The server refuses to run as root,
 * so that a test that does runs it as `nobody`.
 */
import { execFile } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ManagedProcess, ProcessSpec } from '../../bench/process-group.ts';
import { Endpoint } from '../../net/address.ts';
import type { Stage } from './stage.ts';
import { until } from './until.ts';

const run = promisify(execFile);

const ROOT = '/usr/lib/postgresql';
const USER = 'tester';

/** How long the server may take to end by itself, and so to leave no shared memory behind. */
const STOP_DEADLINE_MS = 10_000;

/** The folder of the newest server's programs, or undefined where there is none. */
export function postgresPrograms(): string | undefined {
  const versions = existsSync(ROOT) ? readdirSync(ROOT).sort((a, b) => Number(b) - Number(a)) : [];
  return versions
    .map((version) => join(ROOT, version, 'bin'))
    .find((bin) => existsSync(join(bin, 'postgres')));
}

export class PostgresCluster {
  readonly endpoint: Endpoint;
  readonly #programs: string;
  readonly #process: ManagedProcess;

  private constructor(programs: string, endpoint: Endpoint, process: ManagedProcess) {
    this.#programs = programs;
    this.endpoint = endpoint;
    this.#process = process;
  }

  /** Resolves when it answers queries. It is closed with the stage. */
  static async start(stage: Stage, programs: string): Promise<PostgresCluster> {
    const folder = join(stage.folder, 'postgres');
    mkdirSync(folder);
    chmodSync(stage.folder, 0o755);
    chmodSync(folder, 0o777);
    const data = join(folder, 'data');
    const initdb = unprivileged('initdb', join(programs, 'initdb'), [
      '-D',
      data,
      '-U',
      USER,
      '-A',
      'trust',
      '-N',
    ]);
    await run(initdb.program!, initdb.args, { cwd: folder });
    const endpoint = await freeTcpPort();
    const settings = [
      'listen_addresses=127.0.0.1',
      `port=${endpoint.port}`,
      'unix_socket_directories=',
      'fsync=off',
      'shared_buffers=16MB',
    ].flatMap((setting) => ['-c', setting]);
    const process = stage.start(
      unprivileged('postgres', join(programs, 'postgres'), ['-D', data, ...settings]),
    );
    const cluster = stage.closing(new PostgresCluster(programs, endpoint, process));
    await until('PostgreSQL to answer', () => cluster.query(endpoint, 'select 1').then(Boolean, () => false));
    return cluster;
  }

  /** Runs psql against an address: the cluster's own, or a relay's. @returns what it prints, without decoration */
  async query(at: Endpoint, sql: string): Promise<string> {
    const where = ['-h', at.ip.toString(), '-p', String(at.port), '-U', USER, '-d', 'postgres'];
    const { stdout } = await run(join(this.#programs, 'psql'), [...where, '-X', '-A', '-t', '-c', sql], {
      maxBuffer: 64 * 1024 * 1024,
      env: { ...process.env, PGSSLMODE: 'disable', PGCONNECT_TIMEOUT: '10' },
    });
    return stdout.trimEnd();
  }

  /** Fast shutdown: clients are cut, files and shared memory are left in order. */
  async close(): Promise<void> {
    this.#process.signal('SIGINT');
    await this.#process.ended(STOP_DEADLINE_MS).catch(() => undefined);
  }
}

function unprivileged(name: string, program: string, args: readonly string[]): ProcessSpec {
  if (process.getuid?.() !== 0) return { name, program, args };
  return {
    name,
    program: 'setpriv',
    args: ['--reuid=nobody', '--regid=nogroup', '--clear-groups', program, ...args],
  };
}

/** PostgreSQL can't be told to take any free port. */
async function freeTcpPort(): Promise<Endpoint> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return Endpoint.parse(`127.0.0.1:${port}`);
}
