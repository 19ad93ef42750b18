/**
 * One UDP socket that waits in the system call (blocking recvmmsg and sendmmsg of one datagram), as a C program would: no event
 * loop stands between a datagram and its reader. The thread does nothing else.
 */
import type { Endpoint } from '../../net/address.ts';
import { AF_INET, IOVEC, MMSGHDR, SOCKADDR_IN, SOL_SOCKET } from '../../net/linux/abi.ts';
import { Arena } from '../../net/linux/arena.ts';
import { errnoName, type Libc } from '../../net/linux/libc.ts';
import { bindUdp, readLocal } from '../../net/linux/mmsg-socket.ts';

/** Bytes of a datagram that is sent: those of a position update. */
export const PING_BYTES = 14;

const RECEIVE_BYTES = 2_048;
/** asm-generic/socket.h, asm-generic/fcntl.h, asm-generic/unistd.h */
const SO_RCVTIMEO = 20;

export class PingSocket {
  readonly local: Endpoint;
  readonly #libc: Libc;
  readonly #fd: number;
  readonly #memory: Arena;
  readonly #header: number;
  readonly #name: number;
  readonly #payload: number;
  readonly #iov: number;

  constructor(libc: Libc, local: Endpoint) {
    this.#libc = libc;
    this.#fd = bindUdp(libc, { local }, { isBlocking: true });
    this.local = readLocal(libc, this.#fd);
    this.#memory = new Arena(libc, 8_192);
    this.#header = this.#memory.take(MMSGHDR.size);
    this.#name = this.#memory.take(SOCKADDR_IN.size);
    this.#iov = this.#memory.take(IOVEC.size);
    this.#payload = this.#memory.take(RECEIVE_BYTES);
    this.#memory.setPointer(this.#iov + IOVEC.base, this.#payload);
    this.#memory.setPointer(this.#header + MMSGHDR.name, this.#name);
    this.#memory.setPointer(this.#header + MMSGHDR.iov, this.#iov);
    this.#memory.u32[(this.#header + MMSGHDR.iovLength) >> 2] = 1;
    this.#memory.u32[(this.#header + MMSGHDR.nameLength) >> 2] = SOCKADDR_IN.size;
  }

  /** How long a receive waits at most. */
  setTimeoutMs(timeoutMs: number): void {
    const { u32, address } = this.#memory;
    const timeval = this.#payload >> 2;
    u32.set([Math.floor(timeoutMs / 1000), 0, (timeoutMs % 1000) * 1000, 0], timeval);
    this.#libc.setsockopt(this.#fd, SOL_SOCKET, SO_RCVTIMEO, address + this.#payload, 16);
  }

  /** Where `send` sends to; after a receive it is whoever sent. */
  setRemote({ ip, port }: Endpoint): void {
    const { bytes, u16, u32 } = this.#memory;
    u16[this.#name >> 1] = AF_INET;
    bytes.set([port >>> 8, port & 0xff], this.#name + SOCKADDR_IN.port);
    u32[(this.#name + SOCKADDR_IN.address) >> 2] = ip.words[3]!;
  }

  /** The first word of the payload that is sent next, or was received last. */
  get number(): number {
    return this.#memory.u32[this.#payload >> 2]!;
  }

  set number(number: number) {
    this.#memory.u32[this.#payload >> 2] = number;
  }

  /** @param bytes of the payload that are sent */
  send(bytes: number): void {
    const { u32, address } = this.#memory;
    u32[(this.#iov + IOVEC.length) >> 2] = bytes;
    this.#libc.sendmmsg(this.#fd, address + this.#header, 1, 0);
  }

  /** Waits for a datagram. @returns its length, or -1 after the timeout. @throws Error for anything else */
  receive(): number {
    const { u32, address } = this.#memory;
    u32[(this.#iov + IOVEC.length) >> 2] = RECEIVE_BYTES;
    const count = this.#libc.recvmmsg(this.#fd, address + this.#header, 1, 0, 0);
    if (count === 1) return u32[(this.#header + MMSGHDR.length) >> 2]!;
    const reason = errnoName(this.#libc.errno());
    if (reason === 'EAGAIN' || reason === 'EINTR') return -1;
    throw new Error(`recvmmsg: ${reason}`);
  }
}
