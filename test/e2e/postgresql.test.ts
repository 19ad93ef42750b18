/** The login path with a real database: psql through the relay to a PostgreSQL server. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { PostgresCluster, postgresPrograms } from '../support/postgres-cluster.ts';
import { Stage } from '../support/stage.ts';

const programs = postgresPrograms();

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

test('psql gets through the relay what it gets from PostgreSQL itself', async ({ skip }) => {
  if (programs === undefined) return skip('there is no PostgreSQL server in /usr/lib/postgresql');
  const cluster = await PostgresCluster.start(stage, programs);
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
