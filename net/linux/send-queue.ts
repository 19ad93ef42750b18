/**
 * What waits to be sent: up to 64 datagrams of any sockets, in order. `flush` hands neighbours of one socket to the
 * kernel in one call. A payload that lies in the arena, as received ones do, is sent from where it is; others are copied.
 */
import {
  AF_INET,
  AF_INET6,
  EAGAIN,
  EINTR,
  EMSGSIZE,
  IORING_OP_SENDMSG,
  IOVEC,
  MMSGHDR,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SOCKADDR_IN,
  SOCKADDR_IN6,
} from './abi.ts';
import type { Arena } from './arena.ts';
import type { CallRing, RingCall } from './call-ring.ts';
import type { Libc } from './libc.ts';
import type { ReceiveSlots } from './receive-slots.ts';

const ENTRIES = 64;
const COPY_BYTES = 65_536;
const NAME_BYTES = 32;

/** Up to here a loop copies the front of a payload sooner than a view of it is made. */
const LOOP_BYTES = 32;

export const SEND_ARENA_BYTES = ENTRIES * (COPY_BYTES + NAME_BYTES + MMSGHDR.size + IOVEC.size + 64);

/** Who sends: what the queue needs of a socket. */
export interface Sender {
  readonly fd: number;
  readonly isV4: boolean;
  /** An error of an earlier datagram may be reported to a later send, which then was not its fault. */
  readonly meetsPendingErrors: boolean;
  /** It has one remote end, and needs no address. */
  readonly isConnected: boolean;
  /** From now on datagrams may leave in fragments. @returns false where they could before */
  readonly allowFragments: () => boolean;
  /** The same function for sockets whose datagrams are counted together. */
  readonly sent: (sent: number, failed: number, sentBytes: number) => void;
}

export class SendQueue {
  readonly #libc: Libc;
  readonly #arena: Arena;
  readonly #slots: ReceiveSlots;
  readonly #header: number;
  readonly #headers: readonly number[];
  readonly #name: number;
  readonly #iov: number;
  readonly #copy: number;
  readonly #senders: (Sender | undefined)[] = Array.from({ length: ENTRIES }, () => undefined);
  #count = 0;
  #ring: CallRing | undefined;
  #ringFirst = 0;
  /** Whether entries carry control messages. */
  #hasControls = false;

  constructor(libc: Libc, arena: Arena, slots: ReceiveSlots) {
    this.#libc = libc;
    this.#slots = slots;
    this.#arena = arena;
    this.#header = arena.take(ENTRIES * MMSGHDR.size);
    this.#name = arena.take(ENTRIES * NAME_BYTES);
    this.#iov = arena.take(ENTRIES * IOVEC.size);
    this.#copy = arena.take(ENTRIES * COPY_BYTES);
    this.#headers = Array.from(
      { length: ENTRIES },
      (_, i) => arena.address + this.#header + i * MMSGHDR.size,
    );
    for (let i = 0; i < ENTRIES; i++) {
      const header = this.#header + i * MMSGHDR.size;
      arena.setPointer(header + MMSGHDR.name, this.#name + i * NAME_BYTES);
      arena.setPointer(header + MMSGHDR.iov, this.#iov + i * IOVEC.size);
      arena.u32[(header + MMSGHDR.iovLength) >> 2] = 1;
    }
  }

  /** For each entry, the call that sends it. */
  get calls(): RingCall[] {
    return this.#headers.map((header) => ({
      opcode: IORING_OP_SENDMSG,
      header,
      flags: MSG_DONTWAIT | MSG_NOSIGNAL,
      isQuiet: true,
    }));
  }

  /** From now on sends by a ring, in which `calls` begin at entry `first`. */
  useRing(ring: CallRing, first: number): void {
    this.#ring = ring;
    this.#ringFirst = first;
  }

  /** Takes a datagram to the address at `words[at]`. A full queue is flushed first. */
  add(
    sender: Sender,
    payload: Uint8Array,
    length: number,
    words: Uint32Array,
    at: number,
    port: number,
  ): void {
    if (this.#count === ENTRIES) this.flush();
    const i = this.#count++;
    this.#senders[i] = sender;
    if (sender.isConnected) this.#arena.u32[(this.#header + i * MMSGHDR.size + MMSGHDR.nameLength) >> 2] = 0;
    else this.#address(i, sender.isV4, words, at, port);
    const { bytes, u32 } = this.#arena;
    const iov = this.#iov + i * IOVEC.size;
    u32[(iov + IOVEC.length) >> 2] = length;
    const received = this.#slots.find(payload);
    if (received !== -1) {
      this.#arena.setPointer(iov + IOVEC.base, received);
      return;
    }
    const copy = this.#copy + i * COPY_BYTES;
    const isWhole = length === payload.length;
    if (isWhole || length > LOOP_BYTES) bytes.set(isWhole ? payload : payload.subarray(0, length), copy);
    else for (let n = 0; n < length; n++) bytes[copy + n] = payload[n]!;
    this.#arena.setPointer(iov + IOVEC.base, copy);
  }

  /** Gives the datagram that was added last the control message at `control` in the arena. */
  control(control: number, length: number): void {
    const header = this.#header + (this.#count - 1) * MMSGHDR.size;
    this.#arena.setPointer(header + MMSGHDR.control, control);
    this.#arena.u32[(header + MMSGHDR.controlLength) >> 2] = length;
    this.#hasControls = true;
  }

  flush(): void {
    const count = this.#count;
    if (count === 0) return;
    if (this.#ring !== undefined) this.#sendAll(this.#ring, count);
    else this.#sendEach(count);
    this.#count = 0;
    if (this.#hasControls) this.#forgetControls(count);
  }

  /** Sends everything in one call. */
  #sendAll(ring: CallRing, count: number): void {
    const first = this.#ringFirst;
    for (let i = 0; i < count; i++) ring.add(first + i, this.#senders[i]!.fd);
    ring.run();
    const { u32 } = this.#arena;
    let owner = this.#senders[0]!.sent;
    let sent = 0;
    let failed = 0;
    let sentBytes = 0;
    for (let i = 0; i < count; i++) {
      const sender = this.#senders[i]!;
      if (sender.sent !== owner) {
        owner(sent, failed, sentBytes);
        owner = sender.sent;
        sent = failed = sentBytes = 0;
      }
      const result = ring.results[first + i]!;
      if (result === 0) {
        sent++;
        sentBytes += u32[(this.#iov + i * IOVEC.size + IOVEC.length) >> 2]!;
      } else if (result === -EAGAIN) failed++;
      // Another try, which tells an error of its own from one that was pending.
      else {
        if (result === -EMSGSIZE) sender.allowFragments();
        this.#send(sender, i, i + 1);
      }
    }
    owner(sent, failed, sentBytes);
  }

  /** Sends neighbours of one socket in one call. */
  #sendEach(count: number): void {
    for (let from = 0; from < count;) {
      const sender = this.#senders[from]!;
      let to = from + 1;
      while (to < count && this.#senders[to] === sender) to++;
      this.#send(sender, from, to);
      from = to;
    }
  }

  #forgetControls(count: number): void {
    const { u32 } = this.#arena;
    for (let i = 0; i < count; i++) u32[(this.#header + i * MMSGHDR.size + MMSGHDR.controlLength) >> 2] = 0;
    this.#hasControls = false;
  }

  /** Sends entries `from` to `to - 1`. One that the system refuses is counted and passed over. */
  #send(sender: Sender, from: number, to: number): void {
    let next = from;
    let failed = 0;
    let sentBytes = 0;
    let retried = -1;
    while (next < to) {
      const accepted = this.#libc.sendmmsg(
        sender.fd,
        this.#headers[next]!,
        to - next,
        MSG_DONTWAIT | MSG_NOSIGNAL,
      );
      if (accepted > 0) {
        for (let i = next; i < next + accepted; i++) {
          sentBytes += this.#arena.u32[(this.#header + i * MMSGHDR.size + MMSGHDR.length) >> 2]!;
        }
        next += accepted;
        continue;
      }
      const errno = this.#libc.errno();
      if (errno === EINTR) continue;
      // Larger than the way takes, or a router's report of an earlier one that was. Rare: so sockets begin without fragments.
      if (errno === EMSGSIZE && sender.allowFragments()) continue;
      // The report of a pending error clears it.
      if (sender.meetsPendingErrors && errno !== EAGAIN && retried !== next) {
        retried = next;
        continue;
      }
      // A full send buffer refuses what follows too: dropped here, rather than kept while newer positions wait.
      const refused = errno === EAGAIN ? to - next : 1;
      failed += refused;
      next += refused;
    }
    sender.sent(to - from - failed, failed, sentBytes);
  }

  #address(i: number, isV4: boolean, words: Uint32Array, at: number, port: number): void {
    const { bytes, u16, u32 } = this.#arena;
    const name = this.#name + i * NAME_BYTES;
    u16[name >> 1] = isV4 ? AF_INET : AF_INET6;
    bytes[name + SOCKADDR_IN.port] = port >>> 8;
    bytes[name + SOCKADDR_IN.port + 1] = port;
    u32[(this.#header + i * MMSGHDR.size + MMSGHDR.nameLength) >> 2] = isV4
      ? SOCKADDR_IN.size
      : SOCKADDR_IN6.size;
    if (isV4) {
      u32[(name + SOCKADDR_IN.address) >> 2] = words[at + 3]!;
      return;
    }
    const address = (name + SOCKADDR_IN6.address) >> 2;
    u32[(name >> 2) + 1] = 0;
    u32[address] = words[at]!;
    u32[address + 1] = words[at + 1]!;
    u32[address + 2] = words[at + 2]!;
    u32[address + 3] = words[at + 3]!;
    u32[address + 4] = 0;
  }
}
