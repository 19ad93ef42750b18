/** ICMP errors, packet by packet: those about the relay's sessions are counted and hidden, all others pass. */
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { RULES, SOURCE_RELAY } from '../../relay/engines/kernel/records.ts';
import { ETHERNET_BYTES, packet, type PacketOptions } from './packet.ts';
import { DROP, NEXT, PacketRig } from './packet-rig.ts';

const unavailable = whyUnavailable();

const ICMP = 1;
const ICMPV6 = 58;
/** What a host quotes at least: the IP header without options, and 8 bytes. */
const LEAST_QUOTED = { v4: 20 + 8, v6: 40 + 8 } as const;

const CLIENT = '198.51.100.7:4000';
const LISTENER = '203.0.113.1:7777';
const BACKEND = '10.0.0.3:7000';
const CLIENT_V6 = '[2001:db8:1::7]:4000';
const LISTENER_V6 = '[2001:db8:2::1]:7777';
const BACKEND_V6 = '[fd00::3]:7000';

interface Quoting extends Partial<PacketOptions> {
  readonly quoted: Uint8Array;
  readonly type?: number;
  /** Bytes of it that are quoted. */
  readonly bytes?: number;
}

/** The first four bytes behind the IP header are a UDP header's ports, and an ICMP header's type, code and checksum. */
function icmpError(from: string, to: string, { quoted, type = 3, bytes, ...rest }: Quoting): Uint8Array {
  const isV6 = from.startsWith('[');
  return packet({
    source: `${from}:${type * 256 + 3}`,
    destination: `${to}:0`,
    protocol: isV6 ? ICMPV6 : ICMP,
    payload: quoted.subarray(0, bytes ?? (isV6 ? LEAST_QUOTED.v6 : LEAST_QUOTED.v4)),
    ...rest,
  });
}

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const rig = new PacketRig();
  afterAll(() => rig.close());
  beforeEach(() => rig.reset());

  const unreachable = (): number => rig.counts().upstreamUnreachable;

  /** A session's datagram as its backend gets it, from the IP header on. */
  const forwarded = (source: string, destination: string, rest: Partial<PacketOptions> = {}): Uint8Array => {
    const outcome = rig.ingress({ source, destination, payload: Buffer.alloc(40, 'x'), ...rest });
    expect(outcome.verdict).toBe(NEXT);
    return outcome.bytes.slice(ETHERNET_BYTES);
  };

  describe('an error about a session’s datagram', () => {
    test.each([3, 11, 12])('of type %i from the backend is dropped and counted', async (type) => {
      await rig.backends(BACKEND);
      rig.listen(LISTENER);
      const quoted = forwarded(CLIENT, LISTENER);
      const error = icmpError('10.0.0.3', '198.51.100.7', { quoted, type });
      expect(rig.egress(error).verdict).toBe(DROP);
      expect(unreachable()).toBe(1);
      // Its session goes on (RFC 4787, REQ-12).
      expect(rig.session(CLIENT)).toBeDefined();
      expect(rig.drops()).toEqual({});
    });

    test.each([1, 2, 3, 4])('of ICMPv6 type %i is too', async (type) => {
      await rig.backends(BACKEND_V6);
      rig.listen(LISTENER_V6);
      const quoted = forwarded(CLIENT_V6, LISTENER_V6);
      expect(rig.egress(icmpError('[fd00::3]', '[2001:db8:1::7]', { quoted, type })).verdict).toBe(DROP);
      expect(unreachable()).toBe(1);
    });

    test('from a router on the way, with options in both headers, and on ingress', async () => {
      await rig.backends(BACKEND);
      rig.listen(LISTENER);
      const ipOptions = Uint8Array.of(1, 1, 1, 1, 1, 1, 1, 0);
      const quoted = forwarded(CLIENT, LISTENER, { ipOptions });
      const error = icmpError('10.0.0.1', '198.51.100.7', { quoted, bytes: 28 + 8, ipOptions });
      expect(rig.egress(error).verdict).toBe(DROP);
      expect(rig.ingress(error).verdict).toBe(DROP);
      expect(unreachable()).toBe(2);
    });

    test('that ended is dropped while its reverse record rests', async () => {
      await rig.backends(BACKEND);
      rig.listen(LISTENER);
      const quoted = forwarded(CLIENT, LISTENER);
      rig.steward.add('endSession', rig.sessionKey(CLIENT));
      rig.steward.flush();
      expect(rig.egress(icmpError('10.0.0.3', '198.51.100.7', { quoted })).verdict).toBe(DROP);
    });
  });

  describe('passes untouched', () => {
    test.each([
      ['an answer to an echo request', { type: 0 }],
      ['a redirect', { type: 5 }],
      ['an error that quotes TCP', { change: { at: 9, to: 6 } }],
      ['an error that quotes a later fragment', { change: { at: 7, to: 1 } }],
      ['an error about another port', { change: { at: 22, to: 99 } }],
      ['an error about another destination', { change: { at: 19, to: 99 } }],
      ['an error that quotes too little', { bytes: 22 }],
      ['an error that quotes half a header', { bytes: 12 }],
      ['an error that quotes nothing', { bytes: 0 }],
      ['an error whose quotation claims a short header', { change: { at: 0, to: 0x41 } }],
      ['an error whose quotation claims a long header', { change: { at: 0, to: 0x4f } }],
    ] as const)('%s', async (_what, how) => {
      await rig.backends(BACKEND);
      rig.listen(LISTENER);
      const quoted = forwarded(CLIENT, LISTENER);
      if ('change' in how) quoted[how.change.at] = how.change.to;
      const { type = 3, bytes } = how as { type?: number; bytes?: number };
      const error = icmpError('10.0.0.3', '198.51.100.7', {
        quoted,
        type,
        ...(bytes === undefined ? {} : { bytes }),
      });
      for (const outcome of [rig.egress(error), rig.ingress(error)]) {
        expect(outcome.verdict).toBe(NEXT);
        expect(Buffer.from(outcome.bytes)).toEqual(error);
      }
      expect(unreachable()).toBe(0);
    });

    test('an error about a datagram that the client sent to the backend directly', async () => {
      await rig.backends(BACKEND);
      rig.listen(LISTENER);
      rig.maps.mapped.ports.setU16(rig.maps.mapped.ports.at(7000, 0), 8);
      const quoted = forwarded(CLIENT, LISTENER);
      rig.ingress({ source: CLIENT, destination: BACKEND });
      expect(rig.egress(icmpError('10.0.0.3', '198.51.100.7', { quoted })).verdict).toBe(NEXT);
    });

    test('and is counted, what came to the relay itself', async () => {
      await rig.backends(BACKEND);
      rig.listen(LISTENER, { rules: { sourceAddress: SOURCE_RELAY, firstRelayPort: 20_000, relayPorts: 4 } });
      rig.maps.mapped.rules.bytes.set(
        Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1),
        rig.maps.mapped.rules.at(0, RULES.at.relayV4),
      );
      rig.ingress({ source: CLIENT, destination: LISTENER });
      const { seenPort } = rig.session(CLIENT)!;
      const quoted = packet({ source: `10.0.0.1:${seenPort}`, destination: BACKEND }).slice(ETHERNET_BYTES);
      const error = icmpError('10.0.0.3', '10.0.0.1', { quoted });
      expect(rig.ingress(error).verdict).toBe(NEXT);
      expect(unreachable()).toBe(1);
      expect(rig.egress(error).verdict).toBe(NEXT);
      expect(unreachable()).toBe(1);
    });
  });

  test('cut off at any length it is dropped as soon as it has the quoted ports', async () => {
    await rig.backends(BACKEND);
    rig.listen(LISTENER);
    const quoted = forwarded(CLIENT, LISTENER);
    const error = icmpError('10.0.0.3', '198.51.100.7', { quoted });
    const needed = ETHERNET_BYTES + 20 + 8 + 20 + 4;
    // The kernel itself takes no packet without a whole IP header here.
    for (let length = ETHERNET_BYTES + 20; length <= error.length; length++) {
      const { verdict } = rig.egress(error.slice(0, length));
      expect(verdict, `cut to ${length} bytes`).toBe(length < needed ? NEXT : DROP);
    }
  });
}
