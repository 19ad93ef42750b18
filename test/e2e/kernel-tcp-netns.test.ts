/**
 * TCP listeners in the kernel between machines: clients, relay and backends in namespaces of their own, with segments that the
 * network cards' offloads have put together and take apart. Routed, the backend's answers come back through the relay's host;
 * one-armed, the backend knows nothing of it, so the relay must use its own address.
 */
import { afterEach, expect, test } from 'vitest';
import type { ManagedProcess } from '../../bench/process-group.ts';
import type { TcpListenerStatus } from '../../relay/engines/engine.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { type Role, whyNoNamespaces } from '../support/netns.ts';
import { NETWORK_CASES, NetworkStage, type SourceAddress } from '../support/network-stage.ts';

const unavailable = whyUnavailable() ?? whyNoNamespaces();

const SAY = 'const say = (event, rest) => console.log(JSON.stringify({ event, ...rest }));';

/** Sends back what it gets, its FIN after the client's; says who its client is, and when it is reset. */
const ECHO = `
  ${SAY}
  const [, host, port] = process.argv;
  require('node:net').createServer({ allowHalfOpen: true }, (socket) => {
    say('client', { ip: socket.remoteAddress });
    socket.on('error', ({ code }) => say('failed', { code }));
    socket.pipe(socket);
  }).listen(Number(port), host, () => say('ready'));
`;

/** Sends random bytes with their half-close over several connections at once, and compares hashes; with 0 bytes it holds one. */
const CLIENT = `
  ${SAY}
  const [, host, port, count, bytes] = process.argv;
  const { createHash, randomBytes } = require('node:crypto');
  const exchange = () => new Promise((resolve) => {
    const [sent, received] = [createHash('sha256'), createHash('sha256')];
    const socket = require('node:net').connect({ host, port: Number(port), allowHalfOpen: true }, () => {
      say('connected');
      if (Number(bytes) === 0) socket.write('held');
      let left = Number(bytes);
      const more = () => {
        while (left > 0) {
          const chunk = randomBytes(Math.min(left, 65_536));
          left -= chunk.length;
          sent.update(chunk);
          if (left === 0) socket.end(chunk);
          else if (!socket.write(chunk)) return;
        }
      };
      socket.on('drain', more);
      more();
    });
    socket.on('data', (chunk) => {
      if (Number(bytes) === 0) say('echoed');
      received.update(chunk);
    });
    socket.on('end', () => resolve(sent.digest('hex') === received.digest('hex') ? 'whole' : 'changed'));
    socket.on('error', ({ code }) => resolve(code));
  });
  Promise.all(Array.from({ length: Number(count) }, exchange)).then((ends) => say('summary', { ends }));
`;

const CONNECTIONS = 4;
const BYTES_EACH = 4 * 1024 * 1024;

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: NetworkStage;
  afterEach(() => stage.close());

  const startScript = (role: Role, script: string, ...args: readonly (string | number)[]): ManagedProcess =>
    stage.startIn(role, { name: role, args: ['-e', script, ...args.map(String)] });

  const startBackend = async (family: 4 | 6): Promise<ManagedProcess> => {
    const backend = startScript('server', ECHO, stage.bed.address('server', family), 7000);
    await backend.event('ready');
    return backend;
  };

  const startRelay = (sourceAddress: SourceAddress, family: 4 | 6): Promise<ManagedProcess> => {
    const listen = stage.endpoint('relay', 5432, family);
    const backends = [stage.endpoint('server', 7000, family)];
    return stage.kernelRelay(
      {
        listeners: [{ name: 'login', protocol: 'tcp', listen, pool: 'logins', engine: 'kernel' }],
        pools: { logins: { healthCheck: { type: 'none' }, backends } },
        admin: { listen: '127.0.0.1:7900' },
        shutdown: { deadline: '1s' },
      },
      sourceAddress,
    );
  };

  const startClient = (family: 4 | 6, connections: number, bytes: number): ManagedProcess =>
    startScript('client', CLIENT, stage.bed.address('relay', family), 5432, connections, bytes);

  /** Segments that the system there has sent again. */
  const retransmitted = (role: Role): number => {
    const [names, values] = stage.bed
      .run(role, 'cat', '/proc/net/snmp')
      .split('\n')
      .filter((line) => line.startsWith('Tcp:'))
      .map((line) => line.split(' '));
    const count = Number(values![names!.indexOf('RetransSegs')]);
    expect(count).toBeGreaterThanOrEqual(0);
    return count;
  };

  const countsOf = async (relay: ManagedProcess): Promise<TcpListenerStatus['counts']> => {
    relay.signal('SIGTERM');
    const { tcp } = await relay.event('summary');
    return (tcp as Record<string, TcpListenerStatus['counts']>)['login']!;
  };

  test.each(NETWORK_CASES)(
    '%s, with the address of the %s, over IPv%i: every byte comes back, and who ends a connection is heard at both ends',
    async (...of) => {
      const [topology, sourceAddress, family] = of;
      stage = new NetworkStage(topology);
      const backend = await startBackend(family);
      const relay = await startRelay(sourceAddress, family);
      const { ends } = await startClient(family, CONNECTIONS, BYTES_EACH).event('summary');
      expect(ends).toEqual(Array<string>(CONNECTIONS).fill('whole'));
      const onServerSide = topology === 'routed' && sourceAddress === 'relay';
      const seen = onServerSide ? '10.77.2.1' : stage.bed.address(sourceAddress, family);
      expect(await backend.event('client')).toEqual({ ip: seen });

      const admin = (...args: readonly string[]): string =>
        stage.bed.run('relay', 'curl', '-s', '-w', '%{http_code}', ...args);
      const held = startClient(family, 1, 0);
      await held.event('echoed');
      const [id] = /(?<="id":)\d+/.exec(admin('http://127.0.0.1:7900/v1/connections'))!;
      expect(admin('-X', 'DELETE', `http://127.0.0.1:7900/v1/connections/${id}`)).toBe('204');
      expect(await held.event('summary')).toEqual({ ends: ['ECONNRESET'] });
      expect(await backend.event('failed')).toEqual({ code: 'ECONNRESET' });

      backend.signal('SIGKILL');
      await backend.ended(20_000);
      expect(await startClient(family, 1, 0).event('summary')).toEqual({ ends: ['ECONNREFUSED'] });
      const counts = await countsOf(relay);
      expect(counts).toMatchObject({
        accepted: CONNECTIONS + 2,
        droppedSegments: 0,
      });
      // The relay counts what passes: what a sender sends again counts again, and a busy machine makes it do so.
      const bytes = CONNECTIONS * BYTES_EACH + 'held'.length;
      for (const [counted, sender] of [
        [counts.downstreamBytes, 'client'],
        [counts.upstreamBytes, 'server'],
      ] as const) {
        const again = counted - bytes;
        expect(again).toBeGreaterThanOrEqual(0);
        if (retransmitted(sender) === 0) expect(again).toBe(0);
      }
      expect(counts.closed).toMatchObject({ completed: CONNECTIONS, operator: 1, 'connect-failed': 1 });
    },
  );
}
