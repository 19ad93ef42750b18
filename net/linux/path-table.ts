/**
 * The paths of a poller's sockets (DatagramBatch): number -> local address and interface, as the control message that makes
 * the kernel send that way. The messages are written once, when a path is new; a send refers to them.
 *
 * A path is known by five words: the local address (net/address.ts) and the interface's index. The address is zero where
 * the socket has but one; the index is zero except for link-local addresses, which mean nothing without it.
 *
 * Numbers are never given back. A machine has a handful of addresses; only one that takes a whole prefix as its own
 * (`ip route add local`) can have more than there are numbers. What comes on further ones has path 0.
 *
 * Sources: ip(7), IP_PKTINFO; RFC 3542 section 6; net/ipv4/ip_sockglue.c, which takes IP_PKTINFO for v4-mapped destinations
 * of an IPv6 socket, too.
 */
import { randomInt } from 'node:crypto';
import { isV4Words } from '../address.ts';
import { MAX_PATH } from '../datagram-socket.ts';
import {
  CMSGHDR,
  IN6_PKTINFO,
  IN_PKTINFO,
  IP_PKTINFO,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_PKTINFO,
} from './abi.ts';
import type { Arena } from './arena.ts';

/** Words of one path: the local address, then the interface. */
export const PATH_WORDS = 5;

const CONTROL_BYTES = 40;
const V4_CONTROL_BYTES = CMSGHDR.size + 16;
const V6_CONTROL_BYTES = CMSGHDR.size + 24;

/** Twice the numbers, so that a search ends soon. A power of two. */
const PLACES = 8_192;

export const PATH_ARENA_BYTES = (MAX_PATH + 1) * CONTROL_BYTES + 64;

export class PathTable {
  readonly #arena: Arena;
  readonly #controls: number;
  /** Words of path n at 5n. */
  readonly #words = new Uint32Array((MAX_PATH + 1) * PATH_WORDS);
  /** A hash table of numbers with linear probing; 0 is a free place. */
  readonly #places = new Uint16Array(PLACES);
  /** A secret, since a client may choose among the addresses of a prefix. */
  readonly #seed = randomInt(2 ** 31) * 2 + 1;
  #count = 0;
  #last = 0;

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#controls = arena.take((MAX_PATH + 1) * CONTROL_BYTES);
  }

  /** @returns the number of the path in `words`; 0 for that of zeros, and when there are too many */
  number(words: Uint32Array): number {
    if (this.#isAt(this.#last, words)) return this.#last;
    if (this.#isAt(0, words)) return 0;
    let place = this.#hash(words);
    for (; ; place = (place + 1) & (PLACES - 1)) {
      const number = this.#places[place]!;
      if (number === 0) break;
      if (this.#isAt(number, words)) return (this.#last = number);
    }
    if (this.#count === MAX_PATH) return 0;
    const number = ++this.#count;
    this.#places[place] = number;
    this.#words.set(words, number * PATH_WORDS);
    this.#write(number, words);
    return (this.#last = number);
  }

  /** Offset in the arena of the control message for a path, 1 or more. */
  control(number: number): number {
    return this.#controls + number * CONTROL_BYTES;
  }

  controlLength(number: number): number {
    return isV4Words(this.#words, number * PATH_WORDS) ? V4_CONTROL_BYTES : V6_CONTROL_BYTES;
  }

  #isAt(number: number, words: Uint32Array): boolean {
    const at = number * PATH_WORDS;
    const known = this.#words;
    return (
      known[at + 3] === words[3] &&
      known[at + 2] === words[2] &&
      known[at + 1] === words[1] &&
      known[at] === words[0] &&
      known[at + 4] === words[4]
    );
  }

  #hash(words: Uint32Array): number {
    let hash = words[4]!;
    for (let i = 0; i < 4; i++) {
      hash = Math.imul(hash ^ words[i]!, this.#seed);
      hash ^= hash >>> 15;
    }
    return hash & (PLACES - 1);
  }

  #write(number: number, words: Uint32Array): void {
    const { u32 } = this.#arena;
    const isV4 = isV4Words(words, 0);
    const at = this.control(number) >> 2;
    const data = at + (CMSGHDR.data >> 2);
    u32[at + (CMSGHDR.length >> 2)] = CMSGHDR.size + (isV4 ? IN_PKTINFO.size : IN6_PKTINFO.size);
    u32[at + (CMSGHDR.level >> 2)] = isV4 ? IPPROTO_IP : IPPROTO_IPV6;
    u32[at + (CMSGHDR.type >> 2)] = isV4 ? IP_PKTINFO : IPV6_PKTINFO;
    if (isV4) {
      u32[data + (IN_PKTINFO.local >> 2)] = words[3]!;
      return;
    }
    for (let i = 0; i < 4; i++) u32[data + (IN6_PKTINFO.local >> 2) + i] = words[i]!;
    u32[data + (IN6_PKTINFO.interface >> 2)] = words[4]!;
  }
}
