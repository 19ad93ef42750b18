/**
 * A sender leaves its checksum to the interface, and on the way to the relay it is only begun (a partial checksum). The programs
 * must change what has been begun so that it comes out right. Between namespaces nobody ever finishes it, so here the
 * relay's interfaces don't take that work: the kernel finishes each checksum on its way out, and the receiver checks it.
 */
import { afterEach, expect, test } from 'vitest';
import { tickrelay, type ProcessSpec } from '../../bench/process-group.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { BpfFileSystem } from '../support/bpffs.ts';
import { NetworkBed, type Role, whyNoNamespaces } from '../support/netns.ts';
import { Stage } from '../support/stage.ts';

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

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: Stage;
  afterEach(() => stage.close());

  test.each([4, 6] as const)('begun checksums over IPv%i come out right on both sides', async (family) => {
    stage = new Stage();
    const bed = stage.closing(NetworkBed.make('routed'));
    for (const device of ['down0', 'up0']) {
      const left = bed.run('relay', process.execPath, '--input-type=module', '-e', SWITCH_OFF, device);
      expect(left).toBe('0\n');
    }
    const inside = (role: Role, spec: ProcessSpec): ProcessSpec => ({
      ...spec,
      program: 'nsenter',
      args: [`--net=/run/netns/${bed.namespace(role)}`, '--', process.execPath, ...spec.args],
    });
    const endpoint = (role: Role, port: number): string => {
      const address = bed.address(role, family);
      return family === 6 ? `[${address}]:${port}` : `${address}:${port}`;
    };
    const [listen, backend] = [endpoint('relay', 7777), endpoint('server', 7000)];
    const server = tickrelay('server', ['gameserver', '--json', '--id', '1', '--listen', backend]);
    await stage.start(inside('server', server)).event('ready');
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
    const bots = [
      ...['bots', '--json', '--target', listen, '--players', '5', '--tick', '64'],
      ...['--ramp', '100ms', '--warmup', '100ms', '--duration', '500ms'],
    ];
    const summary = await stage.start(inside('client', tickrelay('bots', bots))).event('summary');
    expect(summary).toMatchObject({ lost: 0 });
    // Each side has checked what it received (UdpInCsumErrors), and found nothing wrong.
    for (const role of ['client', 'server'] as const) {
      const statistics = bed.run(role, 'cat', '/proc/net/snmp', '/proc/net/snmp6');
      expect(errorsIn(statistics)).toEqual([0, 0]);
    }
    relay.signal('SIGTERM');
    await relay.event('summary');
  });
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
