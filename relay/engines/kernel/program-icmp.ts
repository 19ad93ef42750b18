/**
 * ICMP errors about what the relay forwarded, such as a backend's "port unreachable". They quote the datagram as the backend got
 * it, and come from the backend or a router on the way to it: passed on, they would show players the servers' addresses.
 *
 *  1. an error: ICMP types 3, 11 and 12, ICMPv6 types 1 to 4;
 *  2. it quotes a UDP datagram, not a later fragment; those that quote TCP are for program-tcp-error.ts;
 *  3. there is a reverse record of the quoted destination and source, so the datagram was one that the relay sent there;
 *  4. it is counted for the session's listener, and dropped. With sourceAddress `relay` it is this host that it came to, not
 *     a player: counted where it comes in, and passed on to the system.
 *
 * Everything else goes on. Registers: r7 the IP header, r8 the packet's end, r9 what is behind it.
 */
import { UPSTREAM_UNREACHABLE } from '../../core/counters.ts';
import type { Hook } from './attach.ts';
import {
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ICMP,
  ICMPV6,
  IPV4,
  IPV4_FRAGMENT_OFFSET,
  IPV6,
  TCP_PROTOCOL,
  UDP_PROTOCOL,
  V4_MAPPED,
} from './headers.ts';
import { HELPER, TCX_DROP } from './helpers.ts';
import { field, memory, part, r0, r1, r2, r3, r5, r6, r7, r8, r9, type Register } from './memory.ts';
import {
  add,
  type Code,
  copy,
  counter,
  findListener,
  loadContext,
  local,
  lookup,
  reverseKey,
  sessionKey,
  tailCall,
} from './program-frame.ts';
import { REVERSE, RULES, SOURCE_CLIENT } from './records.ts';
import { ADDRESS, U16, U32 } from './struct.ts';
import { tcpProgramIndex } from './tcp-maps.ts';

export const ICMP_HEADER = 8;
const PORTS = 4;

/** linux/icmp.h: destination unreachable, time exceeded, parameter problem. */
export const ICMP_ERRORS = [3, 11, 12];
/** linux/icmpv6.h: below this are errors. */
export const ICMPV6_PARAMETER_PROBLEM = 4;

/** Bytes from the IP header on that are looked at: both IPv4 headers with all options, or both IPv6 headers. */
const ROOM = 60 + ICMP_HEADER + 60 + PORTS;

const NO_ERROR = 'no ICMP error of ours';
const QUOTES_TCP = 'quotes TCP';

/** Needs the packet's context in r6; loses all other registers. */
export function hideErrors(
  a: Code,
  { linkHeaderBytes, hook }: { readonly linkHeaderBytes: number; readonly hook: Hook },
): void {
  loadContext(a, r1, 'vlanPresent');
  a.jumpIf(r1, '!=', 0, NO_ERROR);
  loadContext(a, r1, 'protocol');
  a.jumpIf(r1, '==', ETHERTYPE_IPV6, 'maybe ICMPv6');
  a.jumpIf(r1, '!=', ETHERTYPE_IPV4, NO_ERROR);
  requireProtocol(a, { at: linkHeaderBytes + IPV4.at.protocol, protocol: ICMP });
  pull(a, { linkHeaderBytes, room: ROOM, otherwise: NO_ERROR });
  readIpv4(a);
  a.label('maybe ICMPv6');
  requireProtocol(a, { at: linkHeaderBytes + IPV6.at.nextHeader, protocol: ICMPV6 });
  pull(a, { linkHeaderBytes, room: ROOM, otherwise: NO_ERROR });
  readIpv6(a);

  a.label('quotes UDP');
  for (const [name, at] of [
    ['seenPort', 0],
    ['backendPort', U16],
  ] as const) {
    a.load(r1, memory(r9, at, U16));
    a.swapBytes(r1, 16);
    a.store(reverseKey(name), r1);
  }
  lookup(a, 'reverse', local('scratch'));
  a.jumpIf(r0, '==', 0, NO_ERROR);
  copy(a, sessionKey(), { from: field(r0, REVERSE, 'session') });
  findListener(a, local('listener'));
  a.load(r7, field(r8, RULES, 'sourceAddress'));
  if (hook === 'egress') a.jumpIf(r7, '!=', SOURCE_CLIENT, NO_ERROR);
  add(a, counter(UPSTREAM_UNREACHABLE), { by: 1 });
  a.jumpIf(r7, '!=', SOURCE_CLIENT, NO_ERROR);
  a.mov(r0, TCX_DROP);
  a.exit();
  a.label(QUOTES_TCP);
  tailCall(a, 'tcp_errors', tcpProgramIndex(hook, linkHeaderBytes));
  a.label(NO_ERROR);
}

/** Goes on if the byte of the packet is there and is this one. */
function requireProtocol(a: Code, { at, protocol }: { at: number; protocol: number }): void {
  loadContext(a, r7, 'data');
  loadContext(a, r8, 'dataEnd');
  need(a, r7, { bytes: at + 1, otherwise: NO_ERROR });
  a.load(r1, memory(r7, at, 1));
  a.jumpIf(r1, '!=', protocol, NO_ERROR);
}

/** Brings so many bytes, or all that there are, to where they can be read; r7 = the IP header, r8 = the end. */
export function pull(
  a: Code,
  { linkHeaderBytes, room, otherwise }: { linkHeaderBytes: number; room: number; otherwise: string },
): void {
  const isShort = a.unique('packet is short');
  loadContext(a, r2, 'len');
  a.jumpIf(r2, '<=', linkHeaderBytes + room, isShort);
  a.mov(r2, linkHeaderBytes + room);
  a.label(isShort);
  a.mov(r1, r6);
  a.call(HELPER.skbPullData);
  a.jumpIf(r0, '!=', 0, otherwise);
  loadContext(a, r7, 'data');
  loadContext(a, r8, 'dataEnd');
  a.alu('add', r7, linkHeaderBytes);
}

/** Loses r3. */
export function need(
  a: Code,
  at: Register,
  { bytes, otherwise }: { bytes: number; otherwise: string },
): void {
  a.mov(r3, at);
  a.alu('add', r3, bytes);
  a.jumpIf(r3, '>', r8, otherwise);
}

/** r9 = what is behind the IPv4 header at `header`, which may be r9 itself. Loses r1, r3 and r5. */
export function behindIpv4(a: Code, header: Register, otherwise: string): void {
  need(a, header, { bytes: IPV4.size, otherwise });
  a.load(r5, memory(header, 0, 1));
  a.alu('and', r5, 15);
  a.alu('shiftLeft', r5, 2);
  a.jumpIf(r5, '<', IPV4.size, otherwise);
  a.mov(r9, header);
  a.alu('add', r9, r5);
}

function readIpv4(a: Code): void {
  behindIpv4(a, r7, NO_ERROR);
  need(a, r9, { bytes: ICMP_HEADER, otherwise: NO_ERROR });
  a.load(r1, memory(r9, 0, 1));
  for (const type of ICMP_ERRORS) a.jumpIf(r1, '==', type, 'ICMP error');
  a.jump(NO_ERROR);
  a.label('ICMP error');
  a.alu('add', r9, ICMP_HEADER);
  need(a, r9, { bytes: IPV4.size, otherwise: NO_ERROR });
  a.load(r1, memory(r9, IPV4.at.protocol, 1));
  a.jumpIf(r1, '==', TCP_PROTOCOL, QUOTES_TCP);
  a.jumpIf(r1, '!=', UDP_PROTOCOL, NO_ERROR);
  a.load(r1, memory(r9, IPV4.at.fragment, U16));
  a.jumpIf(r1, 'has', IPV4_FRAGMENT_OFFSET, NO_ERROR);
  for (const [name, at] of [
    ['seen', IPV4.at.source],
    ['backend', IPV4.at.destination],
  ] as const) {
    a.load(r1, memory(r9, at, U32));
    a.store(part(reverseKey(name), 0, 8), 0);
    a.store(part(reverseKey(name), 8, 4), V4_MAPPED);
    a.store(part(reverseKey(name), 12, 4), r1);
  }
  behindIpv4(a, r9, NO_ERROR);
  need(a, r9, { bytes: PORTS, otherwise: NO_ERROR });
  a.jump('quotes UDP');
}

function readIpv6(a: Code): void {
  const quoted = IPV6.size + ICMP_HEADER;
  need(a, r7, { bytes: quoted + IPV6.size + PORTS, otherwise: NO_ERROR });
  a.load(r1, memory(r7, IPV6.size, 1));
  a.jumpIf(r1, '==', 0, NO_ERROR);
  a.jumpIf(r1, '>', ICMPV6_PARAMETER_PROBLEM, NO_ERROR);
  a.load(r1, memory(r7, quoted + IPV6.at.nextHeader, 1));
  a.jumpIf(r1, '==', TCP_PROTOCOL, QUOTES_TCP);
  a.jumpIf(r1, '!=', UDP_PROTOCOL, NO_ERROR);
  for (const [name, at] of [
    ['seen', IPV6.at.source],
    ['backend', IPV6.at.destination],
  ] as const) {
    for (let word = 0; word < ADDRESS; word += 8) {
      a.load(r1, memory(r7, quoted + at + word, 8));
      a.store(part(reverseKey(name), word, 8), r1);
    }
  }
  a.mov(r9, r7);
  a.alu('add', r9, quoted + IPV6.size);
}
