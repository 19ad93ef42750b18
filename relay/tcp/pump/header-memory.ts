/** Memory for PROXY headers, which are read and written by system calls and understood by JavaScript. */
import { MSG_NOSIGNAL, MSG_PEEK } from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { MAX_HEADER_BYTES, readProxyHeader, type ProxyHeader } from '../proxy-header.ts';

export class HeaderMemory {
  readonly #libc: Libc;
  readonly #arena: Arena;

  constructor(libc: Libc) {
    this.#libc = libc;
    this.#arena = new Arena(libc, MAX_HEADER_BYTES);
  }

  /** Takes a header off a socket, once it is there as a whole; nothing else is taken. */
  take(fd: number): ProxyHeader {
    const { address, buffer } = this.#arena;
    const there = this.#libc.recv(fd, address, MAX_HEADER_BYTES, MSG_PEEK);
    if (there <= 0) return 'incomplete';
    const header = readProxyHeader(Buffer.from(buffer, 0, there));
    if (typeof header !== 'string') this.#libc.recv(fd, address, header.length, 0);
    return header;
  }

  /** Writes to a socket that has room. @returns whether it took all */
  write(fd: number, header: Buffer): boolean {
    this.#arena.bytes.set(header);
    return this.#libc.send(fd, this.#arena.address, header.length, MSG_NOSIGNAL) === header.length;
  }

  close(): void {
    this.#arena.free();
  }
}
