/**
 * The engine on an interface without an Ethernet header: a tun device of a namespace that this file makes. The test is the other
 * end of the device, and so reads and writes the IP packets themselves.
 */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { IFREQ } from '../../net/linux/abi.ts';
import { Arena } from '../../net/linux/arena.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { KernelEngine } from '../../relay/engines/kernel/kernel-engine.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import { poolOfOne } from '../support/pool-of-one.ts';
import { UdpPeer } from '../support/udp-peer.ts';
import { until } from '../support/until.ts';
import { ETHERNET_BYTES, packet, parsePacket } from './packet.ts';

const unavailable =
  whyUnavailable() ??
  enterOwnNetwork(['tuntap add dev tun7 mode tun', 'addr add 10.99.0.1/24 dev tun7', 'link set tun7 up']);
const loaded = loadLibc();

/** linux/if_tun.h */
const TUNSETIFF = 0x4004_54ca;
const IFF_TUN_NO_PI = 0x1001;

const CLIENT = '10.99.0.2:4000';
const MOST_BYTES = 2_048;

if (unavailable !== undefined || 'unavailable' in loaded) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const { libc } = loaded;
  const closing: (() => Promise<void> | void)[] = [];
  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  /** The other end of the device. */
  const openTun = (): number => {
    const fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK);
    closing.push(() => closeSync(fd));
    const request = new Arena(libc, 4_096);
    request.bytes.set(Buffer.from('tun7'), IFREQ.name);
    request.u16[IFREQ.hardwareFamily >> 1] = IFF_TUN_NO_PI;
    expect(libc.ioctl(fd, TUNSETIFF, request.address)).toBe(0);
    request.free();
    return fd;
  };

  test('players behind a tun device are relayed, and answered from the listener', async () => {
    const fd = openTun();
    const server = new UdpPeer('10.99.0.1:0', ({ payload }) =>
      Buffer.from(`answer to ${payload.toString()}`),
    );
    closing.push(() => server.close());
    const engine = new KernelEngine({
      libc,
      name: 'tun',
      maxSessions: 64,
      hashSeed: 1,
      interfaces: ['tun7'],
    });
    closing.push(() => engine.close());
    await engine.publish(poolOfOne('game', server.local).snapshot());
    const listener = await engine.addListener({
      name: 'game',
      listen: Endpoint.parse('10.99.0.1:0'),
      pool: 'game',
      algorithm: 'ip-hash',
      idleTimeoutMs: 120_000,
      pinTimeoutMs: 600_000,
      receiveBufferBytes: 65_536,
      limits: { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 },
    });

    const buffer = Buffer.alloc(ETHERNET_BYTES + MOST_BYTES);
    const answers: string[] = [];
    /** Takes what is there, but for what the system says of itself. */
    const receive = (): void => {
      for (;;) {
        let length;
        try {
          length = readSync(fd, buffer, ETHERNET_BYTES, MOST_BYTES, null);
        } catch {
          return;
        }
        if (buffer[ETHERNET_BYTES]! >> 4 !== 4) continue;
        buffer.writeUInt16BE(0x0800, 12);
        const { source, destination, payload } = parsePacket(buffer.subarray(0, ETHERNET_BYTES + length));
        answers.push(`${source} ${destination} ${Buffer.from(payload).toString()}`);
      }
    };
    for (let n = 1; n <= 3; n++) {
      const payload = Buffer.from(`datagram ${n}`);
      const sent = packet({ source: CLIENT, destination: listener.toString(), payload });
      writeSync(fd, sent.subarray(ETHERNET_BYTES));
      await until(`answer ${n}`, () => {
        receive();
        return answers.length >= n;
      });
    }
    expect(answers).toEqual([1, 2, 3].map((n) => `${listener.toString()} ${CLIENT} answer to datagram ${n}`));
    expect(server.received.map(({ from }) => from.toString())).toEqual([CLIENT, CLIENT, CLIENT]);
  });
}
