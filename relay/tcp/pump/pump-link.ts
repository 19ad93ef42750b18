/**
 * A client and its backend as two descriptors of one epoll. What one side sent is read into memory that all connections share
 * and written to the other side at once: two system calls for a message, and nothing is allocated.
 *
 * An end that can't take more keeps what is left of the last read (pump/chunks.ts), and the other end is not read until that is
 * written: at most one chunk waits in each direction. Errors and resets are told by the epoll, also of an end that is not read.
 */
import type { Endpoint } from '../../../net/address.ts';
import {
  EAGAIN,
  EINTR,
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLRDHUP,
  MSG_MORE,
  MSG_NOSIGNAL,
  SHUT_WR,
} from '../../../net/linux/abi.ts';
import type { EventHandler, EventPoll } from '../../../net/linux/event-poll.ts';
import { errnoName } from '../../../net/linux/libc.ts';
import type { TcpSockets } from '../../../net/linux/tcp-sockets.ts';
import type { ProxiedAddresses } from '../proxy-header.ts';
import type { Link, LinkOptions } from '../transport.ts';
import { CHUNK_BYTES, type Chunks } from './chunks.ts';
import type { HeaderMemory } from './header-memory.ts';

/** Reads of one side in one round: a bulk transfer does not keep the others waiting. */
const READS_PER_ROUND = 4;

const ALL_EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
const READABLE = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR;
const NO_MORE = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

/** What all links of a thread share. */
export interface PumpMemory {
  readonly poll: EventPoll;
  readonly sockets: TcpSockets;
  readonly chunks: Chunks;
  readonly header: HeaderMemory;
}

/** One side. */
class PumpEnd implements EventHandler {
  readonly isBackend: boolean;
  readonly #link: PumpLink;
  fd = -1;
  /** Of the poll. */
  number = -1;
  /** Something may be read. */
  isReadable = false;
  /** Its last byte, or its reset, has arrived: reads go on to the end, since no further event tells of it. */
  isHungUp = false;
  /** Its FIN was read. */
  hasEnded = false;
  /** The chunk whose bytes wait for it; 0: none do. */
  chunk = 0;
  waitingFrom = 0;
  waiting = 0;

  constructor(link: PumpLink, isBackend: boolean) {
    this.#link = link;
    this.isBackend = isBackend;
  }

  onEvents(events: number): void {
    if (this.fd !== -1) this.#link.onEvents(this, events);
  }
}

export class PumpLink implements Link {
  downstreamBytes = 0;
  upstreamBytes = 0;
  lastActiveMs: number;
  readonly #memory: PumpMemory;
  readonly #options: LinkOptions;
  readonly #client = new PumpEnd(this, false);
  #backend = new PumpEnd(this, true);
  #isConnected = false;
  #isJoined = false;
  #isClosed = false;
  #onHeader: ((addresses: ProxiedAddresses | undefined | 'malformed') => void) | undefined;

  constructor(clientFd: number, memory: PumpMemory, options: LinkOptions) {
    this.#memory = memory;
    this.#options = options;
    this.lastActiveMs = options.now();
    if (!this.#watch(this.#client, clientFd)) {
      memory.poll.soon(() => {
        if (!this.#isClosed) options.events.clientFailed();
      });
    }
  }

  get bufferedBytes(): number {
    return this.#client.waiting + this.#backend.waiting;
  }

  get hasClientEnded(): boolean {
    return this.#client.hasEnded;
  }

  get hasBackendEnded(): boolean {
    return this.#backend.hasEnded;
  }

  get local(): Endpoint | undefined {
    return this.#isClosed ? undefined : this.#memory.sockets.local(this.#client.fd);
  }

  readProxyHeader(onHeader: (addresses: ProxiedAddresses | undefined | 'malformed') => void): void {
    this.#onHeader = onHeader;
  }

  dial(backend: Endpoint): void {
    const { poll, sockets } = this.#memory;
    const fd = sockets.connect(backend);
    const end = this.#backend;
    if (fd >= 0 && this.#watch(end, fd)) return;
    const code = fd >= 0 ? 'ENOSPC' : errnoName(-fd);
    poll.soon(() => {
      if (!this.#isClosed && end === this.#backend) this.#options.events.backendFailed(code);
    });
  }

  dropBackend(): void {
    const { fd } = this.#backend;
    if (fd !== -1) {
      this.#forget(this.#backend);
      this.#memory.sockets.reset(fd);
    }
    this.#backend = new PumpEnd(this, true);
    this.#isConnected = this.#isJoined = false;
  }

  join(first: Buffer | undefined): void {
    this.#isJoined = true;
    if (first !== undefined && !this.#memory.header.write(this.#backend.fd, first)) {
      this.#failed(this.#backend, this.#memory.sockets.error(this.#backend.fd));
      return;
    }
    this.#pass(this.#client, this.#backend);
    this.#pass(this.#backend, this.#client);
  }

  keepBackendAlive(keepAliveMs: number): void {
    if (this.#backend.fd !== -1) this.#memory.sockets.setKeepAlive(this.#backend.fd, keepAliveMs);
  }

  reset(): void {
    if (this.#isClosed) return;
    for (const end of [this.#client, this.#backend]) {
      const { fd } = end;
      if (fd === -1) continue;
      this.#forget(end);
      this.#memory.sockets.reset(fd);
    }
    this.#closed();
  }

  onEvents(end: PumpEnd, events: number): void {
    if ((events & READABLE) !== 0) end.isReadable = true;
    if ((events & NO_MORE) !== 0) end.isHungUp = true;
    if (!this.#isJoined) {
      this.#prepare(end, events);
      return;
    }
    const other = end.isBackend ? this.#client : this.#backend;
    if (end.chunk !== 0 && (events & EPOLLOUT) !== 0 && this.#flush(end)) this.#pass(other, end);
    this.#pass(end, other);
    // What it sent before its reset is passed on, where that needs no waiting.
    if ((events & EPOLLERR) !== 0 && end.fd !== -1) this.#failed(end, this.#memory.sockets.error(end.fd));
  }

  /** News before bytes flow. */
  #prepare(end: PumpEnd, events: number): void {
    const { sockets } = this.#memory;
    if ((events & EPOLLERR) !== 0) {
      this.#failed(end, sockets.error(end.fd));
    } else if (!end.isBackend) {
      if (this.#onHeader !== undefined) this.#readHeader(this.#onHeader);
    } else if (!this.#isConnected && (events & EPOLLOUT) !== 0) {
      this.#isConnected = true;
      this.#options.events.connected();
    }
  }

  #readHeader(onHeader: (addresses: ProxiedAddresses | undefined | 'malformed') => void): void {
    const header = this.#memory.header.take(this.#client.fd);
    // Without the rest of it, the client has ended.
    const isCut = header === 'incomplete' && this.#client.isHungUp;
    if (header === 'incomplete' && !isCut) return;
    this.#onHeader = undefined;
    onHeader(typeof header === 'string' ? 'malformed' : header.addresses);
  }

  /** Passes on what there is, as long as it is taken. */
  #pass(from: PumpEnd, to: PumpEnd): void {
    const { chunks, poll } = this.#memory;
    const { libc } = poll;
    for (let reads = 0; from.isReadable && to.chunk === 0 && !this.#isClosed; reads++) {
      if (reads === READS_PER_ROUND) {
        poll.again(from);
        return;
      }
      const count = libc.recv(from.fd, chunks.current, CHUNK_BYTES, 0);
      if (count > 0) {
        // A read that found less than it asked for has found all; the next event tells of more.
        from.isReadable = count === CHUNK_BYTES || from.isHungUp;
        this.#count(from, count);
        this.#write(to, count, from.isHungUp);
      } else if (count === 0) {
        this.#ended(from, to);
      } else {
        const errno = libc.errno();
        if (errno === EAGAIN) from.isReadable = false;
        else if (errno !== EINTR) this.#failed(from, errno);
      }
    }
  }

  #count(from: PumpEnd, bytes: number): void {
    const { now, counters } = this.#options;
    this.lastActiveMs = now();
    if (from.isBackend) {
      this.upstreamBytes += bytes;
      counters.upstreamBytes += bytes;
    } else {
      this.downstreamBytes += bytes;
      counters.downstreamBytes += bytes;
    }
  }

  /**
   * Writes what was read; what is not taken waits.
   *
   * @param isLast the sender's FIN is here: bytes and FIN, which follows in this round or the next, leave as one segment
   */
  #write(to: PumpEnd, count: number, isLast: boolean): void {
    const { chunks, poll } = this.#memory;
    const flags = isLast ? MSG_NOSIGNAL | MSG_MORE : MSG_NOSIGNAL;
    const sent = poll.libc.send(to.fd, chunks.current, count, flags);
    if (sent === count) return;
    if (sent === -1 && !this.#maySendLater(to)) return;
    to.chunk = chunks.take();
    to.waitingFrom = Math.max(0, sent);
    to.waiting = count - to.waitingFrom;
  }

  /** Writes what waits. @returns whether all of it is written */
  #flush(to: PumpEnd): boolean {
    const { chunks, poll } = this.#memory;
    const sent = poll.libc.send(to.fd, to.chunk + to.waitingFrom, to.waiting, MSG_NOSIGNAL);
    if (sent === -1) {
      this.#maySendLater(to);
      return false;
    }
    // Activity too: a slow reader may take minutes over what waits for it.
    this.lastActiveMs = this.#options.now();
    to.waitingFrom += sent;
    to.waiting -= sent;
    if (to.waiting > 0) return false;
    chunks.give(to.chunk);
    to.chunk = 0;
    return true;
  }

  /** After a send that failed. */
  #maySendLater(to: PumpEnd): boolean {
    const errno = this.#memory.poll.libc.errno();
    if (errno === EAGAIN || errno === EINTR) return true;
    this.#failed(to, errno);
    return false;
  }

  #ended(from: PumpEnd, to: PumpEnd): void {
    from.hasEnded = true;
    from.isReadable = false;
    if (!to.hasEnded) {
      this.#memory.poll.libc.shutdown(to.fd, SHUT_WR);
      return;
    }
    for (const end of [from, to]) {
      const { fd } = end;
      this.#forget(end);
      this.#memory.poll.libc.close(fd);
    }
    this.#closed();
  }

  /** The owner answers by `reset`, or by another backend. */
  #failed(end: PumpEnd, errno: number): void {
    const { events } = this.#options;
    if (end.isBackend) events.backendFailed(errnoName(errno));
    else events.clientFailed();
  }

  #watch(end: PumpEnd, fd: number): boolean {
    const { poll } = this.#memory;
    end.fd = fd;
    poll.note(fd, 1);
    end.number = poll.watch(fd, ALL_EVENTS, end);
    return end.number !== -1;
  }

  /** The caller closes the descriptor. */
  #forget(end: PumpEnd): void {
    const { poll, chunks } = this.#memory;
    if (end.number !== -1) poll.unwatch(end.number);
    poll.note(end.fd, 0);
    end.fd = -1;
    if (end.chunk !== 0) chunks.give(end.chunk);
    end.chunk = end.waiting = 0;
  }

  #closed(): void {
    this.#isClosed = true;
    this.#memory.poll.soon(() => this.#options.events.closed());
  }
}
