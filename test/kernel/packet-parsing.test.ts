/** What the packet programs make of a packet's headers, case by case: relayed, passed on untouched, or a counted drop. */
import { beforeEach, describe, expect, test } from 'vitest';
import { eachCut, extension, fragment, packet, type PacketOptions } from './packet.ts';
import { closing, DROP, NEXT, PacketRig, whereAvailable } from './packet-rig.ts';

const V4 = { source: '10.0.0.1:5000', destination: '198.51.100.1:7777' };
const V6 = { source: '[2001:db8::1]:5000', destination: '[2001:db8::99]:7777' };
const PAYLOAD = Uint8Array.from([1, 2, 3, 4, 5]);

const RELAYED: Readonly<Record<string, PacketOptions>> = {
  'IPv4 without options': V4,
  'IPv4 with 4 bytes of options': { ...V4, ipOptions: new Uint8Array(4).fill(1) },
  'IPv4 with 40 bytes of options': { ...V4, ipOptions: new Uint8Array(40).fill(1) },
  'IPv4 with "don’t fragment"': { ...V4, fragment: 0x4000 },
  'a padded Ethernet frame': { ...V4, padding: 13 },
  'IPv6 without extension headers': V6,
  'IPv6 with hop-by-hop options': { ...V6, extensions: [extension(0)] },
  'IPv6 with destination options of 64 bytes': { ...V6, extensions: [extension(60, 8)] },
  'IPv6 with a routing header that has arrived': { ...V6, extensions: [extension(43, 3)] },
  'IPv6 with a fragment header around the whole': { ...V6, extensions: [fragment(0)] },
  'IPv6 with four extension headers': {
    ...V6,
    extensions: [extension(0), extension(60), extension(43), extension(60)],
  },
};

const PASSED_ON: Readonly<Record<string, PacketOptions>> = {
  'another port': { ...V4, destination: '198.51.100.1:7778' },
  'another address': { ...V4, destination: '198.51.100.2:7777' },
  TCP: { ...V4, protocol: 6 },
  'IPv6 TCP': { ...V6, protocol: 6 },
  'a later fragment': { ...V4, fragment: 0x0001 },
  'the last fragment': { ...V4, fragment: 0x1fff },
  'a later IPv6 fragment': { ...V6, extensions: [fragment(0x0009)] },
  'a routing header with stops left': {
    ...V6,
    extensions: [{ type: 43, bytes: Uint8Array.from([0, 0, 0, 1, 0, 0, 0, 0]) }],
  },
  'an authentication header': { ...V6, extensions: [extension(51)] },
  'five extension headers': {
    ...V6,
    extensions: [extension(0), extension(60), extension(60), extension(60), extension(60)],
  },
  'extension headers of more than 80 bytes': { ...V6, extensions: [extension(60, 11)] },
  'a v4-mapped source in IPv6': { ...V6, source: '[::ffff:0:1]:5000' },
  'another host’s link address': { ...V4, link: 2 },
  'a multicast link address': { ...V4, link: 1 },
};

const DROPPED: Readonly<Record<string, readonly [PacketOptions, reason: string]>> = {
  'the first fragment': [{ ...V4, fragment: 0x2000 }, 'fragment'],
  'the first IPv6 fragment': [{ ...V6, extensions: [fragment(0x0001)] }, 'fragment'],
  'a UDP length below its header': [{ ...V4, udpLength: 7 }, 'malformed'],
  'a UDP length beyond the packet': [{ ...V4, udpLength: 14 }, 'malformed'],
  'an IPv4 length beyond the frame': [{ ...V4, ipLength: 34 }, 'malformed'],
  'an IPv6 length beyond the frame': [{ ...V6, ipLength: 14 }, 'malformed'],
  'an IPv6 jumbogram': [{ ...V6, extensions: [extension(0)], udpLength: 0 }, 'malformed'],
};

whereAvailable(() => {
  const rig = closing(new PacketRig());
  beforeEach(async () => {
    await rig.reset();
    rig.listen('198.51.100.1:7777');
    rig.listen('[2001:db8::99]:7777', {}, 1);
    await rig.backends('10.9.0.1:9000');
  });

  /** Which listener a case is for. */
  const indexOf = ({ source }: PacketOptions): number => (source.startsWith('[') ? 1 : 0);
  const received = (): number => rig.counts(0).downstream.received + rig.counts(1).downstream.received;

  describe('relayed', () => {
    test.each(Object.entries(RELAYED))('%s', (_name, options) => {
      const before = packet({ ...options, payload: PAYLOAD });
      const { verdict } = rig.ingress(before);
      const { downstream } = rig.counts(indexOf(options));
      expect(downstream).toMatchObject({ received: 1, receivedBytes: 5 });
      if (indexOf(options) === 0) {
        expect(verdict).toBe(NEXT);
        expect(downstream.forwarded).toBe(1);
      } else {
        // The pool has an IPv4 backend only, which is told apart after the headers were read.
        expect(verdict).toBe(DROP);
        expect(downstream.dropped['address-family']).toBe(1);
      }
    });
  });

  describe('passed on untouched and uncounted', () => {
    test.each(Object.entries(PASSED_ON))('%s', (_name, options) => {
      const before = packet({ ...options, payload: PAYLOAD });
      const { verdict, bytes } = rig.ingress(before);
      expect(verdict).toBe(NEXT);
      expect(Buffer.from(bytes).equals(before)).toBe(true);
      expect(received()).toBe(0);
    });
  });

  describe('dropped and counted', () => {
    test.each(Object.entries(DROPPED))('%s', (_name, [options, reason]) => {
      expect(rig.ingress({ ...options, payload: PAYLOAD }).verdict).toBe(DROP);
      const index = indexOf(options);
      expect(rig.drops(index)).toEqual({ [reason]: 1 });
      expect(rig.counts(index).downstream.received).toBe(1);
      expect(rig.gauges().sessions).toBe(0);
    });
  });

  test.each([
    ['IPv4', V4, 14 + 20 + 8],
    ['IPv4 with options', { ...V4, ipOptions: new Uint8Array(12).fill(1) }, 14 + 32 + 8],
    ['IPv6', V6, 14 + 40 + 8],
    ['IPv6 with options', { ...V6, extensions: [extension(0), extension(60, 2)] }, 14 + 40 + 24 + 8],
  ] as const)(
    '%s cut off at every length is passed on or dropped, never relayed',
    (_name, options, headers) => {
      const whole = packet({ ...options, payload: PAYLOAD });
      const tried = eachCut(whole, (cut) => {
        const { verdict, bytes } = rig.ingress(cut);
        return () => {
          expect(verdict, `at ${cut.length} of ${whole.length} bytes`).toBe(
            cut.length < headers ? NEXT : DROP,
          );
          if (cut.length < headers) expect(Buffer.from(bytes).equals(cut)).toBe(true);
        };
      });
      expect(tried).toBeGreaterThanOrEqual(whole.length - headers + 8);
      const { downstream } = rig.counts(indexOf(options));
      expect(downstream.received).toBe(whole.length - headers);
      expect(downstream.dropped['malformed']).toBe(whole.length - headers);
      expect(rig.gauges().sessions).toBe(0);
    },
  );

  test('a datagram without payload is relayed', () => {
    expect(rig.ingress(V4).verdict).toBe(NEXT);
    expect(rig.counts().downstream).toMatchObject({ forwarded: 1, forwardedBytes: 0 });
  });

  test('an interface without Ethernet headers: the packet starts with its IP header', async () => {
    const raw = new PacketRig({ linkHeaderBytes: 0 });
    try {
      // Test runs take the packet's type from bytes 12 and 13, which here are the source 8.0.
      raw.listen('198.51.100.1:7777');
      await raw.backends('8.0.9.1:9000');
      const reply = packet({
        source: '8.0.9.1:9000',
        destination: '10.0.0.1:5000',
        payload: new Uint8Array(40),
      });
      expect(raw.egress(reply.subarray(14)).verdict).toBe(NEXT);
      expect(raw.counts().upstream.received).toBe(0);
    } finally {
      raw.close();
    }
  });
});
