/** The login path between machines: psql and pgbench in one network namespace, PostgreSQL in another, the relay in between. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { postgresPrograms, POSTGRES_USER } from '../../bench/postgres-cluster.ts';
import { type ManagedProcess, tickrelay } from '../../bench/process-group.ts';
import { readSummary } from '../../bench/tcp/pgbench.ts';
import { Endpoint } from '../../net/address.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { testOnce } from '../support/engine-pass.ts';
import { type Topology, whyNoNamespaces } from '../support/netns.ts';
import { NetworkStage, type SourceAddress } from '../support/network-stage.ts';

const programs = postgresPrograms();
const unavailable =
  (programs === undefined ? 'there is no PostgreSQL server in /usr/lib/postgresql' : undefined) ??
  whyNoNamespaces();

const ROWS = 20_000;
const PERSISTENT = ['-c', '4', '-t', '200'];
const RECONNECTING = ['-C', '-c', '4', '-t', '25'];

/** How TCP is carried, through what network, whose address the server sees, and the kind of IP. */
const CASES: readonly (readonly ['kernel' | 'userspace', Topology, SourceAddress, 4 | 6])[] = [
  ['kernel', 'routed', 'client', 4],
  ['kernel', 'routed', 'client', 6],
  ['kernel', 'one-armed', 'relay', 4],
  ['userspace', 'routed', 'relay', 4],
  ['userspace', 'one-armed', 'relay', 6],
];

let stage: NetworkStage;
afterEach(() => stage.close());

const whyNoKernel = whyUnavailable();

const startRelay = (
  engine: 'kernel' | 'userspace',
  source: SourceAddress,
  family: 4 | 6,
): Promise<ManagedProcess> => {
  const config = {
    listeners: [
      { name: 'db', protocol: 'tcp', listen: stage.endpoint('relay', 5432, family), pool: 'db', engine },
    ],
    pools: {
      db: {
        healthCheck: { type: 'postgres', interval: '250ms' },
        backends: [stage.endpoint('server', 6432, family)],
      },
    },
    shutdown: { deadline: '1s' },
  };
  return engine === 'kernel' ? stage.kernelRelay(config, source) : userspaceRelay(config);
};

const userspaceRelay = async (config: object): Promise<ManagedProcess> => {
  const file = stage.writeFile('relay.yaml', config);
  const relay = stage.startIn('relay', tickrelay('relay', ['relay', '--json', '--config', file]));
  await relay.event('ready');
  return relay;
};

if (unavailable !== undefined) test.skip(`skipped: ${unavailable}`, () => undefined);
else {
  for (const [engine, topology, source, family] of CASES) {
    testOnce(
      `in ${engine}, ${topology}, with the address of the ${source}, over IPv${family}`,
      async ({ skip }) => {
        if (engine === 'kernel' && whyNoKernel !== undefined) return skip(whyNoKernel);
        stage = new NetworkStage(topology);
        const accessFile = join(stage.folder, 'pg_hba.conf');
        writeFileSync(accessFile, 'host all all all trust\n');
        const cluster = await stage.postgres(programs!, {
          listen: Endpoint.parse(stage.endpoint('server', 6432, family)),
          settings: [`hba_file=${accessFile}`],
          inside: (spec) => stage.bed.of('server').inside(spec),
        });
        const relay = await startRelay(engine, source, family);

        const address = stage.bed.address('relay', family);
        const asClient = (program: string, ...args: readonly string[]): string =>
          stage.bed.run(
            'client',
            join(programs!, program),
            '-h',
            address,
            '-p',
            '5432',
            '-U',
            POSTGRES_USER,
            ...args,
          );
        const psql = (sql: string): string => asClient('psql', '-d', 'postgres', '-XAtc', sql).trimEnd();
        asClient('pgbench', '-i', '-q', '-s', '1', 'postgres');
        psql(
          `create table players as select i as id, md5(i::text) as name from generate_series(1, ${ROWS}) i`,
        );
        const all = 'select * from players order by id';
        expect(psql(all)).toBe(await cluster.query(cluster.endpoint, all));
        // Who connects from the relay's own system has the address that this has on the server's side.
        const onServerSide = engine === 'userspace' && topology === 'routed';
        const seen = onServerSide ? '10.77.2.1' : stage.bed.address(source, family);
        expect(psql('select inet_client_addr()')).toBe(seen);

        for (const [args, transactions] of [
          [PERSISTENT, 800],
          [RECONNECTING, 100],
        ] as const) {
          const said = asClient('pgbench', '-n', '-S', ...args, 'postgres');
          expect(said).toContain('number of failed transactions: 0 ');
          expect(readSummary(said).transactions).toBe(transactions);
        }
        relay.signal('SIGTERM');
        const { tcp } = await relay.event('summary');
        const { accepted, closed } = (
          tcp as Record<string, { accepted: number; closed: Record<string, number> }>
        )['db']!;
        // pgbench asks for its tables over a connection of its own; each of the 100 transactions has one.
        expect(accepted).toBeGreaterThanOrEqual(3 + 5 + 101);
        expect(closed['completed']).toBe(accepted);
      },
    );
  }
}
