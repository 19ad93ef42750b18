/** What leaves the packet programs: addresses, ports, and checksums compared with a full recomputation. */
import { beforeEach, describe, expect, test } from 'vitest';
import { SeededBytes } from '../support/seeded-bytes.ts';
import { ETHERNET_BYTES, packet, type PacketOptions, parsePacket } from './packet.ts';
import { closing, NEXT, PacketRig, whereAvailable } from './packet-rig.ts';

interface Family {
  readonly client: string;
  readonly listener: string;
  readonly backend: string;
}

const FAMILIES: Readonly<Record<string, Family>> = {
  IPv4: { client: '10.0.0.1:5000', listener: '198.51.100.1:7777', backend: '10.9.0.1:9000' },
  IPv6: {
    client: '[2001:db8::1]:5000',
    listener: '[2001:db8::99]:7777',
    backend: '[fd00:9:8:7:6:5:4:3]:9000',
  },
};

whereAvailable(() => {
  const rig = closing(new PacketRig());

  describe.each(Object.entries(FAMILIES))('%s', (name, { client, listener, backend }) => {
    beforeEach(async () => {
      await rig.reset();
      rig.listen(listener);
      await rig.backends(backend);
    });
    const toRelay = (options: Partial<PacketOptions> = {}): PacketOptions => ({
      source: client,
      destination: listener,
      ...options,
    });
    const toClient = (options: Partial<PacketOptions> = {}): PacketOptions => ({
      source: backend,
      destination: client,
      ...options,
    });

    test('there: the destination becomes the backend; back: the source becomes the listener', () => {
      const payload = Uint8Array.from([1, 2, 3]);
      const there = rig.ingress(toRelay({ payload }));
      expect(there.verdict).toBe(NEXT);
      expect(there.packet).toMatchObject({ source: client, destination: backend, isHeaderRight: true });
      expect([...there.packet.payload]).toEqual([1, 2, 3]);
      const back = rig.egress(toClient({ payload }));
      expect(back.verdict).toBe(NEXT);
      expect(back.packet).toMatchObject({ source: listener, destination: client, isHeaderRight: true });
      expect([...back.packet.payload]).toEqual([1, 2, 3]);
      const { downstream, upstream } = rig.counts();
      expect(downstream).toMatchObject({ received: 1, receivedBytes: 3, forwarded: 1, forwardedBytes: 3 });
      expect(upstream).toMatchObject({ received: 1, receivedBytes: 3, forwarded: 1, forwardedBytes: 3 });
    });

    test('nothing but addresses, ports and checksums changes', () => {
      const options = toRelay({ payload: Uint8Array.from([9]) });
      const v4 = name === 'IPv4';
      const mayChange = new Set<number>();
      const range = (from: number, length: number): void => {
        for (let i = 0; i < length; i++) mayChange.add(ETHERNET_BYTES + from + i);
      };
      if (v4) range(10, 2); // header checksum
      range(v4 ? 16 : 24, v4 ? 4 : 16); // destination
      range(v4 ? 22 : 42, 2); // destination port
      range(v4 ? 26 : 46, 2); // UDP checksum
      const before = packet(options);
      const { bytes } = rig.ingress(before);
      const changed = [...bytes.keys()].filter((i) => bytes[i] !== before[i]);
      expect(changed.length).toBeGreaterThan(0);
      expect(changed.filter((i) => !mayChange.has(i))).toEqual([]);
    });

    test('checksums are those of a full recomputation, whatever the payload', () => {
      const random = new SeededBytes(name);
      for (let length = 0; length < 400; length++) {
        const payload = random.bytes(length);
        for (const { packet } of [rig.ingress(toRelay({ payload })), rig.egress(toClient({ payload }))]) {
          expect(packet.checksum).toBe(packet.rightChecksum);
          expect(packet.isHeaderRight).toBe(true);
        }
      }
    });

    test('a checksum that comes out as 0 is sent as 0xffff', () => {
      // A checksum is what is missing from the sum to 0xffff. With that as payload nothing is missing.
      const missing = parsePacket(
        packet({ ...toRelay({ payload: new Uint8Array(2) }), destination: backend }),
      ).checksum;
      const payload = Uint8Array.from([missing >> 8, missing & 255]);
      const { packet: sent } = rig.ingress(toRelay({ payload }));
      expect(sent.rightChecksum).toBe(0xffff);
      expect(sent.checksum).toBe(0xffff);
    });

    test('an absent checksum stays absent', () => {
      const payload = Uint8Array.from([1]);
      expect(rig.ingress(toRelay({ payload, checksum: 0 })).packet.checksum).toBe(0);
      expect(rig.egress(toClient({ payload, checksum: 0 })).packet.checksum).toBe(0);
    });

    test('a wrong checksum stays wrong by as much, so that the receiver sees it', () => {
      const right = rig.ingress(toRelay()).packet.checksum;
      const sent = parsePacket(packet(toRelay())).checksum;
      const wrong = rig.ingress(toRelay({ checksum: sent - 5 })).packet.checksum;
      expect((right - wrong + 0xffff) % 0xffff).toBe(5);
    });

    test('a backend on the listener’s own port number is rewritten by address alone', async () => {
      const port = listener.slice(listener.lastIndexOf(':'));
      const same = backend.slice(0, backend.lastIndexOf(':')) + port;
      rig.pool.remove('a');
      await rig.backends(same);
      const { packet } = rig.ingress(toRelay());
      expect(packet).toMatchObject({ destination: same, checksum: packet.rightChecksum });
    });
  });

  test('IP options and extension headers stay where they are', async () => {
    await rig.reset();
    rig.listen('198.51.100.1:7777');
    await rig.backends('10.9.0.1:9000');
    const { packet, bytes } = rig.ingress({
      source: '10.0.0.1:5000',
      destination: '198.51.100.1:7777',
      ipOptions: Uint8Array.from([1, 1, 1, 0]),
    });
    expect(packet).toMatchObject({ destination: '10.9.0.1:9000', isHeaderRight: true });
    expect(packet.checksum).toBe(packet.rightChecksum);
    expect([...bytes.subarray(ETHERNET_BYTES + 20, ETHERNET_BYTES + 24)]).toEqual([1, 1, 1, 0]);

    await rig.reset();
    rig.listen('[2001:db8::99]:7777');
    await rig.backends('[fd00::1]:9000');
    const six = rig.ingress({
      source: '[2001:db8::1]:5000',
      destination: '[2001:db8::99]:7777',
      extensions: [{ type: 60, bytes: Uint8Array.from([0, 0, 1, 4, 0, 0, 0, 0]) }],
    });
    expect(six.packet.destination).toBe('[fd00::1]:9000');
    expect(six.packet.checksum).toBe(six.packet.rightChecksum);
  });
});
