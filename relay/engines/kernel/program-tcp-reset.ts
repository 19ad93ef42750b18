/**
 * Turns the segment at hand into the RST that answers it, and sends it back where it came from (RFC 9293 section 3.10.7.1): with
 * the number that its sender awaits, so that it is believed.
 *
 *  1. the packet is cut behind a TCP header without options
 *  2. link addresses, IP addresses and ports change places
 *  3. numbers and flags; lengths and checksums, computed anew
 *  4. out of the interface that it came in on. On the way out instead, it arrives there as if the client had sent it
 *
 * A packet with IPv4 options or IPv6 extension headers is dropped.
 */
import { IPV4, IPV6, TCP, TCP_PROTOCOL } from './headers.ts';
import { HELPER, LOOPBACK_INTERFACE, REDIRECT_INGRESS, SKB } from './helpers.ts';
import { field, type Memory, memory, r0, r1, r2, r3, r4, r5, r6, r7 } from './memory.ts';
import { type Code, jumpIfV6, loadContext, local } from './program-frame.ts';
import { ACK, FIN, RST, SYN } from './program-tcp-frame.ts';
import { U16, U32 } from './struct.ts';

export const RESET = 'reset';

const LINK_ADDRESSES = 12;
const HOPS = 64;
const RST_ONLY = RST;
const RST_AND_ACK = RST | ACK;
/** A TCP header of 5 words. */
const PLAIN_OFFSET = 0x50;

export interface ResetOptions {
  readonly hook: 'ingress' | 'egress';
  readonly linkHeaderBytes: number;
}

/** Stands once, behind everything that jumps to RESET. Ends the program. */
export function resetReply(a: Code, options: ResetOptions): void {
  const { linkHeaderBytes: link } = options;
  a.label(RESET);
  a.load(r1, local('tcpFlags'));
  a.jumpIf(r1, 'has', RST, 'drop');
  chooseNumbers(a);
  jumpIfV6(a, 'reset IPv6');
  cut(a, link, IPV4.size);
  swapLinkAddresses(a, link);
  fillIpv4(a, link);
  fillTcp(a, link + IPV4.size, { addressesAt: link + 12, words: 2 });
  a.jump('send reset');
  a.label('reset IPv6');
  cut(a, link, IPV6.size);
  swapLinkAddresses(a, link);
  fillIpv6(a, link);
  fillTcp(a, link + IPV6.size, { addressesAt: link + 8, words: 8 });
  a.label('send reset');
  send(a, options);
}

/** local sequence, acknowledged and tcpFlags = those of the answer. */
function chooseNumbers(a: Code): void {
  a.load(r1, local('tcpFlags'));
  a.jumpIf(r1, 'has', ACK, 'has a number');
  a.load(r2, local('sequence'));
  a.load(r3, local('bytes'));
  a.alu32('add', r2, r3);
  for (const flag of [SYN, FIN]) {
    const isNot = a.unique('takes no number');
    a.mov(r3, r1);
    a.alu('and', r3, flag);
    a.jumpIf(r3, '==', 0, isNot);
    a.alu32('add', r2, 1);
    a.label(isNot);
  }
  a.store(local('acknowledged'), r2);
  a.store(local('sequence'), 0);
  a.store(local('tcpFlags'), RST_AND_ACK);
  a.jump('has numbers');
  a.label('has a number');
  a.load(r1, local('acknowledged'));
  a.store(local('sequence'), r1);
  a.store(local('acknowledged'), 0);
  a.store(local('tcpFlags'), RST_ONLY);
  a.label('has numbers');
}

/** Cuts the packet behind its TCP header, and notes in local counted whether the kernel has yet to complete the checksum. r7 = its start. */
function cut(a: Code, link: number, ipSize: number): void {
  const [first, second] = [a.unique('cut'), a.unique('looked at')];
  const checksum = link + ipSize + TCP.at.checksum;
  a.load(r1, local('transport'));
  a.jumpIf(r1, '!=', link + ipSize, 'drop');
  a.mov(r1, r6);
  a.mov(r2, link + ipSize + TCP.size);
  a.mov(r3, 0);
  a.call(HELPER.skbChangeTail);
  a.jumpIf(r0, '!=', 0, 'drop');
  // A change that does not concern the pseudo-header leaves a checksum that is only begun as it is: so the two are told apart.
  loadPacket(a, link + ipSize + TCP.size, first);
  a.store(memory(r7, checksum, U16), 0x1234);
  a.mov(r1, r6);
  a.mov(r2, checksum);
  a.mov(r3, 0);
  a.mov(r4, 1);
  a.mov(r5, U16);
  a.call(HELPER.l4CsumReplace);
  a.jumpIf(r0, '!=', 0, 'drop');
  loadPacket(a, link + ipSize + TCP.size, second);
  a.load(r1, memory(r7, checksum, U16));
  a.store(local('counted'), r1);
}

/** r7 = the packet, of which `bytes` are there. */
function loadPacket(a: Code, bytes: number, isThere: string): void {
  a.load(r7, field(r6, SKB, 'data'));
  a.load(r3, field(r6, SKB, 'dataEnd'));
  a.mov(r4, r7);
  a.alu('add', r4, bytes);
  a.jumpIf(r4, '<=', r3, isThere);
  a.jump('drop');
  a.label(isThere);
}

function swap(a: Code, one: Memory, other: Memory): void {
  a.load(r1, one);
  a.load(r2, other);
  a.store(one, r2);
  a.store(other, r1);
}

function swapLinkAddresses(a: Code, link: number): void {
  if (link < LINK_ADDRESSES) return;
  for (let at = 0; at < LINK_ADDRESSES / 2; at += U16)
    swap(a, memory(r7, at, U16), memory(r7, at + LINK_ADDRESSES / 2, U16));
}

function fillIpv4(a: Code, link: number): void {
  const word = (at: number): Memory => memory(r7, link + at, U16);
  swap(a, memory(r7, link + 12, U32), memory(r7, link + 16, U32));
  a.store(word(2), swapped(IPV4.size + TCP.size));
  a.store(memory(r7, link + 8, 1), HOPS);
  a.store(word(10), 0);
  a.mov(r5, 0);
  for (let at = 0; at < IPV4.size; at += U16) addWord(a, word(at));
  fold(a);
  a.store(word(10), r5);
}

function fillIpv6(a: Code, link: number): void {
  for (let at = 0; at < 16; at += U32)
    swap(a, memory(r7, link + 8 + at, U32), memory(r7, link + 24 + at, U32));
  a.store(memory(r7, link + 4, U16), swapped(TCP.size));
  a.store(memory(r7, link + 7, 1), HOPS);
}

/** Writes the TCP header at `at`. The pseudo-header's addresses are `words` words of 4 bytes at `addressesAt`. */
function fillTcp(a: Code, at: number, { addressesAt, words }: { addressesAt: number; words: number }): void {
  const [isBegun, done] = [a.unique('checksum is begun'), a.unique('checksum is there')];
  const header = (name: keyof typeof TCP.at): Memory => memory(r7, at + TCP.at[name], TCP.bytes[name]);
  swap(a, header('source'), header('destination'));
  for (const name of ['sequence', 'acknowledged'] as const) {
    a.load(r1, local(name));
    a.swapBytes(r1, 32);
    a.store(header(name), r1);
  }
  a.store(header('offset'), PLAIN_OFFSET);
  a.load(r1, local('tcpFlags'));
  a.store(header('flags'), r1);
  for (const name of ['window', 'checksum', 'urgent'] as const) a.store(header(name), 0);
  a.mov(r5, swapped(TCP_PROTOCOL) + swapped(TCP.size));
  for (let i = 0; i < 2 * words; i++) addWord(a, memory(r7, addressesAt + i * U16, U16));
  a.load(r1, local('counted'));
  a.jumpIf(r1, '==', 0x1234, isBegun);
  for (let i = 0; i < TCP.size; i += U16) addWord(a, memory(r7, at + i, U16));
  fold(a);
  a.jump(done);
  a.label(isBegun);
  // Not complemented: the rest is added, and the sum complemented, where the packet leaves.
  fold(a);
  a.alu('xor', r5, 0xffff);
  a.label(done);
  a.store(header('checksum'), r5);
}

/** r5 += 16 bits as they stand there: the order of bytes does not matter to such a sum (RFC 1071 section 2). Loses r1. */
function addWord(a: Code, word: Memory): void {
  a.load(r1, word);
  a.alu('add', r5, r1);
}

/** r5 = the ones' complement of its sum of fewer than 2^16 words. Loses r1. */
function fold(a: Code): void {
  for (let i = 0; i < 2; i++) {
    a.mov(r1, r5);
    a.alu('shiftRight', r1, 16);
    a.alu('and', r5, 0xffff);
    a.alu('add', r5, r1);
  }
  a.alu('xor', r5, 0xffff);
}

/** A number of 16 bits as a little-endian store writes it in network order. */
function swapped(value: number): number {
  return ((value & 0xff) << 8) | (value >> 8);
}

/** On loopback a packet that arrives anew has no route, and one with a loopback address gets none; one that leaves keeps its own. */
function send(a: Code, { hook }: ResetOptions): void {
  loadContext(a, r1, 'interface');
  a.mov(r2, 0);
  if (hook === 'egress') {
    a.jumpIf(r1, '==', LOOPBACK_INTERFACE, 'leave');
    a.mov(r2, REDIRECT_INGRESS);
    a.label('leave');
  }
  a.call(HELPER.redirect);
  a.exit();
}
