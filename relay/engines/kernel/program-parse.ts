/**
 * Reads a packet's headers: who sent it to whom, where its UDP or TCP header is, and how many bytes it carries.
 *
 *  1. unless all headers are there already, the first HEADER_ROOM bytes are brought into the linear part of the packet, where they
 *     can be read;
 *  2. IPv4: options are passed over. IPv6: hop-by-hop and destination options, routing headers that have arrived, and
 *     fragment headers of whole datagrams are passed over, up to EXTENSION_HEADERS of them within HEADER_ROOM;
 *  3. the port that matters is looked up in `ports` (TCP: `tcp_ports`): whatever has nothing to do with the relay ends here;
 *  4. addresses and ports are written where the caller wants them; the port's listener, if it is a relay port, as the
 *     local `listener`.
 *
 * Not ours, so passed on untouched: no IP, another protocol, VLAN-tagged, not for this host's link address, cut off before its
 * ports, later fragments (they have no ports; without their first one they come to nothing), other extension headers. Ours but
 * no good (local `verdict`): a first fragment, and lengths that contradict each other.
 */
import { dropReason } from '../../core/drop-reason.ts';
import {
  DESTINATION_OPTIONS,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ETHERTYPE_IPV6_BIT,
  EXTENSION,
  FRAGMENT,
  HOP_BY_HOP,
  IPV4,
  IPV4_FRAGMENT_OFFSET,
  IPV4_MORE_FRAGMENTS,
  IPV6,
  IPV6_FRAGMENT_OFFSET,
  IPV6_MORE_FRAGMENTS,
  ROUTING,
  SEGMENTS_LEFT,
  TCP,
  TCP_PROTOCOL,
  UDP,
  UDP_PROTOCOL,
  V4_MAPPED,
} from './headers.ts';
import { HELPER, PACKET_HOST } from './helpers.ts';
import { PORT } from './maps.ts';
import {
  field,
  type Memory,
  memory,
  part,
  r0,
  r1,
  r2,
  r3,
  r4,
  r5,
  r6,
  r7,
  r8,
  r9,
  type Register,
} from './memory.ts';
import { type Code, loadContext, local, lookup, NEXT } from './program-frame.ts';
import { ADDRESS } from './struct.ts';

/** Bytes from the IP header on that are looked at: more than IPv4 with all options and UDP, or IPv6 with 80 of extensions. */
const HEADER_ROOM = 128;

/** Extension headers of one packet that are passed over. */
const EXTENSION_HEADERS = 4;

/** Version 4, and a header of 5 words. */
const PLAIN_IPV4 = 0x45;

/** What is to be found behind the IP header. */
export type Transport = 'udp' | 'tcp';

const TRANSPORTS = {
  udp: { protocol: UDP_PROTOCOL, header: UDP.size, ports: 'ports' },
  tcp: { protocol: TCP_PROTOCOL, header: TCP.size, ports: 'tcp_ports' },
} as const;

const MALFORMED = dropReason('malformed') + 1;
const FIRST_FRAGMENT = dropReason('fragment') + 1;

export interface ParseOptions {
  readonly transport: Transport;
  /** Where a packet of another protocol goes on. */
  readonly otherwise?: string;
  /** Bytes before the IP header: 14 of Ethernet, or 0. */
  readonly linkHeaderBytes: number;
  /** The port that decides whether the packet may be ours. */
  readonly port: 'source' | 'destination';
  /** Bits of PORT.flags, one of which that port must have. */
  readonly wanted: number;
  /** A field of that port's record, for the local `guess`. */
  readonly guess?: 'firstListener' | 'repliesTo';
  /** Where to write what was found: addresses, and ports in host order. */
  readonly source: Memory;
  readonly sourcePort: Memory;
  readonly destination: Memory;
  readonly destinationPort: Memory;
}

// While parsing: r7 the IP header, r8 the end of the linear part, r9 the UDP or TCP header, r5 its offset, r4 the bytes from there.
const ip = r7;

const end = r8;
const inner = r9;

export function parse(a: Code, options: ParseOptions): void {
  const { linkHeaderBytes } = options;
  a.store(local('verdict'), 0);
  a.store(local('isV6'), 0);
  loadContext(a, r1, 'vlanPresent');
  a.jumpIf(r1, '!=', 0, NEXT);
  makeLinear(a, linkHeaderBytes);
  a.alu('add', ip, linkHeaderBytes);
  loadContext(a, r1, 'protocol');
  a.jumpIf(r1, '==', ETHERTYPE_IPV6, 'parse IPv6');
  a.jumpIf(r1, '!=', ETHERTYPE_IPV4, NEXT);
  parseIpv4(a, options);
  a.label('parse IPv6');
  parseIpv6(a, options);
  a.label('parse transport');
  parseTransport(a, options);
  writeAddresses(a, options);
  forgetFamily(a);
}

/** r7 = the start of the packet, r8 = the end of its linear part, which has all headers, or HEADER_ROOM bytes, or all that there are. */
function makeLinear(a: Code, linkHeaderBytes: number): void {
  const room = linkHeaderBytes + HEADER_ROOM;
  const loadEnds = (): void => {
    loadContext(a, r7, 'data');
    loadContext(a, r8, 'dataEnd');
  };
  loadEnds();
  jumpIfPlain(a, linkHeaderBytes, 'packet is linear');
  loadContext(a, r2, 'len');
  a.jumpIf(r2, '<=', room, 'packet is short');
  a.mov(r2, room);
  a.label('packet is short');
  a.mov(r3, r7);
  a.alu('add', r3, r2);
  a.jumpIf(r3, '<=', r8, 'packet is linear');
  a.mov(r1, r6);
  a.call(HELPER.skbPullData);
  a.jumpIf(r0, '!=', 0, NEXT);
  loadEnds();
  a.label('packet is linear');
}

/**
 * Jumps if the linear part (r7 to r8) has the headers of a packet without IPv4 options or IPv6 extension headers. The system's own TCP
 * has its headers there and its payload elsewhere: to bring some of that in would copy the head of each segment. Loses r1 and r3.
 */
function jumpIfPlain(a: Code, linkHeaderBytes: number, target: string): void {
  const [isNot, v6] = ['not plain', 'plain IPv6'];
  const needLinear = (bytes: number): void => {
    a.mov(r3, r7);
    a.alu('add', r3, linkHeaderBytes + bytes);
    a.jumpIf(r3, '>', r8, isNot);
  };
  needLinear(IPV4.size + TCP.size);
  loadContext(a, r1, 'protocol');
  a.jumpIf(r1, '==', ETHERTYPE_IPV6, v6);
  a.load(r1, memory(r7, linkHeaderBytes, 1));
  a.jumpIf(r1, '==', PLAIN_IPV4, target);
  a.jump(isNot);
  a.label(v6);
  needLinear(IPV6.size + TCP.size);
  a.load(r1, memory(r7, linkHeaderBytes + IPV6.at.nextHeader, 1));
  for (const { protocol } of Object.values(TRANSPORTS)) a.jumpIf(r1, '==', protocol, target);
  a.label(isNot);
}

/** Jumps to NEXT unless `bytes` from `at` on are there. Loses r3. */
function need(a: Code, at: Register, bytes: number): void {
  a.mov(r3, at);
  a.alu('add', r3, bytes);
  a.jumpIf(r3, '>', end, NEXT);
}

function parseIpv4(a: Code, { transport, linkHeaderBytes, otherwise = NEXT }: ParseOptions): void {
  need(a, ip, IPV4.size + UDP.size);
  a.load(r1, field(ip, IPV4, 'protocol'));
  a.jumpIf(r1, '!=', TRANSPORTS[transport].protocol, otherwise);
  a.load(r5, field(ip, IPV4, 'versionAndLength'));
  a.mov(r1, r5);
  a.alu('shiftRight', r1, 4);
  a.jumpIf(r1, '!=', 4, NEXT);
  a.alu('and', r5, 15);
  a.alu('shiftLeft', r5, 2);
  a.jumpIf(r5, '<', IPV4.size, NEXT);

  a.load(r1, field(ip, IPV4, 'fragment'));
  a.jumpIf(r1, 'has', IPV4_FRAGMENT_OFFSET, NEXT);
  a.load(r4, field(ip, IPV4, 'totalLength'));
  a.swapBytes(r4, 16);
  if (transport === 'tcp') readLargeTotal(a, linkHeaderBytes);
  checkTotal(a, linkHeaderBytes);
  a.jumpIf(r1, 'has', IPV4_MORE_FRAGMENTS, 'IPv4 fragment');
  a.jump('IPv4 whole');
  a.label('IPv4 fragment');
  a.store(local('verdict'), FIRST_FRAGMENT);
  a.label('IPv4 whole');
  a.jumpIf(r4, '<', r5, NEXT);
  a.alu('sub', r4, r5);
  a.mov(inner, ip);
  a.alu('add', inner, r5);
  a.alu('add', r5, linkHeaderBytes);
  a.jump('parse transport');
}

/**
 * r4 = the bytes from the IP header on, of a batch of segments that passes as one and is too large for the header's field, which
 * then says 0: on loopback two segments alone may be. `empty`: what r4 is then. Loses r2.
 */
function readLargeTotal(a: Code, linkHeaderBytes: number, empty = 0): void {
  const isKnown = a.unique('total is known');
  a.jumpIf(r4, '!=', empty, isKnown);
  loadContext(a, r2, 'gsoSegs');
  a.jumpIf(r2, '<=', 1, isKnown);
  loadContext(a, r4, 'len');
  a.alu('sub', r4, linkHeaderBytes);
  a.label(isKnown);
}

/** verdict = malformed if the r4 bytes that the IP header promises are not there. Loses r2. */
function checkTotal(a: Code, linkHeaderBytes: number): void {
  const isThere = a.unique('all is there');
  loadContext(a, r2, 'len');
  a.alu('sub', r2, linkHeaderBytes);
  a.jumpIf(r4, '<=', r2, isThere);
  a.store(local('verdict'), MALFORMED);
  a.label(isThere);
}

function parseIpv6(a: Code, options: ParseOptions): void {
  const { transport, linkHeaderBytes, otherwise = NEXT } = options;
  need(a, ip, IPV6.size);
  a.load(r1, field(ip, IPV6, 'versionAndClass'));
  a.alu('shiftRight', r1, 4);
  a.jumpIf(r1, '!=', 6, NEXT);
  for (const name of ['source', 'destination'] as const) jumpIfMapped(a, field(ip, IPV6, name));
  a.store(local('isV6'), 1);

  a.load(r4, field(ip, IPV6, 'payloadLength'));
  a.swapBytes(r4, 16);
  a.alu('add', r4, IPV6.size);
  // Whatever is looked for: a TCP header may come behind the jumbo option that such a batch has (RFC 2675).
  readLargeTotal(a, linkHeaderBytes, IPV6.size);
  checkTotal(a, linkHeaderBytes);
  a.alu('sub', r4, IPV6.size);
  a.mov(inner, ip);
  a.alu('add', inner, IPV6.size);
  a.mov(r5, linkHeaderBytes + IPV6.size);
  a.load(r1, field(ip, IPV6, 'nextHeader'));
  for (let i = 0; i < EXTENSION_HEADERS; i++) passExtension(a, i, options);
  a.jumpIf(r1, '==', TRANSPORTS[transport].protocol, 'parse transport');
  a.jump(otherwise);
}

/** One extension header of type r1 at r9, or on to the UDP or TCP header, which may begin where it still fits the room. */
function passExtension(a: Code, i: number, options: ParseOptions): void {
  const { transport, linkHeaderBytes, otherwise = NEXT } = options;
  const { protocol, header } = TRANSPORTS[transport];
  const last = linkHeaderBytes + HEADER_ROOM - header;
  const next = `after extension ${i}`;
  a.jumpIf(r1, '==', protocol, 'parse transport');
  need(a, inner, 8);
  a.jumpIf(r1, '==', HOP_BY_HOP, `options ${i}`);
  a.jumpIf(r1, '==', DESTINATION_OPTIONS, `options ${i}`);
  a.jumpIf(r1, '==', FRAGMENT, `fragment ${i}`);
  a.jumpIf(r1, '!=', ROUTING, otherwise);
  a.load(r2, memory(inner, SEGMENTS_LEFT, 1));
  a.jumpIf(r2, '!=', 0, NEXT);

  a.label(`options ${i}`);
  a.load(r2, field(inner, EXTENSION, 'length'));
  a.alu('add', r2, 1);
  a.alu('shiftLeft', r2, 3);
  a.jumpIf(r2, '>', HEADER_ROOM, NEXT);
  a.jump(next);

  a.label(`fragment ${i}`);
  a.load(r2, field(inner, EXTENSION, 'fragment'));
  a.jumpIf(r2, 'has', IPV6_FRAGMENT_OFFSET, NEXT);
  a.jumpIf(r2, 'has', IPV6_MORE_FRAGMENTS, `first fragment ${i}`);
  a.jump(`whole ${i}`);
  a.label(`first fragment ${i}`);
  a.store(local('verdict'), FIRST_FRAGMENT);
  a.label(`whole ${i}`);
  a.mov(r2, 8);

  a.label(next);
  a.jumpIf(r4, '<', r2, NEXT);
  a.load(r1, field(inner, EXTENSION, 'nextHeader'));
  a.alu('sub', r4, r2);
  a.alu('add', inner, r2);
  a.alu('add', r5, r2);
  a.jumpIf(r5, '>', last, NEXT);
}

/** Such an address has no business on the wire (RFC 4942 section 2.2), and would pass for the IPv4 one. */
function jumpIfMapped(a: Code, address: Memory): void {
  const isNot = a.unique('not mapped');
  a.load(r1, part(address, 0, 8));
  a.jumpIf(r1, '!=', 0, isNot);
  a.load(r1, part(address, 8, 4));
  a.jumpIf32(r1, '==', V4_MAPPED, NEXT);
  a.label(isNot);
}

function parseTransport(
  a: Code,
  { transport, linkHeaderBytes, port, wanted, guess, sourcePort, destinationPort }: ParseOptions,
): void {
  const { header, ports } = TRANSPORTS[transport];
  need(a, inner, header);
  // Known already; but as a difference it has the same bounds for the verifier, whatever was passed over.
  a.mov(r5, inner);
  a.alu('sub', r5, ip);
  a.alu('add', r5, linkHeaderBytes);
  a.jumpIf(r5, '>', linkHeaderBytes + HEADER_ROOM, NEXT);
  a.store(local('transport'), r5);
  // Both kinds of header begin with the ports.
  a.load(r1, field(inner, UDP, 'source'));
  a.swapBytes(r1, 16);
  a.store(sourcePort, r1);
  a.load(r2, field(inner, UDP, 'destination'));
  a.swapBytes(r2, 16);
  a.store(destinationPort, r2);
  if (transport === 'udp') countBytes(a);
  else readSegment(a);

  a.store(local('index'), port === 'source' ? r1 : r2);
  lookup(a, ports, local('index'));
  a.jumpIf(r0, '==', 0, NEXT);
  a.load(r1, field(r0, PORT, 'flags'));
  a.alu('and', r1, wanted);
  a.jumpIf(r1, '==', 0, NEXT);
  a.store(local('portFlags'), r1);
  a.load(r1, field(r0, PORT, 'listener'));
  a.store(local('listener'), r1);
  if (guess !== undefined) {
    a.load(r1, field(r0, PORT, guess));
    a.store(local('guess'), r1);
  }
  loadContext(a, r1, 'gsoSegs');
  a.jumpIf(r1, '!=', 0, 'is a batch');
  a.mov(r1, 1);
  a.label('is a batch');
  a.store(local('datagrams'), r1);
}

/** bytes = what the UDP header says, or of a fragment what is there. r4: bytes from the UDP header on. Loses r3. */
function countBytes(a: Code): void {
  a.jumpIf(r4, '<', UDP.size, NEXT);
  a.load(r3, local('verdict'));
  a.jumpIf(r3, '==', FIRST_FRAGMENT, 'length is known');
  a.load(r3, field(inner, UDP, 'length'));
  a.swapBytes(r3, 16);
  a.jumpIf(r3, '<', UDP.size, 'length is wrong');
  a.jumpIf(r3, '>', r4, 'length is wrong');
  a.mov(r4, r3);
  a.jump('length is known');
  a.label('length is wrong');
  a.store(local('verdict'), MALFORMED);
  a.label('length is known');
  a.alu('sub', r4, UDP.size);
  a.store(local('bytes'), r4);
}

/** Flags, numbers and bytes of a TCP segment. A header that contradicts itself is not ours: the system drops it. Loses r3. */
function readSegment(a: Code): void {
  a.load(r3, field(inner, TCP, 'offset'));
  a.alu('shiftRight', r3, 4);
  a.alu('shiftLeft', r3, 2);
  a.jumpIf(r3, '<', TCP.size, NEXT);
  a.jumpIf(r4, '<', r3, NEXT);
  a.alu('sub', r4, r3);
  a.store(local('bytes'), r4);
  a.load(r3, field(inner, TCP, 'flags'));
  a.store(local('tcpFlags'), r3);
  for (const name of ['sequence', 'acknowledged'] as const) {
    a.load(r3, field(inner, TCP, name));
    a.swapBytes(r3, 32);
    a.store(local(name), r3);
  }
}

function writeAddresses(a: Code, { source, destination }: ParseOptions): void {
  const pairs = [
    ['source', source],
    ['destination', destination],
  ] as const;
  a.load(r1, local('isV6'));
  a.jumpIf(r1, '!=', 0, 'write IPv6');
  for (const [name, to] of pairs) {
    a.load(r1, field(ip, IPV4, name));
    a.store(part(to, 0, 8), 0);
    a.store(part(to, 8, 4), V4_MAPPED);
    a.store(part(to, 12, 4), r1);
  }
  a.jump('parsed');
  a.label('write IPv6');
  for (const [name, to] of pairs) {
    for (let at = 0; at < ADDRESS; at += 8) {
      a.load(r1, part(field(ip, IPV6, name), at, 8));
      a.store(part(to, at, 8), r1);
    }
  }
  a.label('parsed');
}

/**
 * local isV6 once more, as a number that the verifier does not know. So for it all packets are one from here on; else it would
 * follow what comes after for IPv4 and for IPv6.
 */
function forgetFamily(a: Code): void {
  loadContext(a, r1, 'protocol');
  a.alu('shiftRight', r1, ETHERTYPE_IPV6_BIT);
  a.alu('and', r1, 1);
  a.store(local('isV6'), r1);
}

/** Jumps to NEXT unless the packet was sent to this host's link address. */
export function needOwnLinkAddress(a: Code): void {
  loadContext(a, r1, 'packetType');
  a.jumpIf(r1, '!=', PACKET_HOST, NEXT);
}
