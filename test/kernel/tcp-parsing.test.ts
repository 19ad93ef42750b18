/** What the TCP programs make of a segment's headers, case by case: relayed, passed on untouched, dropped, or answered. */
import { beforeEach, describe, expect, test } from 'vitest';
import { eachCut, extension, fragment } from './packet.ts';
import { closing, DROP, NEXT, whereAvailable } from './packet-rig.ts';
import { ACK, FIN, parseSegment, RST, segment, type SegmentOptions, SYN } from './segment.ts';
import { REDIRECT, TcpRig } from './tcp-rig.ts';

const V4 = { source: '10.0.0.1:5000', destination: '198.51.100.1:5432', flags: SYN, sequence: 7 };
const V6 = { source: '[2001:db8::1]:5000', destination: '[2001:db8::99]:5432', flags: SYN, sequence: 7 };

/** RFC 2675 section 2: hop-by-hop options with the length of what follows the header. */
const JUMBO = { type: 0, bytes: Uint8Array.of(0, 0, 0xc2, 4, 0, 1, 0, 0x10) };

const RELAYED: Readonly<Record<string, SegmentOptions>> = {
  'IPv4 without options': V4,
  'IPv4 with 40 bytes of options': { ...V4, ipOptions: new Uint8Array(40).fill(1) },
  'IPv4 with "don’t fragment"': { ...V4, fragment: 0x4000 },
  'TCP with 40 bytes of options': { ...V4, tcpOptions: new Uint8Array(40).fill(1) },
  'a padded Ethernet frame': { ...V4, padding: 6 },
  'IPv6 without extension headers': V6,
  'IPv6 with hop-by-hop options': { ...V6, extensions: [extension(0)] },
  'IPv6 with destination options of 64 bytes': { ...V6, extensions: [extension(60, 8)] },
  'IPv6 with a fragment header around the whole': { ...V6, extensions: [fragment(0)] },
};

const PASSED_ON: Readonly<Record<string, SegmentOptions>> = {
  'another port': { ...V4, destination: '198.51.100.1:5433' },
  'another address': { ...V4, destination: '198.51.100.2:5432' },
  'a later fragment': { ...V4, fragment: 0x0001 },
  'a later IPv6 fragment': { ...V6, extensions: [fragment(0x0009)] },
  'an authentication header': { ...V6, extensions: [extension(51)] },
  'a header of four words': { ...V4, offset: 4 },
  'a header beyond the packet': { ...V4, offset: 6 },
  'another host’s link address': { ...V4, link: 2 },
  'a v4-mapped source in IPv6': { ...V6, source: '[::ffff:0:1]:5000' },
};

const DROPPED: Readonly<Record<string, SegmentOptions>> = {
  'the first fragment': { ...V4, fragment: 0x2000 },
  'the first IPv6 fragment': { ...V6, extensions: [fragment(0x0001)] },
  'an IPv4 length beyond the frame': { ...V4, ipLength: 41 },
  'an IPv6 length beyond the frame': { ...V6, ipLength: 21 },
};

whereAvailable(() => {
  const rig = closing(new TcpRig());
  beforeEach(async () => {
    await rig.reset();
    rig.listen('198.51.100.1:5432');
    rig.listen('[2001:db8::99]:5432', {}, 1);
  });

  const isV4 = ({ source }: SegmentOptions): boolean => source.startsWith('10.');
  const indexOf = (options: SegmentOptions): number => (isV4(options) ? 0 : 1);
  const backendFor = async (options: SegmentOptions): Promise<string> => {
    const backend = isV4(options) ? '10.9.0.1:5432' : '[2001:db8:9::1]:5432';
    await rig.backends(backend);
    return backend;
  };

  describe('relayed, with right checksums', () => {
    test.each(Object.entries(RELAYED))('%s', async (_name, options) => {
      const backend = await backendFor(options);
      const before = segment({ ...options, payload: new Uint8Array(3).fill(9) });
      const { verdict, segment: after } = rig.ingress(before);
      expect(verdict).toBe(NEXT);
      expect(after).toMatchObject({
        source: options.source,
        destination: backend,
        isRight: true,
        sequence: 7,
      });
      expect(Buffer.from(after.payload).equals(Buffer.from([9, 9, 9]))).toBe(true);
    });
  });

  describe('passed on untouched', () => {
    test.each(Object.entries(PASSED_ON))('%s', async (_name, options) => {
      await backendFor(options);
      const before = segment(options);
      const { verdict, bytes } = rig.ingress(before);
      expect(verdict).toBe(NEXT);
      expect(Buffer.from(bytes).equals(before)).toBe(true);
      expect(rig.records()).toEqual([0, 0]);
    });
  });

  describe('a batch of segments that is too large for the length in its IPv6 header, which is then 0', () => {
    const backend = '[2001:db8:9::1]:5432';
    const payload = new Uint8Array(100).fill(9);
    const batch: SegmentOptions = { ...V6, payload, ipLength: 0, extensions: [JUMBO] };
    const reply = { ...batch, source: backend, destination: V6.source, flags: SYN | ACK };
    /** With the length that would stand there if there were room. */
    const read = (bytes: Uint8Array): ReturnType<typeof parseSegment> => {
      const whole = Buffer.from(bytes);
      whole.writeUInt16BE(whole.length - 14 - 40, 14 + 4);
      return parseSegment(whole);
    };
    beforeEach(() => rig.backends(backend));

    test('is relayed both ways, behind the jumbo option that says its length', () => {
      const there = rig.ingress(batch, 2);
      expect(there.verdict).toBe(NEXT);
      expect(read(there.bytes)).toMatchObject({ destination: backend, isRight: true });
      const back = rig.egress(reply, 2);
      expect(back.verdict).toBe(NEXT);
      expect(read(back.bytes)).toMatchObject({ source: V6.destination, isRight: true });
    });

    test('counts with all of its bytes', () => {
      rig.ingress({ ...V6, payload: new Uint8Array(0) });
      rig.egress({ ...reply, payload: new Uint8Array(0), sequence: 100, acknowledged: 8 }, 2);
      rig.ingress({ ...batch, flags: ACK, sequence: 8, acknowledged: 101 }, 2);
      rig.egress({ ...reply, flags: ACK, sequence: 101, acknowledged: 108 }, 2);
      expect(rig.counts(1)).toMatchObject({ accepted: 1, downstreamBytes: 100, upstreamBytes: 100 });
    });

    test('as a single segment is nothing that a listener has to do with', () => {
      const { verdict, bytes } = rig.ingress(batch);
      expect(verdict).toBe(NEXT);
      expect(Buffer.from(bytes).equals(segment(batch))).toBe(true);
      expect(rig.records()).toEqual([0, 0]);
    });
  });

  describe('dropped and counted', () => {
    test.each(Object.entries(DROPPED))('%s', async (_name, options) => {
      await backendFor(options);
      expect(rig.ingress(options).verdict).toBe(DROP);
      expect(rig.counts(indexOf(options)).dropped).toBe(1);
      expect(rig.records()).toEqual([0, 0]);
    });
  });

  test.each([
    ['IPv4', V4, 14 + 20 + 20],
    ['IPv4 with options', { ...V4, ipOptions: new Uint8Array(12).fill(1) }, 14 + 32 + 20],
    ['IPv6', V6, 14 + 40 + 20],
    ['IPv6 with options', { ...V6, extensions: [extension(0), extension(60, 2)] }, 14 + 40 + 24 + 20],
  ] as const)(
    '%s cut off at every length is passed on or dropped, never relayed',
    async (_name, options, headers) => {
      await backendFor(options);
      const whole = segment({ ...options, payload: new Uint8Array(5) });
      const tried = eachCut(whole, (cut) => {
        const { verdict } = rig.ingress(cut);
        return () =>
          expect(verdict, `at ${cut.length} of ${whole.length} bytes`).toBe(
            cut.length < headers ? NEXT : DROP,
          );
      });
      expect(tried).toBeGreaterThanOrEqual(whole.length - headers + 20);
      expect(rig.counts(indexOf(options)).dropped).toBe(whole.length - headers);
      expect(rig.records()).toEqual([0, 0]);
    },
  );

  describe('RST instead of what nobody can answer', () => {
    const cases: Readonly<
      Record<string, readonly [SegmentOptions, Partial<ReturnType<typeof parseSegment>>]>
    > = {
      'an ACK without a connection, with the number that it awaits': [
        { ...V4, flags: ACK, acknowledged: 4_000_000_000, payload: new Uint8Array(100) },
        { sequence: 4_000_000_000, acknowledged: 0, flags: RST },
      ],
      'a FIN without ACK': [
        { ...V4, flags: FIN, sequence: 0xffff_ffff, payload: new Uint8Array(2) },
        { sequence: 0, acknowledged: 2, flags: RST | ACK },
      ],
      'a SYN while no backend is ready': [V4, { sequence: 0, acknowledged: 8, flags: RST | ACK }],
      'a SYN with bytes and options': [
        { ...V4, tcpOptions: new Uint8Array(12).fill(1), payload: new Uint8Array(5) },
        { sequence: 0, acknowledged: 13, flags: RST | ACK },
      ],
      'IPv6, an ACK': [
        { ...V6, flags: ACK, acknowledged: 99, payload: new Uint8Array(31) },
        { sequence: 99, acknowledged: 0, flags: RST },
      ],
      'IPv6, a SYN': [V6, { sequence: 0, acknowledged: 8, flags: RST | ACK }],
    };
    test.each(Object.entries(cases))('%s', (_name, [options, expected]) => {
      const before = segment(options);
      // Link addresses are seen to change places.
      before.set([0, 0, 0, 0, 0, 0, 2, 3, 4, 5, 6, 7], 0);
      const { verdict, bytes, segment: reset } = rig.ingress(before);
      expect(verdict).toBe(REDIRECT);
      expect([...bytes.subarray(0, 12)]).toEqual([2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0]);
      expect(bytes.length).toBe(isV4(options) ? 54 : 74);
      expect(reset).toMatchObject({
        source: options.destination,
        destination: options.source,
        isRight: true,
        ...expected,
      });
      expect(reset.payload.length).toBe(0);
    });

    test('but nothing for a RST, nor behind IP options', () => {
      expect(rig.ingress({ ...V4, flags: RST }).verdict).toBe(DROP);
      expect(rig.ingress({ ...V4, flags: RST | ACK }).verdict).toBe(DROP);
      expect(rig.ingress({ ...V4, flags: ACK, ipOptions: new Uint8Array(4).fill(1) }).verdict).toBe(DROP);
      expect(rig.ingress({ ...V6, flags: ACK, extensions: [extension(0)] }).verdict).toBe(DROP);
    });
  });

  test('while the relay drains, what has no connection is for whoever has the address now', async () => {
    await backendFor(V4);
    rig.drain();
    for (const flags of [SYN, ACK, RST]) {
      const before = segment({ ...V4, flags });
      const { verdict, bytes } = rig.ingress(before);
      expect(verdict).toBe(NEXT);
      expect(Buffer.from(bytes).equals(before)).toBe(true);
    }
    expect(rig.counts()).toMatchObject({ accepted: 0, dropped: 0 });
  });
});
