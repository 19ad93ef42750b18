/** The login path with a real database: psql and pgbench through the relay to PostgreSQL, its health, its death. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { postgresPrograms, POSTGRES_USER, type PostgresCluster } from '../../bench/postgres-cluster.ts';
import { initPgbench, readSummary } from '../../bench/tcp/pgbench.ts';
import type { Endpoint } from '../../net/address.ts';
import { postgresCheck } from '../../relay/control/health-checks/postgres-check.ts';
import { testOnce } from '../support/engine-pass.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';
import { TcpClient } from '../support/tcp-client.ts';
import { until } from '../support/until.ts';

const programs = postgresPrograms();
const ABSENT = 'there is no PostgreSQL server in /usr/lib/postgresql';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

/** A relay with one listener for each pool, whose backends have the names of the keys. */
function relayBefore(
  pools: Readonly<
    Record<string, { healthCheck: object; clusters: Readonly<Record<string, PostgresCluster>> }>
  >,
): Promise<RelayProcess> {
  return stage.relay({
    listeners: Object.keys(pools).map((pool) => ({
      name: pool,
      protocol: 'tcp',
      listen: '127.0.0.1:0',
      pool,
    })),
    pools: Object.fromEntries(
      Object.entries(pools).map(([pool, { healthCheck, clusters }]) => [
        pool,
        {
          healthCheck,
          backends: Object.entries(clusters).map(([id, { endpoint }]) => ({
            id,
            address: endpoint.toString(),
          })),
        },
      ]),
    ),
    admin: { listen: '127.0.0.1:0' },
  });
}

const CHECK = { type: 'postgres', interval: '250ms', timeout: '250ms', fall: 2 };

async function pgbench(at: Endpoint, ...args: string[]): Promise<{ transactions: number; failed: boolean }> {
  const where = ['-h', at.ip.toString(), '-p', `${at.port}`, '-U', POSTGRES_USER, '-n', '-S'];
  const { stdout } = await promisify(execFile)(join(programs!, 'pgbench'), [...where, ...args, 'postgres'], {
    env: { ...process.env, PGSSLMODE: 'disable' },
  });
  return { ...readSummary(stdout), failed: !/number of failed transactions: 0 /.test(stdout) };
}

test('psql gets through the relay what it gets from PostgreSQL itself', async ({ skip }) => {
  if (programs === undefined) return skip(ABSENT);
  const cluster = await stage.postgres(programs);
  const { port } = cluster.endpoint;
  const relay = await stage.relayFromFlags([
    '--tcp',
    `127.0.0.1:0=127.0.0.1:${port}`,
    '--admin',
    '127.0.0.1:0',
  ]);
  const through = relay.listener();
  await cluster.query(through, 'create table players (id int primary key, name text)');
  await cluster.query(through, `insert into players select i, md5(i::text) from generate_series(1, 20000) i`);
  const all = 'select * from players order by id';
  expect(await cluster.query(through, all)).toBe(await cluster.query(cluster.endpoint, all));
  expect(await cluster.query(through, 'select inet_server_port()')).toBe(String(port));
  await expect(cluster.query(through, 'select nonsense')).rejects.toThrow('column "nonsense" does not exist');

  const answers = await Promise.all(
    Array.from({ length: 8 }, (_, i) =>
      cluster.query(through, `select name from players where id = ${i + 1}`),
    ),
  );
  expect(new Set(answers).size).toBe(8);
  await relay.untilMetric('tcp_connections', {}, 0);
  const page = await relay.metrics();
  expect(page.value('tcp_connections_accepted_total')).toBe(13);
  expect(page.value('tcp_connections_closed_total', { reason: 'completed' })).toBe(13);
});

test('pgbench over two servers: connections that stay, connections for each transaction, and a server killed in between', async ({
  skip,
}) => {
  if (programs === undefined) return skip(ABSENT);
  const primary = await stage.postgres(programs);
  await initPgbench(programs, primary.endpoint);
  const replica = stage.closing(await primary.replicate({}));
  await replica.untilAnswers();
  const relay = await relayBefore({ db: { healthCheck: CHECK, clusters: { primary, replica } } });
  const through = relay.listener('db');

  expect(await pgbench(through, '-c', '4', '-t', '200')).toEqual({
    transactions: 800,
    transactionsPerSecond: expect.any(Number) as number,
    failed: false,
  });
  // pgbench asks for its tables over a connection of its own, then opens four.
  const { transactions, failed } = await pgbench(through, '-C', '-c', '4', '-t', '50');
  expect([transactions, failed]).toEqual([200, false]);
  await relay.untilMetric('tcp_connections', {}, 0);
  const accepted = (await relay.metric('tcp_connections_accepted_total'))!;
  expect(await relay.metric('tcp_connections_closed_total', { reason: 'completed' })).toBe(accepted);

  replica.process.signal('SIGQUIT');
  await relay.untilStates({ primary: 'ready', replica: 'unhealthy' }, 'db');
  const after = await pgbench(through, '-C', '-c', '2', '-t', '50');
  expect([after.transactions, after.failed]).toEqual([100, false]);
  expect(await primary.query(through, 'select inet_server_port()')).toBe(String(primary.endpoint.port));
});

test('a pool for the primary and one for replicas follow a promotion', async ({ skip }) => {
  if (programs === undefined) return skip(ABSENT);
  const a = await stage.postgres(programs);
  const b = stage.closing(await a.replicate({}));
  await b.untilAnswers();
  const clusters = { a, b };
  const check = (role: string) => ({ ...CHECK, role, user: POSTGRES_USER });
  const relay = await relayBefore({
    writes: { healthCheck: check('primary'), clusters },
    reads: { healthCheck: check('replica'), clusters },
  });
  await relay.untilStates({ a: 'ready', b: 'unhealthy' }, 'writes');
  await relay.untilStates({ a: 'unhealthy', b: 'ready' }, 'reads');
  const { failure } = (await relay.backends('writes')).get('b')!;
  expect(failure).toBe('is a replica');
  expect(await a.query(relay.listener('writes'), 'create table scores (id int); select 1')).toContain('1');

  await a.close();
  await b.query(b.endpoint, 'select pg_promote()');
  await relay.untilStates({ a: 'unhealthy', b: 'ready' }, 'writes');
  await relay.untilStates({ a: 'unhealthy', b: 'unhealthy' }, 'reads');
  expect(await b.query(relay.listener('writes'), 'insert into scores values (1) returning id')).toContain(
    '1',
  );
});

testOnce(
  'a server that takes no clients is not well: a replica that only recovers, and one that shuts down',
  async ({ skip }) => {
    if (programs === undefined) return skip(ABSENT);
    const primary = await stage.postgres(programs);
    const closed = stage.closing(await primary.replicate({ settings: ['hot_standby=off'] }));
    const check = postgresCheck({
      port: undefined,
      user: undefined,
      password: undefined,
      database: 'postgres',
      role: 'any',
    });
    const failureOf = (cluster: PostgresCluster) => check(cluster.endpoint, AbortSignal.timeout(10_000));
    expect(await failureOf(primary)).toBeUndefined();
    await until('the replica to answer', async () =>
      /57P03/.test((await failureOf(closed).catch(() => undefined)) ?? ''),
    );
    expect(await failureOf(closed)).toMatch(/^the database system is not accepting connections \(57P03\)$/);

    // A smart shutdown waits for this client, and takes no others.
    const client = stage.closing(await TcpClient.connect(primary.endpoint));
    client.write(startup());
    await client.untilReceived(1);
    primary.process.signal('SIGTERM');
    await until('the shutdown', async () => (await failureOf(primary)) !== undefined);
    expect(await failureOf(primary)).toBe('the database system is shutting down (57P03)');
  },
);

test('an oversized StartupMessage is refused by PostgreSQL, and harms neither the relay nor others', async ({
  skip,
}) => {
  if (programs === undefined) return skip(ABSENT);
  const cluster = await stage.postgres(programs);
  const relay = await relayBefore({ db: { healthCheck: CHECK, clusters: { db: cluster } } });
  const hostile = stage.closing(await TcpClient.connect(relay.listener('db')));
  const message = Buffer.alloc(1024 * 1024);
  message.writeInt32BE(0x7fffffff, 0);
  message.writeInt32BE(196_608, 4);
  hostile.write(message);
  await hostile.untilOver();
  expect(await cluster.query(relay.listener('db'), 'select 1')).toBe('1');
  await relay.untilMetric('tcp_connections', {}, 0);
  await relay.untilStates({ db: 'ready' }, 'db');
});

/** A StartupMessage as PostgreSQL's documentation has it. */
function startup(): Buffer {
  const parameters = Buffer.from(`user\0${POSTGRES_USER}\0database\0postgres\0\0`);
  const header = Buffer.alloc(8);
  header.writeInt32BE(8 + parameters.length, 0);
  header.writeInt32BE(196_608, 4);
  return Buffer.concat([header, parameters]);
}
