/** Datagrams larger than the way takes at once, in a network whose loopback has the MTU of IPv6's minimum. */
import { writeFileSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { DatagramBatch, type DatagramSocket } from '../../../net/datagram-socket.ts';
import {
  AF_INET,
  IP_MTU_DISCOVER,
  IP_PMTUDISC_DO,
  IP_PMTUDISC_WANT,
  IPPROTO_IP,
  IPPROTO_RAW,
  SOCK_RAW,
} from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import { type Libc, loadLibc } from '../../../net/linux/libc.ts';
import { bindUdp, writeAddress } from '../../../net/linux/mmsg-socket.ts';
import { Poller } from '../../../net/linux/poller.ts';
import { enterOwnNetwork } from '../../support/own-network.ts';

const MTU = 1_280;
const SMALLER_MTU = 900;
const IPV4_AND_UDP_HEADERS = 28;
const WHOLE = MTU - IPV4_AND_UDP_HEADERS;
const IP_PMTUDISC_DONT = 0;

const loaded = loadLibc();
const whyNot = 'unavailable' in loaded ? loaded.unavailable : enterOwnNetwork([`link set lo mtu ${MTU} up`]);

describe.skipIf(whyNot !== undefined)(
  `over a way with an MTU of ${MTU}${whyNot === undefined ? '' : ` (skipped: ${whyNot})`}`,
  () => {
    const { libc } = loaded as { libc: Libc };

    /** One that receives, and its address; `arrived` has what it received. */
    function startReceiver(poller: Poller, local: string): { to: Endpoint; arrived: Buffer[] } {
      const arrived: Buffer[] = [];
      const { local: to } = poller.open({
        local: Endpoint.parse(local),
        onReceive: ({ count, payloads, lengths }) => {
          for (let i = 0; i < count; i++) arrived.push(Buffer.from(payloads[i]!.subarray(0, lengths[i])));
        },
      });
      return { to, arrived };
    }

    function startPoller(ring: boolean): Poller {
      const poller = new Poller(libc, { blockMs: 1, ring });
      onTestFinished(() => poller.close());
      return poller;
    }

    /** What counts a sender's datagrams. */
    function countSent(): {
      outcome: { sent: number; failed: number };
      onSent: (s: number, f: number) => void;
    } {
      const outcome = { sent: 0, failed: 0 };
      const onSent = (sent: number, failed: number): void => {
        outcome.sent += sent;
        outcome.failed += failed;
      };
      return { outcome, onSent };
    }

    function sendAll(from: DatagramSocket, to: Endpoint, payloads: readonly Buffer[]): void {
      const batch = new DatagramBatch(payloads.length);
      for (const payload of payloads) batch.append(payload, payload.length, to.ip.words, 0, to.port);
      expect(from.send(batch)).toBe(payloads.length);
    }

    function pollUntil(poller: Poller, isOver: () => boolean): void {
      for (let rounds = 0; rounds < 1_000 && !isOver(); rounds++) poller.poll(10);
    }

    function openDescriptor(local: string): number {
      const fd = bindUdp(libc, { local: Endpoint.parse(local) });
      onTestFinished(() => {
        libc.close(fd);
      });
      return fd;
    }

    function mtuDiscoveryOf(fd: number): number {
      const memory = new Arena(libc, 4_096);
      memory.u32[1] = 4;
      libc.getsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, memory.address, memory.address + 4);
      const how = memory.u32[0]!;
      memory.free();
      return how;
    }

    const senders = [
      { local: '127.0.0.1:0', ring: true },
      { local: '127.0.0.1:0', ring: false },
      { local: '[::]:0', ring: true },
      { local: '[::]:0', ring: false },
      { local: '[::1]:0', ring: true },
      { local: '[::1]:0', ring: false },
    ];

    test.each(senders)(
      'large and small datagrams from $local arrive byte-exact (io_uring: $ring)',
      ({ local, ring }) => {
        const poller = startPoller(ring);
        const { to, arrived } = startReceiver(poller, local === '[::1]:0' ? local : '127.0.0.1:0');
        const { outcome, onSent } = countSent();
        const from = poller.open({ local: Endpoint.parse(local), onReceive: () => undefined, onSent });
        const sizes = [14, WHOLE, WHOLE + 1, 14, 4_000, 60_000, 148];
        const payloads = sizes.map((size, i) => Buffer.alloc(size, i + 1));
        for (const [i, payload] of payloads.entries()) {
          sendAll(from, to, [payload]);
          pollUntil(poller, () => arrived.length > i);
        }
        expect(arrived.map(({ length }) => length)).toEqual(sizes);
        expect(arrived.every((payload, i) => payload.equals(payloads[i]!))).toBe(true);
        expect(outcome).toEqual({ sent: sizes.length, failed: 0 });
      },
    );

    test.each(senders)(
      'large datagrams between small ones of one batch from $local all arrive (io_uring: $ring)',
      ({ local, ring }) => {
        const poller = startPoller(ring);
        const { to, arrived } = startReceiver(poller, local === '[::1]:0' ? local : '127.0.0.1:0');
        const { outcome, onSent } = countSent();
        const unreachable: number[] = [];
        const from = poller.open({
          local: Endpoint.parse(local),
          onReceive: () => undefined,
          onSent,
          onUnreachable: (count) => unreachable.push(count),
        });
        const sizes = [14, 2_000, 15, 2_001, 2_002, 16];
        sendAll(
          from,
          to,
          sizes.map((size) => Buffer.alloc(size, size)),
        );
        pollUntil(poller, () => arrived.length === sizes.length);
        const ascending = [...sizes].sort((a, b) => a - b);
        expect(arrived.map(({ length }) => length).sort((a, b) => a - b)).toEqual(ascending);
        expect(arrived.every((payload) => payload.every((byte) => byte === (payload.length & 255)))).toBe(
          true,
        );
        expect(outcome).toEqual({ sent: sizes.length, failed: 0 });
        expect(unreachable).toEqual([]);
      },
    );

    test.each([{ ring: true }, { ring: false }])(
      'a router that takes less costs no datagram of a connected socket (io_uring: $ring)',
      ({ ring }) => {
        const poller = startPoller(ring);
        const { to, arrived } = startReceiver(poller, '127.0.0.2:0');
        const { outcome, onSent } = countSent();
        const fd = bindUdp(libc, { local: Endpoint.parse('127.0.0.1:0'), remote: to });
        onTestFinished(() => {
          libc.close(fd);
        });
        const from = poller.adopt(fd, {
          local: Endpoint.parse('127.0.0.1:0'),
          remote: to,
          onReceive: () => undefined,
          onSent,
        });
        expect(mtuDiscoveryOf(fd)).toBe(IP_PMTUDISC_DO);
        sendTooBig(libc, from.local, to);
        sendAll(from, to, [Buffer.alloc(148, 1)]);
        pollUntil(poller, () => arrived.length === 1);
        expect(mtuDiscoveryOf(fd)).toBe(IP_PMTUDISC_WANT);
        sendAll(from, to, [Buffer.alloc(WHOLE, 2), Buffer.alloc(148, 3)]);
        pollUntil(poller, () => arrived.length === 3);
        expect(arrived.map(({ length }) => length)).toEqual([148, WHOLE, 148]);
        expect(outcome).toEqual({ sent: 3, failed: 0 });
      },
    );

    test('a socket that an earlier poller had used without fragments sends in fragments all the same', () => {
      const fd = openDescriptor('127.0.0.1:0');
      const options = { local: Endpoint.parse('127.0.0.1:0'), onReceive: () => undefined };
      const first = new Poller(libc, { blockMs: 1 });
      first.adopt(fd, options);
      first.close();
      expect(mtuDiscoveryOf(fd)).toBe(IP_PMTUDISC_DO);
      const poller = startPoller(true);
      const { to, arrived } = startReceiver(poller, '127.0.0.1:0');
      sendAll(poller.adopt(fd, options), to, [Buffer.alloc(4_000)]);
      pollUntil(poller, () => arrived.length === 1);
      expect(arrived.map(({ length }) => length)).toEqual([4_000]);
    });

    test("where the system does no path MTU discovery, a socket's datagrams stay free to be cut on their way", () => {
      const file = '/proc/sys/net/ipv4/ip_no_pmtu_disc';
      writeFileSync(file, '1');
      onTestFinished(() => writeFileSync(file, '0'));
      const fd = openDescriptor('127.0.0.1:0');
      const poller = startPoller(true);
      const { to, arrived } = startReceiver(poller, '127.0.0.1:0');
      const from = poller.adopt(fd, { local: Endpoint.parse('127.0.0.1:0'), onReceive: () => undefined });
      sendAll(from, to, [Buffer.alloc(4_000), Buffer.alloc(14)]);
      pollUntil(poller, () => arrived.length === 2);
      expect(arrived.map(({ length }) => length)).toEqual([4_000, 14]);
      expect(mtuDiscoveryOf(fd)).toBe(IP_PMTUDISC_DONT);
    });
  },
);

/** As a router would: "fragmentation needed, and I take 900 bytes", about a datagram between two addresses of this host. */
function sendTooBig(libc: Libc, from: Endpoint, to: Endpoint): void {
  const quoted = ipv4(17, from, to, Buffer.alloc(8));
  quoted.writeUInt16BE(from.port, 20);
  quoted.writeUInt16BE(to.port, 22);
  quoted.writeUInt16BE(8, 24);
  const icmp = Buffer.alloc(8 + quoted.length);
  icmp[0] = 3;
  icmp[1] = 4;
  icmp.writeUInt16BE(SMALLER_MTU, 6);
  quoted.copy(icmp, 8);
  icmp.writeUInt16BE(checksum(icmp), 2);
  const packet = ipv4(1, to, from, icmp);
  const memory = new Arena(libc, 4_096);
  const length = writeAddress(memory, new Endpoint(from.ip, 0));
  memory.bytes.set(packet, 64);
  const socket = libc.socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
  expect(libc.sendto(socket, memory.address + 64, packet.length, 0, memory.address, length)).toBe(
    packet.length,
  );
  libc.close(socket);
  memory.free();
}

/** An IPv4 packet of a protocol by its number. */
function ipv4(protocol: number, from: Endpoint, to: Endpoint, body: Buffer): Buffer {
  const packet = Buffer.alloc(20 + body.length);
  packet[0] = 0x45;
  packet.writeUInt16BE(packet.length, 2);
  packet[8] = 64;
  packet[9] = protocol;
  packet.set(from.ip.bytes.subarray(12), 12);
  packet.set(to.ip.bytes.subarray(12), 16);
  packet.writeUInt16BE(checksum(packet.subarray(0, 20)), 10);
  body.copy(packet, 20);
  return packet;
}

/** The internet checksum (RFC 1071) of an even count of bytes. */
function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | bytes[i + 1]!;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
