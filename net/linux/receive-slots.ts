/**
 * Where received datagrams land: 64 slots of native memory, each with its message header, and for each slot a batch that
 * begins there. A round of receiving fills the slots from the front, whatever sockets they come from, and the slots are
 * free again when everything that refers to them has been sent.
 *
 * Control messages that the kernel may add, each only where a socket asks for it: its count of drops (SO_RXQ_OVFL), and for
 * paths the local address (IP_PKTINFO, IPV6_PKTINFO).
 */
import { DatagramBatch } from '../datagram-socket.ts';
import {
  AF_INET6,
  CMSGHDR,
  EMSGSIZE,
  IN6_PKTINFO,
  IN_PKTINFO,
  IORING_OP_RECVMSG,
  IOVEC,
  IP_PKTINFO,
  IP_RECVERR,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_PKTINFO,
  IPV6_RECVERR,
  MMSGHDR,
  MSG_DONTWAIT,
  SO_EE_ORIGIN_ICMP,
  SO_EE_ORIGIN_ICMP6,
  SO_RXQ_OVFL,
  SOCK_EXTENDED_ERR,
  SOCKADDR_IN,
  SOCKADDR_IN6,
  SOL_SOCKET,
} from './abi.ts';
import type { Arena } from './arena.ts';
import type { RingCall } from './call-ring.ts';
import { PATH_WORDS, type PathTable } from './path-table.ts';

export const SLOTS = 64;

/** Holds the largest datagram. */
const SLOT_BYTES = 65_536;
/** From slot to slot. Were it a power of two, the fronts of all slots would contend for the same lines of the cache. */
const STRIDE_BYTES = SLOT_BYTES + 320;
const NAME_BYTES = 32;
/** SO_RXQ_OVFL 24 bytes, IPV6_PKTINFO 40, IP_PKTINFO 32 (for IPv4 on an IPv6 socket in addition); or one IPV6_RECVERR. */
const CONTROL_BYTES = 96;

const V4_MAPPED_WORD = 0xffff0000;

export const RECEIVE_ARENA_BYTES =
  SLOTS * (STRIDE_BYTES + NAME_BYTES + MMSGHDR.size + IOVEC.size + CONTROL_BYTES + 64);

export class ReceiveSlots {
  /** Address of the message header of each slot. */
  readonly headers: readonly number[];
  /** The kernel's count of datagrams that a socket's full buffer dropped, where a slot that was read told it; else as it was. */
  kernelDrops = -1;
  readonly #arena: Arena;
  readonly #header: number;
  readonly #name: number;
  readonly #control: number;
  readonly #data: number;
  readonly #payloads: Uint8Array[] = [];
  // What was read, by slot.
  readonly #lengths = new Int32Array(SLOTS);
  readonly #words = new Uint32Array(SLOTS * 4);
  readonly #ports = new Uint16Array(SLOTS);
  readonly #paths = new Uint16Array(SLOTS);
  readonly #tags = new Uint32Array(SLOTS);
  /** Batch k holds slots k and up. These have no paths; */
  readonly #batches: readonly DatagramBatch[];
  /** and these do. */
  readonly #batchesWithPaths: readonly DatagramBatch[];
  readonly #path = new Uint32Array(PATH_WORDS);

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#header = arena.take(SLOTS * MMSGHDR.size);
    this.#name = arena.take(SLOTS * NAME_BYTES);
    this.#control = arena.take(SLOTS * CONTROL_BYTES);
    const iov = arena.take(SLOTS * IOVEC.size);
    const data = arena.take(SLOTS * STRIDE_BYTES);
    this.#data = data;
    for (let i = 0; i < SLOTS; i++) {
      const header = this.#header + i * MMSGHDR.size;
      arena.setPointer(header + MMSGHDR.name, this.#name + i * NAME_BYTES);
      arena.setPointer(header + MMSGHDR.iov, iov + i * IOVEC.size);
      arena.u32[(header + MMSGHDR.iovLength) >> 2] = 1;
      arena.setPointer(header + MMSGHDR.control, this.#control + i * CONTROL_BYTES);
      arena.setPointer(iov + i * IOVEC.size + IOVEC.base, data + i * STRIDE_BYTES);
      arena.u32[(iov + i * IOVEC.size + IOVEC.length) >> 2] = SLOT_BYTES;
      this.#payloads.push(new Uint8Array(arena.buffer, data + i * STRIDE_BYTES, SLOT_BYTES));
      this.#reset(i);
    }
    this.headers = this.#payloads.map((_, i) => arena.address + this.#header + i * MMSGHDR.size);
    this.#batches = this.#makeBatches(new Uint16Array(SLOTS));
    this.#batchesWithPaths = this.#makeBatches(this.#paths);
  }

  /** For each slot, the call that receives one datagram into it. */
  get calls(): RingCall[] {
    return this.headers.map((header) => ({
      opcode: IORING_OP_RECVMSG,
      header,
      flags: MSG_DONTWAIT,
      isQuiet: false,
    }));
  }

  /** Where in the arena a payload lies that is one of the slots', or -1. */
  find(payload: Uint8Array): number {
    const { byteOffset } = payload;
    const slot = Math.floor((byteOffset - this.#data) / STRIDE_BYTES);
    return slot >= 0 && slot < SLOTS && this.#payloads[slot] === payload ? byteOffset : -1;
  }

  /**
   * Reads what recvmmsg wrote into slots `from` to `from + count - 1`.
   *
   * @param tag of the socket that received
   * @param paths where the socket tells paths: the table to number them
   * @returns their batch
   */
  read(from: number, count: number, tag: number, paths?: PathTable): DatagramBatch {
    const { u32 } = this.#arena;
    this.kernelDrops = -1;
    for (let slot = from; slot < from + count; slot++) {
      this.readSlot(slot, u32[(this.#header + slot * MMSGHDR.size + MMSGHDR.length) >> 2]!, tag, paths);
    }
    return this.batch(from, count, paths !== undefined);
  }

  /** The batch of slots that were read. */
  batch(from: number, count: number, hasPaths: boolean): DatagramBatch {
    const batch = (hasPaths ? this.#batchesWithPaths : this.#batches)[from]!;
    batch.count = count;
    return batch;
  }

  /** Reads a datagram of `length` bytes that the kernel wrote into a slot. */
  readSlot(slot: number, length: number, tag: number, paths: PathTable | undefined): void {
    const { u16, u32, bytes } = this.#arena;
    const words = this.#words;
    const name = this.#name + slot * NAME_BYTES;
    this.#lengths[slot] = length;
    this.#tags[slot] = tag;
    this.#ports[slot] = (bytes[name + SOCKADDR_IN.port]! << 8) | bytes[name + SOCKADDR_IN.port + 1]!;
    if (u16[name >> 1] === AF_INET6) {
      const address = (name + SOCKADDR_IN6.address) >> 2;
      words[4 * slot] = u32[address]!;
      words[4 * slot + 1] = u32[address + 1]!;
      words[4 * slot + 2] = u32[address + 2]!;
      words[4 * slot + 3] = u32[address + 3]!;
    } else {
      words[4 * slot] = 0;
      words[4 * slot + 1] = 0;
      words[4 * slot + 2] = V4_MAPPED_WORD;
      words[4 * slot + 3] = u32[(name + SOCKADDR_IN.address) >> 2]!;
    }
    if (paths === undefined) this.#readControl(slot);
    else this.#paths[slot] = this.#readPath(slot, paths);
    this.#reset(slot);
  }

  /**
   * Reads an error queue's messages, as `read` does datagrams.
   *
   * @returns those that an ICMP error caused, without discoveries of a smaller MTU, to which the kernel cuts from then on
   */
  readErrors(from: number, count: number): number {
    const { u32, bytes } = this.#arena;
    let unreachable = 0;
    for (let slot = from; slot < from + count; slot++) {
      const control = this.#control + slot * CONTROL_BYTES;
      const level = u32[(control + CMSGHDR.level) >> 2];
      const type = u32[(control + CMSGHDR.type) >> 2];
      const isError =
        u32[(this.#header + slot * MMSGHDR.size + MMSGHDR.controlLength) >> 2]! > CMSGHDR.size &&
        ((level === IPPROTO_IP && type === IP_RECVERR) || (level === IPPROTO_IPV6 && type === IPV6_RECVERR));
      const origin = bytes[control + CMSGHDR.data + SOCK_EXTENDED_ERR.origin];
      const isTooBig = u32[(control + CMSGHDR.data + SOCK_EXTENDED_ERR.errno) >> 2] === EMSGSIZE;
      if (isError && !isTooBig && (origin === SO_EE_ORIGIN_ICMP || origin === SO_EE_ORIGIN_ICMP6))
        unreachable++;
      this.#reset(slot);
    }
    return unreachable;
  }

  #readControl(slot: number): void {
    const { u32 } = this.#arena;
    const header = this.#header + slot * MMSGHDR.size;
    if (u32[(header + MMSGHDR.controlLength) >> 2]! < CMSGHDR.size) return;
    const control = (this.#control + slot * CONTROL_BYTES) >> 2;
    const isDropCount =
      u32[control + (CMSGHDR.level >> 2)] === SOL_SOCKET &&
      u32[control + (CMSGHDR.type >> 2)] === SO_RXQ_OVFL;
    if (isDropCount) this.kernelDrops = u32[control + (CMSGHDR.data >> 2)]!;
  }

  /** Reads all control messages of a slot. @returns its path */
  #readPath(slot: number, paths: PathTable): number {
    const { u16, u32 } = this.#arena;
    const path = this.#path;
    this.#setLocal(0, 0, 0, 0);
    path[4] = 0;
    const begin = this.#control + slot * CONTROL_BYTES;
    const end = begin + u32[(this.#header + slot * MMSGHDR.size + MMSGHDR.controlLength) >> 2]!;
    for (let at = begin; at + CMSGHDR.size <= end;) {
      const level = u32[(at + CMSGHDR.level) >> 2]!;
      const type = u32[(at + CMSGHDR.type) >> 2]!;
      const data = at + CMSGHDR.data;
      if (level === IPPROTO_IP && type === IP_PKTINFO) {
        // For IPv4 on an IPv6 socket both kinds of message come, this one last. Of its two addresses the one to answer
        // from: for a broadcast, the interface's own. 0: the kernel can't tell.
        const local = u32[(data + IN_PKTINFO.local) >> 2]!;
        this.#setLocal(0, 0, local === 0 ? 0 : V4_MAPPED_WORD, local);
      } else if (level === IPPROTO_IPV6 && type === IPV6_PKTINFO) {
        const local = (data + IN6_PKTINFO.local) >> 2;
        const isMulticast = (u32[local]! & 0xff) === 0xff;
        if (!isMulticast) this.#setLocal(u32[local]!, u32[local + 1]!, u32[local + 2]!, u32[local + 3]!);
        if (isLinkLocal(u32[local]!)) path[4] = u32[(data + IN6_PKTINFO.interface) >> 2]!;
      } else if (level === SOL_SOCKET && type === SO_RXQ_OVFL) {
        this.kernelDrops = u32[data >> 2]!;
      }
      at += (u32[(at + CMSGHDR.length) >> 2]! + 7) & ~7;
    }
    const name = this.#name + slot * NAME_BYTES;
    if (u16[name >> 1] === AF_INET6 && isLinkLocal(u32[(name + SOCKADDR_IN6.address) >> 2]!))
      path[4] = u32[(name + SOCKADDR_IN6.scope) >> 2]!;
    return paths.number(path);
  }

  #setLocal(word0: number, word1: number, word2: number, word3: number): void {
    const path = this.#path;
    path[0] = word0;
    path[1] = word1;
    path[2] = word2;
    path[3] = word3;
  }

  /** For each slot a batch that begins there, over the memory of all. */
  #makeBatches(paths: Uint16Array): DatagramBatch[] {
    return this.#payloads.map(
      (_, from) =>
        new DatagramBatch(SLOTS - from, {
          payloads: this.#payloads.slice(from),
          lengths: this.#lengths.subarray(from),
          words: this.#words.subarray(4 * from),
          ports: this.#ports.subarray(from),
          paths: paths.subarray(from),
          tags: this.#tags.subarray(from),
        }),
    );
  }

  /** The kernel overwrites these lengths with what it used. */
  #reset(slot: number): void {
    const { u32 } = this.#arena;
    const header = this.#header + slot * MMSGHDR.size;
    u32[(header + MMSGHDR.nameLength) >> 2] = NAME_BYTES;
    u32[(header + MMSGHDR.controlLength) >> 2] = CONTROL_BYTES;
  }
}

/** Whether an address whose first word this is belongs to fe80::/10. */
function isLinkLocal(word: number): boolean {
  return (word & 0xc0ff) === 0x80fe;
}
