/**
 * The kernel engine between machines: clients, relay and servers in namespaces of their own, where the server's answers come
 * back through the relay's host by routing.
 */
import { afterEach, describe, expect, test } from 'vitest';
import { tickrelay, type ManagedProcess, type ProcessSpec } from '../../bench/process-group.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { BpfFileSystem } from '../support/bpffs.ts';
import { NetworkBed, type Role, whyNoNamespaces } from '../support/netns.ts';
import { Stage } from '../support/stage.ts';

const unavailable = whyUnavailable() ?? whyNoNamespaces();

interface Traffic {
  readonly received: number;
  readonly forwarded: number;
  readonly dropped: Readonly<Record<string, number>>;
}

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: Stage;
  let bed: NetworkBed;

  const open = (topology: 'routed'): void => {
    stage = new Stage();
    bed = stage.closing(NetworkBed.make(topology));
  };
  afterEach(() => stage.close());

  const inside = (role: Role, spec: ProcessSpec): ProcessSpec => ({
    ...spec,
    program: 'nsenter',
    args: [`--net=/run/netns/${bed.namespace(role)}`, '--', spec.program ?? process.execPath, ...spec.args],
  });

  const startRelay = async (listen: string, backend: string): Promise<ManagedProcess> => {
    const bpffs = stage.closing(new BpfFileSystem());
    const file = stage.writeFile('relay.yaml', {
      engine: 'kernel',
      kernel: { bpffs: bpffs.path, sourceAddress: 'client' },
      listeners: [{ name: 'game', protocol: 'udp', listen, pool: 'servers' }],
      pools: { servers: { backends: [backend] } },
      shutdown: { deadline: '10ms' },
    });
    const relay = stage.start(inside('relay', tickrelay('relay', ['relay', '--json', '--config', file])));
    await relay.event('ready');
    return relay;
  };

  const endOf = async (relay: ManagedProcess): Promise<{ downstream: Traffic; upstream: Traffic }> => {
    relay.signal('SIGTERM');
    const { udp } = await relay.event('summary');
    return (udp as Record<string, { downstream: Traffic; upstream: Traffic }>)['game']!;
  };

  const endpoint = (address: string, port: number): string =>
    address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;

  describe('routed', () => {
    test.each([4, 6] as const)(
      'players and servers meet over IPv%i, and no datagram is lost',
      async (family) => {
        open('routed');
        const target = endpoint(bed.address('relay', family), 7777);
        const backend = endpoint(bed.address('server', family), 7000);
        const server = stage.start(
          inside('server', tickrelay('server', ['gameserver', '--json', '--id', '1', '--listen', backend])),
        );
        await server.event('ready');
        const relay = await startRelay(target, backend);
        const bots = stage.start(
          inside(
            'client',
            tickrelay('bots', [
              'bots',
              '--json',
              ...['--target', target],
              ...['--players', '5', '--tick', '64'],
              ...['--ramp', '100ms', '--warmup', '100ms', '--duration', '1s'],
            ]),
          ),
        );
        const summary = await bots.event('summary');
        expect(summary).toMatchObject({ lost: 0 });
        const { downstream, upstream } = await endOf(relay);
        expect(downstream.received).toBeGreaterThan(5 * 64);
        expect(downstream.forwarded).toBe(downstream.received);
        expect(upstream.forwarded).toBe(downstream.forwarded);
      },
    );

    test('a DNS server and client from Debian work through it unchanged', async () => {
      open('routed');
      const server = stage.start(
        inside('server', {
          name: 'dnsmasq',
          program: 'dnsmasq',
          args: [
            ...['--keep-in-foreground', '--no-resolv', '--no-hosts', '--conf-file=/dev/null', '--user=root'],
            ...[
              '--pid-file=',
              '--bind-interfaces',
              '--port=5353',
              `--listen-address=${bed.address('server')}`,
            ],
            '--address=/players.example/203.0.113.7',
          ],
        }),
      );
      await startRelay(endpoint(bed.address('relay'), 53), endpoint(bed.address('server'), 5353));
      // dig takes an answer only from the address that it asked.
      const answers = Array.from({ length: 10 }, () =>
        bed.run(
          'client',
          'dig',
          `@${bed.address('relay')}`,
          'players.example',
          '+short',
          '+tries=5',
          '+time=2',
        ),
      );
      expect(answers).toEqual(answers.map(() => '203.0.113.7\n'));
      expect(server.exit).toBeUndefined();
    });
  });
}
