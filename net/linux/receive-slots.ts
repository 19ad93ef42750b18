/**
 * Where received datagrams land: 64 slots of native memory, each with its message header, and for each slot a batch that
 * begins there. A round of receiving fills the slots from the front, whatever sockets they come from, and the slots are
 * free again when everything that refers to them has been sent.
 */
import { DatagramBatch } from '../datagram-socket.ts';
import {
  AF_INET6,
  CMSGHDR,
  IOVEC,
  MMSGHDR,
  SO_RXQ_OVFL,
  SOCKADDR_IN,
  SOCKADDR_IN6,
  SOL_SOCKET,
} from './abi.ts';
import type { Arena } from './arena.ts';

export const SLOTS = 64;

/** Holds the largest datagram. */
const SLOT_BYTES = 65_536;
/** From slot to slot. Were it a power of two, the fronts of all slots would contend for the same lines of the cache. */
const STRIDE_BYTES = SLOT_BYTES + 320;
const NAME_BYTES = 32;
/** One control message with a 32-bit value: SO_RXQ_OVFL. */
const CONTROL_BYTES = CMSGHDR.size + 8;

const V4_MAPPED_WORD = 0xffff0000;

export const RECEIVE_ARENA_BYTES = SLOTS * (STRIDE_BYTES + NAME_BYTES + MMSGHDR.size + IOVEC.size + 64);

export class ReceiveSlots {
  /** Batch k holds slots k and up. */
  readonly batches: readonly DatagramBatch[];
  /** Address of the message header of each slot. */
  readonly headers: readonly number[];
  /** The kernel's count of datagrams that the socket's full buffer dropped, as of the last `read`; -1 when it told none. */
  kernelDrops = -1;
  readonly #arena: Arena;
  readonly #header: number;
  readonly #name: number;
  readonly #control: number;

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#header = arena.take(SLOTS * MMSGHDR.size);
    this.#name = arena.take(SLOTS * NAME_BYTES);
    this.#control = arena.take(SLOTS * CONTROL_BYTES);
    const iov = arena.take(SLOTS * IOVEC.size);
    const data = arena.take(SLOTS * STRIDE_BYTES);
    const payloads: Uint8Array[] = [];
    for (let i = 0; i < SLOTS; i++) {
      const header = this.#header + i * MMSGHDR.size;
      arena.setPointer(header + MMSGHDR.name, this.#name + i * NAME_BYTES);
      arena.setPointer(header + MMSGHDR.iov, iov + i * IOVEC.size);
      arena.u32[(header + MMSGHDR.iovLength) >> 2] = 1;
      arena.setPointer(header + MMSGHDR.control, this.#control + i * CONTROL_BYTES);
      arena.setPointer(iov + i * IOVEC.size + IOVEC.base, data + i * STRIDE_BYTES);
      arena.u32[(iov + i * IOVEC.size + IOVEC.length) >> 2] = SLOT_BYTES;
      payloads.push(new Uint8Array(arena.buffer, data + i * STRIDE_BYTES, SLOT_BYTES));
      this.#reset(i);
    }
    this.headers = payloads.map((_, i) => arena.address + this.#header + i * MMSGHDR.size);
    this.batches = makeBatches(payloads);
  }

  /** Reads what the kernel wrote into slots `from` to `from + count - 1`. @returns their batch */
  read(from: number, count: number): DatagramBatch {
    const batch = this.batches[from]!;
    const { u16, u32, bytes } = this.#arena;
    const { words, ports, lengths } = batch;
    this.kernelDrops = -1;
    for (let i = 0; i < count; i++) {
      const slot = from + i;
      const name = this.#name + slot * NAME_BYTES;
      lengths[i] = u32[(this.#header + slot * MMSGHDR.size + MMSGHDR.length) >> 2]!;
      ports[i] = (bytes[name + SOCKADDR_IN.port]! << 8) | bytes[name + SOCKADDR_IN.port + 1]!;
      if (u16[name >> 1] === AF_INET6) {
        const address = (name + SOCKADDR_IN6.address) >> 2;
        words[4 * i] = u32[address]!;
        words[4 * i + 1] = u32[address + 1]!;
        words[4 * i + 2] = u32[address + 2]!;
        words[4 * i + 3] = u32[address + 3]!;
      } else {
        words[4 * i] = 0;
        words[4 * i + 1] = 0;
        words[4 * i + 2] = V4_MAPPED_WORD;
        words[4 * i + 3] = u32[(name + SOCKADDR_IN.address) >> 2]!;
      }
      this.#readControl(slot);
      this.#reset(slot);
    }
    batch.count = count;
    return batch;
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

  /** The kernel overwrites these lengths with what it used. */
  #reset(slot: number): void {
    const { u32 } = this.#arena;
    const header = this.#header + slot * MMSGHDR.size;
    u32[(header + MMSGHDR.nameLength) >> 2] = NAME_BYTES;
    u32[(header + MMSGHDR.controlLength) >> 2] = CONTROL_BYTES;
  }
}

/** For each slot a batch that begins there, over the same memory. */
function makeBatches(payloads: Uint8Array[]): DatagramBatch[] {
  const lengths = new Int32Array(SLOTS);
  const words = new Uint32Array(SLOTS * 4);
  const ports = new Uint16Array(SLOTS);
  return payloads.map(
    (_, from) =>
      new DatagramBatch(SLOTS - from, {
        payloads: payloads.slice(from),
        lengths: lengths.subarray(from),
        words: words.subarray(4 * from),
        ports: ports.subarray(from),
      }),
  );
}
