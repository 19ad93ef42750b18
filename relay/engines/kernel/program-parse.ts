/**
 * Reads a packet's headers: who sent it to whom, where its UDP or TCP header is, and how many bytes it carries.
 *
 *  1. unless all headers are there already, the first HEADER_ROOM bytes are brought into the linear part of the packet, where they
 *     can be read (program-linear.ts);
 *  2. the IP header, with options and extension headers, is passed over (program-ip.ts);
 *  3. the port that matters is looked up in `ports` (TCP: `tcp_ports`): whatever has nothing to do with the relay ends here;
 *  4. addresses and ports are written where the caller wants them; of the port's record the listener, if it is a relay port, as the
 *     local `listener`, and what the caller asks for as the local `guess`.
 *
 * Not ours, so passed on untouched: no IP, another protocol, VLAN-tagged, not for this host's link address, cut off before its
 * ports, later fragments (they have no ports; without their first one they come to nothing), other extension headers. Ours but
 * no good (local `verdict`): a first fragment, and lengths that contradict each other.
 */
import {
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ETHERTYPE_IPV6_BIT,
  IPV4,
  IPV6,
  TCP,
  UDP,
  V4_MAPPED,
} from './headers.ts';
import { PACKET_HOST } from './helpers.ts';
import { field, type Memory, part, r0, r1, r2, r3, r4, r5 } from './memory.ts';
import { type Code, loadContext, local, lookup, NEXT } from './program-frame.ts';
import { FIRST_FRAGMENT, type IpOptions, MALFORMED, parseIpv4, parseIpv6 } from './program-ip.ts';
import { HEADER_ROOM, inner, ip, makeLinear, need, TRANSPORTS } from './program-linear.ts';
import { PORT } from './records.ts';
import { ADDRESS } from './struct.ts';

export interface ParseOptions extends IpOptions {
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
