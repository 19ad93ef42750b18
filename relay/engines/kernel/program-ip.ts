/**
 * Reads a packet's IP header, for program-parse.ts, as far as the UDP or TCP header behind it: both families end at the label `parse
 * transport` with the same registers, so that everything after is one path.
 *
 * IPv4: options are passed over. IPv6: hop-by-hop and destination options, routing headers that have arrived, and fragment headers of whole
 * datagrams are passed over, up to EXTENSION_HEADERS of them within HEADER_ROOM.
 */
import { dropReason } from '../../core/drop-reason.ts';
import {
  DESTINATION_OPTIONS,
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
  UDP,
  V4_MAPPED,
} from './headers.ts';
import { field, type Memory, memory, part, r1, r2, r4, r5 } from './memory.ts';
import { type Code, loadContext, local, NEXT } from './program-frame.ts';
import { HEADER_ROOM, inner, ip, need, type Transport, TRANSPORTS } from './program-linear.ts';

/** Extension headers of one packet that are passed over. */
const EXTENSION_HEADERS = 4;

/** Values of the local `verdict`: the packet is ours, but to be dropped. */
export const MALFORMED = dropReason('malformed') + 1;
export const FIRST_FRAGMENT = dropReason('fragment') + 1;

export interface IpOptions {
  readonly transport: Transport;
  /** Where a packet of another protocol goes on. */
  readonly otherwise?: string;
  /** Bytes before the IP header: 14 of Ethernet, or 0. */
  readonly linkHeaderBytes: number;
}

export function parseIpv4(a: Code, { transport, linkHeaderBytes, otherwise = NEXT }: IpOptions): void {
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

export function parseIpv6(a: Code, options: IpOptions): void {
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
function passExtension(a: Code, i: number, options: IpOptions): void {
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
