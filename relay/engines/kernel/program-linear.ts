/**
 * Brings a packet's headers to where a program can read them, before they are read (program-parse.ts). Only the linear part of a packet
 * can be read, and what is not in it costs a copy; so that is looked at first.
 *
 * What the readers of headers share is here, too: their registers, and which transports there are.
 */
import { ETHERTYPE_IPV6, IPV4, IPV6, TCP, TCP_PROTOCOL, UDP, UDP_PROTOCOL } from './headers.ts';
import { HELPER } from './helpers.ts';
import { memory, r0, r1, r2, r3, r6, r7, r8, r9, type Register } from './memory.ts';
import { type Code, loadContext, NEXT } from './program-frame.ts';

/** Bytes from the IP header on that are looked at: more than IPv4 with all options and UDP, or IPv6 with 80 of extensions. */
export const HEADER_ROOM = 128;

/** Version 4, and a header of 5 words. */
const PLAIN_IPV4 = 0x45;

/** What is to be found behind the IP header. */
export type Transport = 'udp' | 'tcp';

export const TRANSPORTS = {
  udp: { protocol: UDP_PROTOCOL, header: UDP.size, ports: 'ports' },
  tcp: { protocol: TCP_PROTOCOL, header: TCP.size, ports: 'tcp_ports' },
} as const;

// While headers are read: r7 the IP header, r8 the end of the linear part, r9 the UDP or TCP header, r5 its offset, r4 the bytes from there.
export const ip = r7;
const end = r8;
export const inner = r9;

/** r7 = the start of the packet, r8 = the end of its linear part, which has all headers, or HEADER_ROOM bytes, or all that there are. */
export function makeLinear(a: Code, linkHeaderBytes: number): void {
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
export function need(a: Code, at: Register, bytes: number): void {
  a.mov(r3, at);
  a.alu('add', r3, bytes);
  a.jumpIf(r3, '>', end, NEXT);
}
