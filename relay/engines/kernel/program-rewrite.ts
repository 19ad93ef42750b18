/**
 * Gives a packet another source or destination, and mends its checksums by the difference (RFC 1624):
 *
 *  1. the UDP or TCP checksum by the address, which is in its pseudo-header, and by the port. The kernel's helper knows what the
 *     packet's state asks for: a partial checksum has the pseudo-header only, an absent one stays absent, and one that
 *     comes out as 0 is sent as 0xffff;
 *  2. address and port in place, and with IPv4 the header's own checksum.
 *
 * The helpers move the packet, so its pointers are read anew after them.
 */
import { IPV4, IPV6, TCP, UDP } from './headers.ts';
import { CSUM_IPV6, CSUM_MARK_MANGLED_0, CSUM_PSEUDO_HEADER, HELPER, SKB } from './helpers.ts';
import { field, type Memory, memory, part, r0, r1, r2, r3, r4, r5, r6 } from './memory.ts';
import { type Code, drop, jumpIfV6, local } from './program-frame.ts';
import type { Transport } from './program-linear.ts';
import { ADDRESS, U16, U32 } from './struct.ts';

const HEADERS = { udp: UDP, tcp: TCP } as const;

export interface RewriteOptions {
  readonly transport?: Transport;
  readonly linkHeaderBytes: number;
  readonly direction: number;
  readonly side: 'source' | 'destination';
  /** Addresses of 16 bytes and ports in host order, on the stack or at r7 to r9. */
  readonly from: Memory;
  readonly fromPort: Memory;
  readonly to: Memory;
  readonly toPort: Memory;
}

export function rewrite(a: Code, options: RewriteOptions): void {
  const [v6, done] = [a.unique('rewrite IPv6'), a.unique('rewritten')];
  mendPortSum(a, options);
  jumpIfV6(a, v6);
  rewriteIpv4(a, options);
  a.jump(done);
  a.label(v6);
  rewriteIpv6(a, options);
  a.label(done);
}

/** r2 = offset of the UDP or TCP checksum; calls the helper on the packet. Only in UDP a checksum of 0 says that there is none. */
function mendSum(a: Code, { transport = 'udp' }: RewriteOptions, flags: number): void {
  a.mov(r1, r6);
  a.load(r2, local('transport'));
  a.alu('add', r2, HEADERS[transport].at.checksum);
  a.mov(r5, transport === 'udp' ? flags | CSUM_MARK_MANGLED_0 : flags);
  a.call(HELPER.l4CsumReplace);
}

function mendPortSum(a: Code, options: RewriteOptions): void {
  const { fromPort, toPort } = options;
  const isSame = a.unique('same port');
  a.load(r3, fromPort);
  a.load(r4, toPort);
  a.jumpIf(r3, '==', r4, isSame);
  a.swapBytes(r3, 16);
  a.swapBytes(r4, 16);
  mendSum(a, options, U16);
  a.label(isSame);
}

function failUnlessMended(a: Code, direction: number): void {
  const isMended = a.unique('mended');
  a.jumpIf(r0, '==', 0, isMended);
  drop(a, direction, 'send-failed');
  a.label(isMended);
}

function rewriteIpv4(a: Code, options: RewriteOptions): void {
  const { linkHeaderBytes, direction, side, from, to } = options;
  a.load(r3, part(from, 12, U32));
  a.load(r4, part(to, 12, U32));
  mendSum(a, options, U32 | CSUM_PSEUDO_HEADER);
  failUnlessMended(a, direction);

  loadPacket(a, { bytes: linkHeaderBytes + IPV4.size, direction });
  a.load(r4, part(to, 12, U32));
  a.store(memory(r2, linkHeaderBytes + IPV4.at[side], U32), r4);
  // ~(~checksum + ~old + new), 16 bits at a time with the carries folded back in
  a.load(r5, memory(r2, linkHeaderBytes + IPV4.at.checksum, U16));
  a.alu('xor', r5, 0xffff);
  a.alu('add', r5, r4);
  a.load(r4, part(from, 12, U32));
  a.alu32('xor', r4, 0xffff_ffff);
  a.alu('add', r5, r4);
  // Below 2^34; after three folds within 16 bits.
  for (let fold = 0; fold < 3; fold++) {
    a.mov(r4, r5);
    a.alu('shiftRight', r4, 16);
    a.alu('and', r5, 0xffff);
    a.alu('add', r5, r4);
  }
  a.alu('xor', r5, 0xffff);
  a.store(memory(r2, linkHeaderBytes + IPV4.at.checksum, U16), r5);
  storePort(a, options);
}

function rewriteIpv6(a: Code, options: RewriteOptions): void {
  const { linkHeaderBytes, direction, side, from, to } = options;
  const isMended = a.unique('mended IPv6');
  addressDifference(a, from, to);
  mendSum(a, options, CSUM_PSEUDO_HEADER | CSUM_IPV6);
  a.jumpIf(r0, '==', 0, isMended);
  // Kernels that do not know the flag refuse it.
  addressDifference(a, from, to);
  mendSum(a, options, CSUM_PSEUDO_HEADER);
  failUnlessMended(a, direction);
  a.label(isMended);

  loadPacket(a, { bytes: linkHeaderBytes + IPV6.size, direction });
  for (let at = 0; at < ADDRESS; at += 8) {
    a.load(r4, part(to, at, 8));
    a.store(memory(r2, linkHeaderBytes + IPV6.at[side] + at, 8), r4);
  }
  storePort(a, options);
}

/** r3 and r4 as the checksum helper takes a difference of any length. */
function addressDifference(a: Code, from: Memory, to: Memory): void {
  for (const [pointer, length, address] of [
    [r1, r2, from],
    [r3, r4, to],
  ] as const) {
    a.addressOf(pointer, address);
    a.mov(length, ADDRESS);
  }
  a.mov(r5, 0);
  a.call(HELPER.csumDiff);
  a.mov(r4, r0);
  a.mov(r3, 0);
}

/** r2 = start of the packet, r3 = its end, at least `bytes` further. */
function loadPacket(a: Code, { bytes, direction }: { bytes: number; direction: number }): void {
  const isThere = a.unique('packet is there');
  a.load(r2, field(r6, SKB, 'data'));
  a.load(r3, field(r6, SKB, 'dataEnd'));
  a.mov(r4, r2);
  a.alu('add', r4, bytes);
  a.jumpIf(r4, '<=', r3, isThere);
  drop(a, direction, 'send-failed');
  a.label(isThere);
}

/**
 * One hop less to go, as a router takes it off; a packet on its last one is dropped. IPv4's checksum is over the field as the
 * upper byte of a word in network order, so it rises by 0x0100, or 1 as a little-endian load sees it.
 */
export function lowerHopLimit(
  a: Code,
  { linkHeaderBytes, direction }: { linkHeaderBytes: number; direction: number },
): void {
  const [v6, isLast, lowered] = ['IPv6 hops', 'last hop', 'hops are lowered'].map((name) =>
    a.unique(name),
  ) as [string, string, string];
  const takeOne = (at: number): void => {
    const hops = memory(r2, linkHeaderBytes + at, 1);
    a.load(r4, hops);
    a.jumpIf(r4, '<=', 1, isLast);
    a.alu('sub', r4, 1);
    a.store(hops, r4);
  };
  jumpIfV6(a, v6);
  loadPacket(a, { bytes: linkHeaderBytes + IPV4.size, direction });
  takeOne(IPV4.at.timeToLive);
  const checksum = memory(r2, linkHeaderBytes + IPV4.at.checksum, U16);
  a.load(r4, checksum);
  a.alu('add', r4, 1);
  a.jumpIf(r4, '<', 0xffff, `${lowered} in IPv4`);
  a.alu('add', r4, 1);
  a.label(`${lowered} in IPv4`);
  a.store(checksum, r4);
  a.jump(lowered);
  a.label(v6);
  loadPacket(a, { bytes: linkHeaderBytes + IPV6.size, direction });
  takeOne(IPV6.at.hopLimit);
  a.jump(lowered);
  a.label(isLast);
  drop(a, direction, 'send-failed');
  a.label(lowered);
}

/** r2 and r3 as loadPacket leaves them. */
function storePort(a: Code, { transport = 'udp', direction, side, toPort }: RewriteOptions): void {
  const isThere = a.unique('ports are there');
  a.load(r4, local('transport'));
  a.alu('add', r2, r4);
  a.mov(r4, r2);
  a.alu('add', r4, HEADERS[transport].size);
  a.jumpIf(r4, '<=', r3, isThere);
  drop(a, direction, 'send-failed');
  a.label(isThere);
  a.load(r4, toPort);
  a.swapBytes(r4, 16);
  // Both kinds of header begin with the ports.
  a.store(field(r2, UDP, side), r4);
}
