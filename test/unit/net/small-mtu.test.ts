/** Datagrams larger than the way takes at once, in a network whose loopback has the MTU of IPv6's minimum. */
import { describe, expect, onTestFinished, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { DatagramBatch } from '../../../net/datagram-socket.ts';
import { type Libc, loadLibc } from '../../../net/linux/libc.ts';
import { Poller } from '../../../net/linux/poller.ts';
import { enterOwnNetwork } from '../../support/own-network.ts';

const MTU = 1_280;
const IPV4_AND_UDP_HEADERS = 28;

const loaded = loadLibc();
const whyNot = 'unavailable' in loaded ? loaded.unavailable : enterOwnNetwork([`link set lo mtu ${MTU} up`]);

describe.skipIf(whyNot !== undefined)(
  `over a way with an MTU of ${MTU}${whyNot === undefined ? '' : ` (skipped: ${whyNot})`}`,
  () => {
    const { libc } = loaded as { libc: Libc };

    test.each([
      { local: '127.0.0.1:0', ring: true },
      { local: '127.0.0.1:0', ring: false },
      { local: '[::]:0', ring: true },
      { local: '[::1]:0', ring: true },
    ])('large and small datagrams from $local arrive byte-exact (io_uring: $ring)', ({ local, ring }) => {
      const poller = new Poller(libc, { blockMs: 1, ring });
      onTestFinished(() => poller.close());
      const received: Buffer[] = [];
      const outcome = { sent: 0, failed: 0 };
      const to = poller.open({
        local: Endpoint.parse(local === '[::1]:0' ? local : '127.0.0.1:0'),
        onReceive: ({ count, payloads, lengths }) => {
          for (let i = 0; i < count; i++) received.push(Buffer.from(payloads[i]!.subarray(0, lengths[i])));
        },
      }).local;
      const from = poller.open({
        local: Endpoint.parse(local),
        onReceive: () => undefined,
        onSent: (sent, failed) => {
          outcome.sent += sent;
          outcome.failed += failed;
        },
      });
      const whole = MTU - IPV4_AND_UDP_HEADERS;
      const sizes = [14, whole, whole + 1, 14, 4_000, 60_000, 148];
      const payloads = sizes.map((size, i) => Buffer.alloc(size, i + 1));
      for (const payload of payloads) {
        const batch = new DatagramBatch(1);
        batch.append(payload, payload.length, to.ip.words, 0, to.port);
        expect(from.send(batch)).toBe(1);
        const before = received.length;
        for (let rounds = 0; rounds < 1_000 && received.length === before; rounds++) poller.poll(10);
      }
      expect(received.map(({ length }) => length)).toEqual(sizes);
      expect(received.every((payload, i) => payload.equals(payloads[i]!))).toBe(true);
      expect(outcome).toEqual({ sent: sizes.length, failed: 0 });
    });
  },
);
