/**
 * One UDP socket that speaks for a million clients. On loopback every address of 127.0.0.0/8 is this host's, so a datagram may
 * leave from any of them (IP_PKTINFO, ip(7)), and the answers come back to the one socket that is bound to them all.
 *
 * Datagrams go in batches of 64 (sendmmsg); answers are counted and thrown away.
 */
import assert from 'node:assert/strict';
import { Endpoint } from '../../net/address.ts';
import {
  AF_INET,
  CMSGHDR,
  IN_PKTINFO,
  IOVEC,
  IP_PKTINFO,
  IPPROTO_IP,
  MMSGHDR,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SOCKADDR_IN,
} from '../../net/linux/abi.ts';
import { Arena } from '../../net/linux/arena.ts';
import type { Libc } from '../../net/linux/libc.ts';
import { bindUdp } from '../../net/linux/mmsg-socket.ts';

export const BATCH = 64;

/** Bytes of a datagram: those of a position update. */
const PAYLOAD_BYTES = 14;
const RECEIVE_BYTES = 2_048;
const CONTROL_BYTES = 32;
/** The same in every process, so that all of them are the same clients. */
const PORT = 20_000;
/** Sources are numbered from 127.16.0.0 on. */
const FIRST_SECOND_BYTE = 16;
export const MAX_SOURCES = (256 - FIRST_SECOND_BYTE) * 65_536;

export class SourceSocket {
  readonly #libc: Libc;
  readonly #fd: number;
  readonly #memory: Arena;
  readonly #sendHeaders: number;
  readonly #receiveHeaders: number;
  /** Index in u32 of the source address of each datagram of a batch. */
  readonly #sources: readonly number[];

  /** @param target an IPv4 address of this host */
  constructor(libc: Libc, target: Endpoint) {
    assert(target.ip.isV4);
    this.#libc = libc;
    this.#fd = bindUdp(libc, { local: Endpoint.parse(`0.0.0.0:${PORT}`) });
    const perDatagram = 2 * MMSGHDR.size + 2 * IOVEC.size + CONTROL_BYTES + RECEIVE_BYTES + 64;
    this.#memory = new Arena(libc, 4_096 + BATCH * perDatagram);
    const { bytes, u16, u32 } = this.#memory;
    const name = this.#memory.take(SOCKADDR_IN.size);
    u16[name >> 1] = AF_INET;
    bytes.set([target.port >>> 8, target.port & 0xff], name + SOCKADDR_IN.port);
    u32[(name + SOCKADDR_IN.address) >> 2] = target.ip.words[3]!;
    const payload = this.#memory.take(PAYLOAD_BYTES);

    this.#sendHeaders = this.#memory.take(BATCH * MMSGHDR.size);
    const controls = this.#memory.take(BATCH * CONTROL_BYTES);
    const iov = this.#iov(payload, PAYLOAD_BYTES);
    this.#sources = Array.from({ length: BATCH }, (_, i) => {
      const header = this.#sendHeaders + i * MMSGHDR.size;
      const control = controls + i * CONTROL_BYTES;
      this.#memory.setPointer(header + MMSGHDR.name, name);
      u32[(header + MMSGHDR.nameLength) >> 2] = SOCKADDR_IN.size;
      this.#memory.setPointer(header + MMSGHDR.iov, iov);
      u32[(header + MMSGHDR.iovLength) >> 2] = 1;
      this.#memory.setPointer(header + MMSGHDR.control, control);
      u32[(header + MMSGHDR.controlLength) >> 2] = CONTROL_BYTES;
      u32[(control + CMSGHDR.length) >> 2] = CMSGHDR.data + IN_PKTINFO.size;
      u32[(control + CMSGHDR.level) >> 2] = IPPROTO_IP;
      u32[(control + CMSGHDR.type) >> 2] = IP_PKTINFO;
      return (control + CMSGHDR.data + IN_PKTINFO.local) >> 2;
    });

    this.#receiveHeaders = this.#memory.take(BATCH * MMSGHDR.size);
    // All into one place: nobody looks at them.
    const waste = this.#iov(this.#memory.take(RECEIVE_BYTES), RECEIVE_BYTES);
    for (let i = 0; i < BATCH; i++) {
      const header = this.#receiveHeaders + i * MMSGHDR.size;
      this.#memory.setPointer(header + MMSGHDR.iov, waste);
      u32[(header + MMSGHDR.iovLength) >> 2] = 1;
    }
  }

  /** Makes datagram `slot` of the next batch leave from this source, 0 to MAX_SOURCES - 1. */
  setSource(slot: number, source: number): void {
    const second = FIRST_SECOND_BYTE + (source >>> 16);
    this.#memory.u32[this.#sources[slot]!] =
      127 | (second << 8) | (((source >>> 8) & 0xff) << 16) | ((source & 0xff) << 24);
  }

  /** Sends the first `count` datagrams. @returns how many the system took, from the front */
  send(count: number): number {
    const { address } = this.#memory;
    const sent = this.#libc.sendmmsg(
      this.#fd,
      address + this.#sendHeaders,
      count,
      MSG_DONTWAIT | MSG_NOSIGNAL,
    );
    return Math.max(0, sent);
  }

  /** Takes the answers that are there. @returns how many */
  receive(): number {
    const headers = this.#memory.address + this.#receiveHeaders;
    for (let total = 0; ;) {
      const count = this.#libc.recvmmsg(this.#fd, headers, BATCH, MSG_DONTWAIT, 0);
      if (count <= 0) return total;
      total += count;
      if (count < BATCH) return total;
    }
  }

  close(): void {
    this.#libc.close(this.#fd);
    this.#memory.free();
  }

  #iov(base: number, length: number): number {
    const iov = this.#memory.take(IOVEC.size);
    this.#memory.setPointer(iov + IOVEC.base, base);
    this.#memory.u32[(iov + IOVEC.length) >> 2] = length;
    return iov;
  }
}
