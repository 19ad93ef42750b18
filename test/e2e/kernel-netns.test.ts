/**
 * The kernel engine between machines: clients, relay and servers in namespaces of their own. Routed, the server's answers come
 * back through the relay's host; one-armed, the server knows nothing of it, so the relay must use its own address.
 */
import { afterEach, expect, test } from 'vitest';
import type { ManagedProcess } from '../../bench/process-group.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { type Role, type Topology, whyNoNamespaces } from '../support/netns.ts';
import { NETWORK_CASES, NetworkStage, type SourceAddress, udpSummaryOf } from '../support/network-stage.ts';
import { until } from '../support/until.ts';

const unavailable = whyUnavailable() ?? whyNoNamespaces();

/** "Destination unreachable" messages that came in, from /proc/net/snmp or snmp6 (net/ipv4/proc.c, net/ipv6/proc.c). */
function icmpErrors(text: string): number {
  const v6 = /^Icmp6InDestUnreachs\s+(\d+)$/m.exec(text)?.[1];
  if (v6 !== undefined) return Number(v6);
  const [names, values] = text
    .split('\n')
    .filter((line) => line.startsWith('Icmp: '))
    .map((line) => line.split(' '));
  return Number(values![names!.indexOf('InDestUnreachs')]);
}

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: NetworkStage;
  afterEach(() => stage.close());

  const open = (topology: Topology): void => void (stage = new NetworkStage(topology));
  const startRelay = (
    sourceAddress: SourceAddress,
    { listen, backend }: { listen: string; backend: string },
  ): Promise<ManagedProcess> =>
    stage.kernelRelay(
      {
        listeners: [{ name: 'game', protocol: 'udp', listen, pool: 'servers' }],
        pools: { servers: { backends: [backend] } },
        shutdown: { deadline: '10ms' },
      },
      sourceAddress,
    );

  test.each(NETWORK_CASES)(
    '%s, with the address of the %s, over IPv%i: no datagram is lost',
    async (...of) => {
      const [topology, sourceAddress, family] = of;
      open(topology);
      const listen = stage.endpoint('relay', 7777, family);
      const backend = stage.endpoint('server', 7000, family);
      await stage.gameServerIn('server', backend);
      const relay = await startRelay(sourceAddress, { listen, backend });
      const summary = await stage.play(listen).event('summary');
      const { downstream, upstream } = await udpSummaryOf(relay);
      expect(summary).toMatchObject({ lost: 0 });
      expect(downstream.received).toBeGreaterThan(5 * 64);
      expect(downstream.forwarded).toBe(downstream.received);
      expect(upstream.forwarded).toBe(downstream.forwarded);
    },
  );

  test('a backend on the relay’s own host serves players of other machines, at an address of an interface', async () => {
    open('routed');
    const listen = stage.endpoint('relay', 7777);
    const backend = stage.endpoint('relay', 7000);
    await stage.gameServerIn('relay', backend);
    const relay = await startRelay('client', { listen, backend });
    expect(await stage.play(listen).event('summary')).toMatchObject({ lost: 0 });
    expect(relay.stderr).not.toContain("can't reach");
  });

  test('an interface that comes up later is attached to, and again when it comes back under its name', async () => {
    open('routed');
    const backend = stage.endpoint('relay', 7000);
    await stage.gameServerIn('relay', backend);
    await startRelay('client', { listen: '0.0.0.0:7777', backend });
    for (let comings = 0; comings < 2; comings++) {
      const peer = ['peer', 'name', 'late0', 'netns', stage.bed.namespace('client')];
      stage.bed.of('relay').ip('link', 'add', 'late0', 'type', 'veth', ...peer);
      for (const [role, address] of [
        ['relay', '10.79.0.1/24'],
        ['client', '10.79.0.2/24'],
      ] as const) {
        stage.bed.of(role).ip('addr', 'add', address, 'dev', 'late0');
        stage.bed.of(role).ip('link', 'set', 'late0', 'up');
      }
      await until('players on the new interface', async () => {
        const { sent, lost } = await stage.play('10.79.0.1:7777').event('summary');
        return Number(sent) > 0 && lost === 0;
      });
      stage.bed.of('relay').ip('link', 'del', 'late0');
    }
  }, 60_000);

  test.each([
    ['routed', 'client', 4],
    ['routed', 'client', 6],
    ['one-armed', 'relay', 4],
  ] as const)(
    '%s, with the address of the %s, over IPv%i: a backend’s closed port is counted, and no player learns of the backend',
    async (...of) => {
      const [topology, sourceAddress, family] = of;
      open(topology);
      const listen = stage.endpoint('relay', 7777, family);
      const backend = stage.endpoint('server', 7000, family);
      const relay = await startRelay(sourceAddress, { listen, backend });
      const file = family === 4 ? '/proc/net/snmp' : '/proc/net/snmp6';
      const errors = (role: Role): number => icmpErrors(stage.bed.run(role, 'cat', file));
      const before = errors('client');
      await stage.play(listen).event('summary');
      expect(errors('client')).toBe(before);
      const { upstreamUnreachable, downstream } = await udpSummaryOf(relay);
      expect(downstream.forwarded).toBeGreaterThan(0);
      expect(upstreamUnreachable).toBeGreaterThan(0);
      // Without the relay they do learn of it.
      await stage.play(backend).event('summary');
      expect(errors('client')).toBeGreaterThan(before);
    },
  );

  test.each([
    ['client', '127.0.0.1', 'Linux routes nothing from outside to loopback'],
    ['relay', '127.0.0.1', 'Linux routes nothing from outside to loopback'],
    ['relay', '10.77.1.1', 'set kernel.sourceAddress to client'],
  ] as const)('with the address of the %s, a backend on %s is warned of', async (...of) => {
    const [sourceAddress, ip, remedy] = of;
    open('routed');
    const listen = stage.endpoint('relay', 7777);
    const relay = await startRelay(sourceAddress, { listen, backend: `${ip}:7000` });
    await expect.poll(() => relay.stderr).toContain(`can't reach the backend ${ip}:7000`);
    expect(relay.stderr).toContain(remedy);
  });

  test('a DNS server and client from Debian work through it unchanged', async () => {
    open('one-armed');
    const server = stage.startIn('server', {
      name: 'dnsmasq',
      program: 'dnsmasq',
      args: [
        ...['--keep-in-foreground', '--no-resolv', '--no-hosts', '--conf-file=/dev/null', '--user=root'],
        ...[
          '--pid-file=',
          '--bind-interfaces',
          '--port=5353',
          `--listen-address=${stage.bed.address('server')}`,
        ],
        '--address=/players.example/203.0.113.7',
      ],
    });
    const listen = stage.endpoint('relay', 53);
    await startRelay('relay', { listen, backend: stage.endpoint('server', 5353) });
    // dig takes an answer only from the address that it asked.
    const dig = [
      'dig',
      `@${stage.bed.address('relay')}`,
      'players.example',
      '+short',
      '+tries=5',
      '+time=2',
    ] as const;
    const answers = Array.from({ length: 10 }, () => stage.bed.run('client', ...dig));
    expect(answers).toEqual(answers.map(() => '203.0.113.7\n'));
    expect(server.exit).toBeUndefined();
  });
}
