/**
 * Reads an ICMP error about a TCP segment, for program-tcp-error.ts: who sent it to whom, and whose segment it quotes.
 *
 * Registers while reading: r7 the IP header, r8 the packet's end, r9 what is behind a header.
 */
import {
  ETHERTYPE_IPV6,
  IPV4,
  IPV4_FRAGMENT_OFFSET,
  IPV4_MORE_FRAGMENTS,
  IPV6,
  TCP,
  TCP_PROTOCOL,
  V4_MAPPED,
} from './headers.ts';
import { type Memory, memory, part, r1, r2, r7, r9, type Register } from './memory.ts';
import { type Code, copy, jumpUnlessSame, loadContext, local, NEXT } from './program-frame.ts';
import {
  behindIpv4,
  ICMP_ERRORS,
  ICMP_HEADER,
  ICMPV6_PARAMETER_PROBLEM,
  need,
  pull,
} from './program-icmp.ts';
import { reversePart, tcpKeyPart } from './program-tcp-frame.ts';
import { ADDRESS, U16, U32 } from './struct.ts';

/** Bytes from the IP header on that are looked at: both IPv4 headers with all options, and a TCP header. */
const ROOM = 60 + ICMP_HEADER + 60 + TCP.size;
const PORTS = 4;

// Who sent the error to whom goes to the locals client and contacted, who sent the segment to whom to the reverse key, and the other way
// round to that of a connection. Offsets in the packet:
export const errorAt = (): Memory => local('transport');
export const quotedAt = (): Memory => local('snapshot');
export const segmentAt = (): Memory => local('pin');
/** Bytes from the IP header on, as the header says. */
const total = (): Memory => local('bytes');
/** Not 0: the quoted segment has its checksum. */
export const quotesSum = (): Memory => local('datagrams');

export const oldSource = (): Memory => reversePart('seen');
export const oldDestination = (): Memory => reversePart('backend');

/** Reads the error and what it quotes, both as a reverse key and as that of a connection; jumps to NEXT if it is none, or not whole. */
export function readError(a: Code, linkHeaderBytes: number): void {
  pull(a, { linkHeaderBytes, room: ROOM, otherwise: NEXT });
  loadContext(a, r1, 'protocol');
  a.jumpIf(r1, '==', ETHERTYPE_IPV6, 'IPv6');
  readIpv4(a, linkHeaderBytes);
  a.jump('quotes TCP');
  a.label('IPv6');
  readIpv6(a, linkHeaderBytes);
  a.label('quotes TCP');
  noteOffset(a, segmentAt(), linkHeaderBytes);
  requirePorts(a, linkHeaderBytes);
  for (const [at, inReverse, inConnection] of [
    [0, 'seenPort', 'contactedPort'],
    [U16, 'backendPort', 'clientPort'],
  ] as const) {
    a.load(r1, memory(r9, at, U16));
    a.swapBytes(r1, 16);
    a.store(reversePart(inReverse), r1);
    a.store(tcpKeyPart(inConnection), r1);
  }
  copy(a, tcpKeyPart('contacted'), { from: oldSource() });
  copy(a, tcpKeyPart('client'), { from: oldDestination() });
  jumpUnlessSame(a, local('contacted'), { other: oldSource(), target: NEXT });
}

function readIpv4(a: Code, linkHeaderBytes: number): void {
  a.store(local('isV6'), 0);
  need(a, r7, { bytes: IPV4.size, otherwise: NEXT });
  a.load(r1, memory(r7, IPV4.at.fragment, U16));
  a.jumpIf(r1, 'has', IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS, NEXT);
  a.load(r1, memory(r7, IPV4.at.totalLength, U16));
  a.swapBytes(r1, 16);
  noteTotal(a, linkHeaderBytes);
  copyIpv4(a, r7, { source: local('client'), destination: local('contacted') });
  behindIpv4(a, r7, NEXT);
  noteOffset(a, errorAt(), linkHeaderBytes);
  need(a, r9, { bytes: ICMP_HEADER + IPV4.size, otherwise: NEXT });
  a.load(r1, memory(r9, 0, 1));
  for (const type of ICMP_ERRORS) a.jumpIf(r1, '==', type, 'ICMP error');
  a.jump(NEXT);
  a.label('ICMP error');
  a.alu('add', r9, ICMP_HEADER);
  noteOffset(a, quotedAt(), linkHeaderBytes);
  a.load(r1, memory(r9, IPV4.at.protocol, 1));
  a.jumpIf(r1, '!=', TCP_PROTOCOL, NEXT);
  a.load(r1, memory(r9, IPV4.at.fragment, U16));
  a.jumpIf(r1, 'has', IPV4_FRAGMENT_OFFSET, NEXT);
  copyIpv4(a, r9, { source: oldSource(), destination: oldDestination() });
  behindIpv4(a, r9, NEXT);
}

function readIpv6(a: Code, linkHeaderBytes: number): void {
  const quoted = IPV6.size + ICMP_HEADER;
  a.store(local('isV6'), 1);
  need(a, r7, { bytes: quoted + IPV6.size, otherwise: NEXT });
  a.load(r1, memory(r7, IPV6.at.payloadLength, U16));
  a.swapBytes(r1, 16);
  a.alu('add', r1, IPV6.size);
  noteTotal(a, linkHeaderBytes);
  a.load(r1, memory(r7, IPV6.size, 1));
  a.jumpIf(r1, '==', 0, NEXT);
  a.jumpIf(r1, '>', ICMPV6_PARAMETER_PROBLEM, NEXT);
  a.load(r1, memory(r7, quoted + IPV6.at.nextHeader, 1));
  a.jumpIf(r1, '!=', TCP_PROTOCOL, NEXT);
  copyIpv6(a, 0, { source: local('client'), destination: local('contacted') });
  copyIpv6(a, quoted, { source: oldSource(), destination: oldDestination() });
  a.mov(r9, r7);
  for (const [bytes, to] of [
    [IPV6.size, errorAt()],
    [ICMP_HEADER, quotedAt()],
  ] as const) {
    a.alu('add', r9, bytes);
    noteOffset(a, to, linkHeaderBytes);
  }
  a.alu('add', r9, IPV6.size);
}

interface Addresses {
  readonly source: Memory;
  readonly destination: Memory;
}

function copyIpv4(a: Code, header: Register, to: Addresses): void {
  for (const name of ['source', 'destination'] as const) {
    a.load(r1, memory(header, IPV4.at[name], U32));
    a.store(part(to[name], 0, 8), 0);
    a.store(part(to[name], 8, 4), V4_MAPPED);
    a.store(part(to[name], 12, 4), r1);
  }
}

/** Of the IPv6 header so far behind r7. */
function copyIpv6(a: Code, behind: number, to: Addresses): void {
  for (const name of ['source', 'destination'] as const) {
    for (let word = 0; word < ADDRESS; word += 8) {
      a.load(r1, memory(r7, behind + IPV6.at[name] + word, 8));
      a.store(part(to[name], word, 8), r1);
    }
  }
}

/** total = r1, which must not be more than is there. Loses r2. */
function noteTotal(a: Code, linkHeaderBytes: number): void {
  a.store(total(), r1);
  loadContext(a, r2, 'len');
  a.alu('sub', r2, linkHeaderBytes);
  a.jumpIf(r1, '>', r2, NEXT);
}

/** to = the offset of r9 in the packet. Loses r1. */
function noteOffset(a: Code, to: Memory, linkHeaderBytes: number): void {
  a.mov(r1, r9);
  a.alu('sub', r1, r7);
  a.alu('add', r1, linkHeaderBytes);
  a.store(to, r1);
}

/** Goes on if the error has the ports of the segment (r9); and notes whether it has the checksum. Loses r1 to r3. */
function requirePorts(a: Code, linkHeaderBytes: number): void {
  need(a, r9, { bytes: PORTS, otherwise: NEXT });
  a.load(r1, segmentAt());
  a.load(r2, total());
  a.alu('add', r1, PORTS - linkHeaderBytes);
  a.jumpIf(r1, '>', r2, NEXT);
  a.store(quotesSum(), 0);
  a.alu('add', r1, TCP.at.checksum + U16 - PORTS);
  a.jumpIf(r1, '>', r2, 'checksum is not quoted');
  a.store(quotesSum(), 1);
  a.label('checksum is not quoted');
}
