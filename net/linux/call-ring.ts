/**
 * Many system calls for the price of one: a ring of io_uring on which receives and sends of different sockets are lined up
 * and made by a single io_uring_enter. It is used as a list of calls and no more: every call is one that never waits, so
 * all of them are over when `run` returns, nothing is under way between two runs, and sockets stay as they would be with
 * recvmsg and sendmsg.
 *
 *   construction: entry i of the ring is a call on one message header, written once
 *   add(i, fd)    lines entry i up, for a socket
 *   run()         makes the calls in order; results are by entry: bytes, or -errno
 *
 * A container's seccomp profile or kernel.io_uring_disabled may forbid it, and Linux before 5.18 lacks what it needs: `open`
 * then says why, and the caller makes its calls one by one.
 *
 * Heads and tails need no memory barrier: the kernel's side of the ring runs inside this thread's own system call.
 *
 * Sources: linux/io_uring.h, io_uring_setup(2), io_uring_enter(2).
 */
import assert from 'node:assert/strict';
import {
  EAGAIN,
  IO_URING_CQE,
  IO_URING_PARAMS,
  IO_URING_SQE,
  IORING_FEAT_CQE_SKIP,
  IORING_FEAT_SINGLE_MMAP,
  IORING_OFF_SQ_RING,
  IORING_OFF_SQES,
  IORING_SETUP_DEFER_TASKRUN,
  IORING_SETUP_SINGLE_ISSUER,
  IORING_SETUP_SUBMIT_ALL,
  IOSQE_CQE_SKIP_SUCCESS,
  MAP_POPULATE,
  MAP_SHARED,
  PROT_READ_WRITE,
  SYS_IO_URING_ENTER,
  SYS_IO_URING_SETUP,
} from './abi.ts';
import { Arena } from './arena.ts';
import { errnoName, type Libc } from './libc.ts';

/** Calls that can be lined up. A power of two. */
export const RING_ENTRIES = 128;

const MASK = RING_ENTRIES - 1;
const ENTRIES_BYTES = RING_ENTRIES * IO_URING_SQE.size;

/** What an entry calls. */
export interface RingCall {
  /** IORING_OP_SENDMSG or IORING_OP_RECVMSG. */
  readonly opcode: number;
  /** Address of its message header. */
  readonly header: number;
  /** Of the message; MSG_DONTWAIT among them. */
  readonly flags: number;
  /** Its result is told only when it failed; what is not told is 0. */
  readonly isQuiet: boolean;
}

/** A piece of native memory. */
export interface Piece {
  readonly address: number;
  readonly size: number;
}

interface Mapped {
  readonly fd: number;
  readonly rings: Piece;
  readonly entries: Piece;
  /** struct io_uring_params, as words: where the kernel put what. */
  readonly params: Uint32Array;
}

export class CallRing {
  readonly fd: number;
  /** The native memory, for whoever must give it back if this thread dies. */
  readonly memory: readonly Piece[];
  /** By entry, of the last `run` in which it was: bytes (0 where quiet), or -errno. */
  readonly results = new Int32Array(RING_ENTRIES);
  readonly #libc: Libc;
  readonly #enter: Libc['io_uring_enter'];
  readonly #entries: Uint32Array;
  readonly #rings: Uint32Array;
  // Where in #rings.
  readonly #submissionHead: number;
  readonly #submissionTail: number;
  readonly #submissions: number;
  readonly #completionHead: number;
  readonly #completionTail: number;
  readonly #completions: number;
  readonly #completionMask: number;
  #tail = 0;
  #pending = 0;

  /**
   * @param calls what each entry calls, at most RING_ENTRIES
   * @returns the ring, or why there can't be one
   */
  static open(libc: Libc, calls: readonly RingCall[]): CallRing | { readonly unavailable: string } {
    assert(calls.length <= RING_ENTRIES);
    const mapped = mapRing(libc);
    return typeof mapped === 'string' ? { unavailable: mapped } : new CallRing(libc, mapped, calls);
  }

  /** @returns why there can't be a ring in this process, or undefined */
  static whyUnavailable(libc: Libc): string | undefined {
    const ring = CallRing.open(libc, []);
    if ('unavailable' in ring) return ring.unavailable;
    ring.close();
    return undefined;
  }

  private constructor(libc: Libc, { fd, rings, entries, params }: Mapped, calls: readonly RingCall[]) {
    this.#libc = libc;
    this.#enter = libc.io_uring_enter;
    this.fd = fd;
    this.memory = [rings, entries];
    this.#rings = new Uint32Array(libc.view(rings.address, rings.size));
    this.#entries = new Uint32Array(libc.view(entries.address, entries.size));
    const place = (field: number): number => params[field >> 2]! >> 2;
    this.#submissionHead = place(IO_URING_PARAMS.submissionHead);
    this.#submissionTail = place(IO_URING_PARAMS.submissionTail);
    this.#submissions = place(IO_URING_PARAMS.submissionArray);
    this.#completionHead = place(IO_URING_PARAMS.completionHead);
    this.#completionTail = place(IO_URING_PARAMS.completionTail);
    this.#completions = place(IO_URING_PARAMS.completionEntries);
    this.#completionMask = this.#rings[place(IO_URING_PARAMS.completionMask)]!;
    for (const [i, call] of calls.entries()) this.#write(i, call);
  }

  /** Lines entry `entry` up for a socket. Each entry at most once before `run`. */
  add(entry: number, fd: number): void {
    this.#entries[(entry * IO_URING_SQE.size + IO_URING_SQE.fd) >> 2] = fd;
    this.#rings[this.#submissions + (this.#tail & MASK)] = entry;
    this.#tail = (this.#tail + 1) | 0;
    this.#pending++;
    this.results[entry] = 0;
  }

  /** Makes the calls that are lined up, in order, and leaves their `results`. */
  run(): void {
    const count = this.#pending;
    this.#pending = 0;
    const rings = this.#rings;
    rings[this.#submissionTail] = this.#tail;
    for (let made = 0; made < count;) {
      const more = this.#enter(SYS_IO_URING_ENTER, this.fd, count - made, 0, 0, 0, 0);
      if (more <= 0) {
        this.#giveUp();
        break;
      }
      made += more;
    }
    const tail = rings[this.#completionTail]! | 0;
    let head = rings[this.#completionHead]! | 0;
    for (; head !== tail; head = (head + 1) | 0) {
      const at = this.#completions + (((head & this.#completionMask) * IO_URING_CQE.size) >> 2);
      this.results[rings[at]!] = rings[at + (IO_URING_CQE.result >> 2)]!;
    }
    rings[this.#completionHead] = head;
  }

  close(): void {
    this.#libc.close(this.fd);
    for (const { address, size } of this.memory) this.#libc.munmap(address, size);
  }

  /** The kernel takes no more calls, for want of memory: they leave the ring, and fail. */
  #giveUp(): void {
    const rings = this.#rings;
    const head = rings[this.#submissionHead]! | 0;
    for (let i = head; i !== this.#tail; i = (i + 1) | 0)
      this.results[rings[this.#submissions + (i & MASK)]!] = -EAGAIN;
    this.#tail = head;
    rings[this.#submissionTail] = head;
  }

  #write(entry: number, { opcode, header, flags, isQuiet }: RingCall): void {
    const words = this.#entries;
    const at = (entry * IO_URING_SQE.size) >> 2;
    // opcode and flags are the first two bytes.
    words[at] = opcode | ((isQuiet ? IOSQE_CQE_SKIP_SUCCESS : 0) << 8);
    words[at + (IO_URING_SQE.address >> 2)] = header % 2 ** 32;
    words[at + (IO_URING_SQE.address >> 2) + 1] = Math.floor(header / 2 ** 32);
    words[at + (IO_URING_SQE.length >> 2)] = 1;
    words[at + (IO_URING_SQE.messageFlags >> 2)] = flags;
    words[at + (IO_URING_SQE.userData >> 2)] = entry;
  }
}

/** @returns the ring's memory, or why it can't be had */
function mapRing(libc: Libc): Mapped | string {
  const memory = new Arena(libc, 4096);
  try {
    const setUp = (flags: number): number => {
      memory.bytes.fill(0, 0, IO_URING_PARAMS.size);
      memory.u32[IO_URING_PARAMS.flags >> 2] = flags;
      return libc.io_uring_setup(SYS_IO_URING_SETUP, RING_ENTRIES, memory.address);
    };
    // The kernel spares work where it knows that one thread alone uses the ring, from Linux 6.1 on.
    let fd = setUp(IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (fd === -1) fd = setUp(IORING_SETUP_SUBMIT_ALL);
    if (fd === -1) return `io_uring_setup: ${errnoName(libc.errno())}`;
    const params = memory.u32.slice(0, IO_URING_PARAMS.size >> 2);
    const field = (at: number): number => params[at >> 2]!;
    const needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_CQE_SKIP;
    if ((field(IO_URING_PARAMS.features) & needed) !== needed) {
      libc.close(fd);
      return 'io_uring of this kernel lacks a feature';
    }
    const ringsSize = Math.max(
      field(IO_URING_PARAMS.completionEntries) + IO_URING_CQE.size * field(IO_URING_PARAMS.completions),
      field(IO_URING_PARAMS.submissionArray) + 4 * RING_ENTRIES,
    );
    const map = (size: number, offset: number): Piece => ({
      address: libc.mmap(0, size, PROT_READ_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset),
      size,
    });
    const rings = map(ringsSize, IORING_OFF_SQ_RING);
    const entries = map(ENTRIES_BYTES, IORING_OFF_SQES);
    if (rings.address !== -1 && entries.address !== -1) return { fd, rings, entries, params };
    const reason = errnoName(libc.errno());
    for (const { address, size } of [rings, entries]) if (address !== -1) libc.munmap(address, size);
    libc.close(fd);
    return `io_uring's memory: ${reason}`;
  } finally {
    memory.free();
  }
}
