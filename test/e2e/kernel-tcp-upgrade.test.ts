/**
 * TCP connections in the kernel under a relay of another version, which takes a dead one's place under load: where it lays out its
 * maps in the same way they go on, with its programs; else they are reset, and new ones open.
 */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { BpfMap } from '../../relay/engines/kernel/bpf-map.ts';
import { PinDirectory } from '../../relay/engines/kernel/bpffs.ts';
import { tcpMapSpecs, tcpProgramIndex } from '../../relay/engines/kernel/tcp-maps.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { type Change, makeOtherVersion, OTHER_LAYOUT, programTag } from '../support/other-version.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { exchangeMore, MESSAGE_BYTES, SteadyConnection } from '../support/steady-connection.ts';
import { startTcpBackend } from '../support/tcp-backend.ts';
import { TcpClient } from '../support/tcp-client.ts';
import { until } from '../support/until.ts';

const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

const CONNECTIONS = 16;

/** Other instructions in the programs of both directions; the records are the same. */
const OTHER_PROGRAMS: readonly Change[] = [
  {
    file: 'relay/engines/kernel/program-tcp-frame.js',
    from: 'MOST_WINDOW = 2 ** 30;',
    to: 'MOST_WINDOW = 2 ** 30 - 1;',
  },
];

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: KernelStage;
  let connections: readonly SteadyConnection[];
  beforeEach(() => {
    stage = new KernelStage();
  });
  afterEach(() => stage.close());

  /** The tags, hashes of their instructions, of the programs that carry TCP. */
  const tags = (): string[] => {
    const { bpf, bpffs } = stage;
    const spec = tcpMapSpecs({ maxSessions: 1, maxPools: 1 }).tcp_programs;
    const map = new BpfMap(bpf, spec, bpf.open(new PinDirectory(bpffs.path, 'upgraded').mapPath(spec.name))!);
    const found = (['ingress', 'egress'] as const).map((hook) => {
      const id = new Uint8Array(4);
      map.lookupAt(tcpProgramIndex(hook, 14), id);
      const [number] = new Uint32Array(id.buffer);
      return programTag(bpf, number!);
    });
    map.close();
    return found;
  };

  /** Connections under load, over the death of their relay and the start of another version in its place. */
  const upgrade = async (
    sourceAddress: 'client' | 'relay',
    changes: readonly Change[],
  ): Promise<{ second: RelayProcess; before: string[] }> => {
    const backends = [await startTcpBackend(stage, 'a'), await startTcpBackend(stage, 'b')];
    const config = (listen: string, admin: string): object => ({
      name: 'upgraded',
      engine: 'kernel',
      kernel: { bpffs: stage.bpffs.path, sourceAddress },
      listeners: [{ name: 'login', protocol: 'tcp', listen, pool: 'logins', engine: 'kernel' }],
      pools: {
        logins: {
          healthCheck: { type: 'none' },
          backends: backends.map(({ id, address }) => ({ id, address })),
        },
      },
      admin: { listen: admin },
      shutdown: { deadline: '1s' },
    });
    const first = await stage.relay(config('127.0.0.1:0', '127.0.0.1:0'));
    connections = await Promise.all(
      Array.from({ length: CONNECTIONS }, async () =>
        stage.closing(await SteadyConnection.open(first.listener())),
      ),
    );
    await exchangeMore(connections);
    const before = tags();
    const cli = makeOtherVersion(`${stage.folder}/other`, changes);
    const beganMs = performance.now();
    const exchangedBefore = connections.reduce((sum, { exchanged }) => sum + exchanged, 0);
    first.process.signal('SIGKILL');
    await first.process.ended(20_000);
    await exchangeMore(connections);
    const listen = first.listener().toString();
    const second = await stage.relayOfOtherVersion(cli, config(listen, first.admin.replace('http://', '')));
    await exchangeMore(connections);
    const exchanged = connections.reduce((sum, one) => sum + one.exchanged, 0) - exchangedBefore;
    const rate = Math.round(exchanged / ((performance.now() - beganMs) / 1_000));
    const lost = connections.filter(({ failure }) => failure !== undefined).length;
    process.stdout.write(
      `kill -9 and another version, backends see the ${sourceAddress}: ${lost} of ${CONNECTIONS} connections lost, ` +
        `which exchanged ${rate} messages of ${MESSAGE_BYTES} bytes a second\n`,
    );
    return { second, before };
  };

  test.each(['client', 'relay'] as const)(
    'with the address of the %s, other programs take over, and every connection goes on with every byte',
    async (sourceAddress) => {
      const { second, before } = await upgrade(sourceAddress, OTHER_PROGRAMS);
      expect(connections.map(({ failure }) => failure)).toEqual(connections.map(() => undefined));
      expect(second.process.stderr).toContain(`${CONNECTIONS} TCP connections`);
      const now = tags();
      for (const i of [0, 1]) expect(now[i]).not.toBe(before[i]);
      expect(await second.connections()).toHaveLength(CONNECTIONS);
      expect(await second.metric('tcp_connections_accepted_total')).toBe(CONNECTIONS);
    },
    60_000,
  );

  test.each(['client', 'relay'] as const)(
    'with the address of the %s, connections of a version with another layout are reset, and new ones open',
    async (sourceAddress) => {
      const { second } = await upgrade(sourceAddress, OTHER_LAYOUT);
      expect(second.process.stderr).toContain('could not be adopted');
      await until('all to be reset', () => connections.every(({ failure }) => failure !== undefined));
      expect(new Set(connections.map(({ failure }) => failure))).toEqual(new Set(['ECONNRESET']));
      const again = stage.closing(await TcpClient.connect(second.listener()));
      again.write('x');
      expect((await again.untilReceived(1)).toString()).toBe('x');
    },
    60_000,
  );
}
