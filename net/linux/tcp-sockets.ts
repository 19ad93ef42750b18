/**
 * TCP sockets by system calls: each function is one call, or the few that belong together. All sockets are non-blocking and have
 * TCP_NODELAY; what is set on a listening socket, the ones it accepts inherit.
 */
import type { Endpoint } from '../address.ts';
import {
  AF_INET,
  AF_INET6,
  EINPROGRESS,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPV6_V6ONLY,
  SO_ERROR,
  SO_KEEPALIVE,
  SO_LINGER,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_NODELAY,
} from './abi.ts';
import { Arena } from './arena.ts';
import { errnoName, type Libc } from './libc.ts';
import { readAddress, writeAddress } from './mmsg-socket.ts';

/** What node:net uses: once a connection was silent for long enough, ten probes, a second apart. */
const KEEP_ALIVE_PROBES = 10;
const KEEP_ALIVE_INTERVAL_S = 1;

/** Where values, and where lengths stand in the scratch memory; addresses stand at its beginning. */
const VALUE = 64;
const LENGTH = 128;
const ADDRESS_BYTES = 32;

export class TcpSockets {
  readonly libc: Libc;
  readonly #memory: Arena;

  constructor(libc: Libc) {
    this.libc = libc;
    this.#memory = new Arena(libc, 4096);
  }

  /** @returns a descriptor. @throws an Error with the system's `code` */
  listen(local: Endpoint, backlog: number): number {
    const { libc } = this;
    const fd = this.#open(local);
    if (fd === -1) throw this.#failure('socket');
    this.#set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (!local.ip.isV4) this.#set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    const length = writeAddress(this.#memory, local);
    if (libc.bind(fd, this.#memory.address, length) === -1 || libc.listen(fd, backlog) === -1) {
      const failure = this.#failure('bind');
      libc.close(fd);
      throw failure;
    }
    return fd;
  }

  /** @returns a descriptor, or -1; `address` is then the client's */
  accept(fd: number): number {
    const { address, u32 } = this.#memory;
    u32[LENGTH >> 2] = ADDRESS_BYTES;
    return this.libc.accept4(fd, address, address + LENGTH, SOCK_NONBLOCK | SOCK_CLOEXEC);
  }

  /** The address that the last call wrote. */
  get address(): Endpoint {
    return readAddress(this.#memory);
  }

  /** Begins to connect. @returns a descriptor, or the negated errno */
  connect(remote: Endpoint): number {
    const { libc } = this;
    const fd = this.#open(remote);
    if (fd === -1) return -libc.errno();
    const length = writeAddress(this.#memory, remote);
    if (libc.connect(fd, this.#memory.address, length) === 0 || libc.errno() === EINPROGRESS) return fd;
    const errno = libc.errno();
    libc.close(fd);
    return -errno;
  }

  /** The address that a socket has on this side. */
  local(fd: number): Endpoint {
    const { address, u32 } = this.#memory;
    u32[LENGTH >> 2] = ADDRESS_BYTES;
    this.libc.getsockname(fd, address, address + LENGTH);
    return this.address;
  }

  /** Takes the error off a socket. @returns its number, or 0 */
  error(fd: number): number {
    const { address, u32 } = this.#memory;
    u32[LENGTH >> 2] = 4;
    this.libc.getsockopt(fd, SOL_SOCKET, SO_ERROR, address + VALUE, address + LENGTH);
    return u32[VALUE >> 2]!;
  }

  /** @param keepAliveMs silence before the system probes whether the other end is still there; 0: never */
  setKeepAlive(fd: number, keepAliveMs: number): void {
    this.#set(fd, SOL_SOCKET, SO_KEEPALIVE, keepAliveMs > 0 ? 1 : 0);
    if (keepAliveMs === 0) return;
    this.#set(fd, IPPROTO_TCP, TCP_KEEPIDLE, Math.ceil(keepAliveMs / 1_000));
    this.#set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_ALIVE_INTERVAL_S);
    this.#set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_ALIVE_PROBES);
  }

  /** Closes a socket so that its peer sees RST. */
  reset(fd: number): void {
    const { address, u32 } = this.#memory;
    // linux/socket.h: struct linger, on and for 0 s.
    u32[VALUE >> 2] = 1;
    u32[(VALUE >> 2) + 1] = 0;
    this.libc.setsockopt(fd, SOL_SOCKET, SO_LINGER, address + VALUE, 8);
    this.libc.close(fd);
  }

  /** Gives the scratch memory back. */
  close(): void {
    this.#memory.free();
  }

  #open({ ip }: Endpoint): number {
    const fd = this.libc.socket(ip.isV4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd !== -1) this.#set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return fd;
  }

  #set(fd: number, level: number, option: number, value: number): void {
    this.#memory.u32[VALUE >> 2] = value;
    this.libc.setsockopt(fd, level, option, this.#memory.address + VALUE, 4);
  }

  #failure(what: string): Error {
    const code = errnoName(this.libc.errno());
    return Object.assign(new Error(`${what}: ${code}`), { code });
  }
}
