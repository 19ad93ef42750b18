/**
 * What of a packet only a real network shows: checksums that the interface is to finish, hops, and the size that a path takes.
 *
 * A sender leaves its checksum to the interface, and on the way to the relay it is only begun (a partial checksum). The programs
 * must change what has been begun so that it comes out right. Between namespaces nobody ever finishes it, so here the
 * relay's interfaces don't take that work: the kernel finishes each checksum on its way out, and the receiver checks it.
 */
import { afterEach, expect, test } from 'vitest';
import type { ManagedProcess } from '../../bench/process-group.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { type Topology, whyNoNamespaces } from '../support/netns.ts';
import { NetworkStage, type SourceAddress, type Traffic, udpSummaryOf } from '../support/network-stage.ts';

const unavailable = whyUnavailable() ?? whyNoNamespaces();

/**
 * Run by node in a namespace with the name of an interface: switches its transmit checksums off (linux/ethtool.h:
 * ETHTOOL_STXCSUM; linux/sockios.h: SIOCETHTOOL) and prints what is in force then (ETHTOOL_GTXCSUM).
 */
const SWITCH_OFF = `
  import koffi from 'koffi';
  const libc = koffi.load(null);
  const socket = libc.func('int socket(int, int, int)');
  const ioctl = libc.func('int ioctl(int, uint64_t, void *)');
  const value = koffi.alloc('uint32_t', 2);
  const request = Buffer.alloc(40);
  request.write(process.argv[1], 0);
  request.writeBigUInt64LE(BigInt(koffi.address(value)), 16);
  const fd = socket(2, 2, 0);
  const ask = (command) => {
    koffi.encode(value, koffi.array('uint32_t', 2), [command, 0]);
    if (ioctl(fd, 0x8946, request) !== 0) throw new Error('errno ' + koffi.errno());
    return koffi.decode(value, koffi.array('uint32_t', 2))[1];
  };
  ask(0x17);
  console.log(ask(0x16));
`;

/** Run by node: sends so many datagrams of so many bytes, with so many hops to go. */
const SEND = `
  import { createSocket } from 'node:dgram';
  const [address, port, count, bytes, hops] = process.argv.slice(1);
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  socket.bind(0, () => {
    socket.setTTL(Number(hops));
    let left = Number(count);
    const sent = () => (--left === 0 ? socket.close() : undefined);
    for (let i = 0; i < count; i++) socket.send(Buffer.alloc(Number(bytes)), Number(port), address, sent);
  });
`;

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: NetworkStage;
  afterEach(() => stage.close());

  const open = (topology: Topology): void => void (stage = new NetworkStage(topology));
  const startRelay = (sourceAddress: SourceAddress, family: 4 | 6): Promise<ManagedProcess> =>
    stage.kernelRelay(
      {
        listeners: [
          { name: 'game', protocol: 'udp', listen: stage.endpoint('relay', 7777, family), pool: 'servers' },
        ],
        pools: { servers: { backends: [stage.endpoint('server', 7000, family)] } },
        shutdown: { deadline: '10ms' },
      },
      sourceAddress,
    );
  /** Makes the client learn the relay's link address: a datagram that waits for it would come after the relay's end. */
  const introduce = async (family: 4 | 6): Promise<void> => {
    const address = stage.bed.address('relay', family);
    stage.runModule('client', SEND, address, '9', '1', '1', '64');
    await expect.poll(() => stage.bed.run('client', 'ip', 'neighbour', 'show', address)).toContain('lladdr');
  };
  /** What the relay says at its end of the datagrams from clients. */
  const downstreamOf = async (relay: ManagedProcess): Promise<Traffic> =>
    (await udpSummaryOf(relay)).downstream;

  test.each([4, 6] as const)('begun checksums over IPv%i come out right on both sides', async (family) => {
    open('routed');
    for (const device of ['down0', 'up0']) expect(stage.runModule('relay', SWITCH_OFF, device)).toBe('0\n');
    await stage.gameServerIn('server', stage.endpoint('server', 7000, family));
    await startRelay('client', family);
    const players = stage.play(stage.endpoint('relay', 7777, family), '500ms');
    expect(await players.event('summary')).toMatchObject({ lost: 0 });
    // Each side has checked what it received, and found nothing wrong.
    for (const role of ['client', 'server'] as const) {
      const statistics = stage.bed.run(role, 'cat', '/proc/net/snmp', '/proc/net/snmp6');
      expect(errorsIn(statistics)).toEqual([0, 0]);
    }
  });

  test.each([4, 6] as const)(
    'one-armed, a hop over IPv%i is taken off, and the last one is a counted drop',
    async (family) => {
      open('one-armed');
      const relay = await startRelay('relay', family);
      await introduce(family);
      const send = (hops: number): string =>
        stage.runModule('client', SEND, stage.bed.address('relay', family), '7777', '3', '14', `${hops}`);
      send(1);
      send(2);
      const { received, forwarded, dropped } = await downstreamOf(relay);
      expect({ received, forwarded, failed: dropped['send-failed'] }).toEqual({
        received: 6,
        forwarded: 3,
        failed: 3,
      });
    },
  );

  test.each([4, 6] as const)(
    'what a path over IPv%i does not take in one piece is a counted drop',
    async (family) => {
      open('routed');
      stage.bed.run('relay', 'ip', 'link', 'set', 'up0', 'mtu', '1300');
      const relay = await startRelay('relay', family);
      await introduce(family);
      const headers = family === 6 ? 48 : 28;
      for (const bytes of [1_300 - headers, 1_301 - headers])
        stage.runModule('client', SEND, stage.bed.address('relay', family), '7777', '2', `${bytes}`, '64');
      const { received, forwarded, dropped } = await downstreamOf(relay);
      expect({ received, forwarded, tooLarge: dropped['too-large'] }).toEqual({
        received: 4,
        forwarded: 2,
        tooLarge: 2,
      });
    },
  );
}

/** UdpInCsumErrors of /proc/net/snmp and Udp6InCsumErrors of /proc/net/snmp6. */
function errorsIn(statistics: string): number[] {
  const [names, values] = statistics
    .split('\n')
    .filter((line) => line.startsWith('Udp:'))
    .map((line) => line.split(' '));
  const v4 = Number(values![names!.indexOf('InCsumErrors')]);
  const v6 = Number(/^Udp6InCsumErrors\s+(\d+)$/m.exec(statistics)?.[1]);
  return [v4, v6];
}
