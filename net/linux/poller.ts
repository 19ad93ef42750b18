/**
 * Batched UDP on one thread: sockets, one epoll, receive slots and a send queue. One round (`poll`):
 *
 *  1. wait until a socket is readable, a timer is due, or somebody wakes the poller
 *  2. each socket that became readable, or was left unread: count its errors, receive what fits the free slots in one call,
 *     hand the batch to its owner
 *  3. owners answer by `send`, which only queues
 *  4. when the slots are used up, and at the end of the round: send the queue, all slots are free
 *  5. timers that are due
 *
 * The epoll is edge-triggered: it tells once that datagrams came, and costs nothing more for a socket that was emptied. A
 * round that leaves a socket unread notes it for the next one.
 *
 * Nothing in a round allocates. The wait blocks the thread; `drive` runs rounds on the thread's event loop and gives it a
 * turn between them, so promises, messages and signals still work, at most `blockMs` late.
 */
import assert from 'node:assert/strict';
import { performance } from 'node:perf_hooks';
import type { DatagramSocket, DatagramSocketOptions } from '../datagram-socket.ts';
import { RelayError } from '../relay-error.ts';
import {
  EFD_CLOEXEC,
  EFD_NONBLOCK,
  EINTR,
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLL_EVENT,
  EPOLLERR,
  EPOLLET,
  EPOLLIN,
  SYS_EPOLL_PWAIT2,
} from './abi.ts';
import { Arena } from './arena.ts';
import { errnoName, type Libc } from './libc.ts';
import { bindUdp, EMPTY, MmsgSocket } from './mmsg-socket.ts';
import { PATH_ARENA_BYTES, PathTable } from './path-table.ts';
import { RECEIVE_ARENA_BYTES, ReceiveSlots, SLOTS } from './receive-slots.ts';
import { SEND_ARENA_BYTES, SendQueue } from './send-queue.ts';

/** Readable sockets that one wait reports. */
const MAX_EVENTS = 256;

/** Receives of one socket in one round: a flood on one does not keep the others waiting. */
const RECEIVES_PER_ROUND = 4;

/** How long rounds follow each other before the event loop gets its turn, in ms. Whoever wakes the poller gets it at once. */
const TURN_MS = 2;

/** What a round answers in which a callback closed the poller. */
const CLOSED = -1;

/** What stands in an event for the wake-up descriptor. */
const WAKE = 0xffffffff;

const NS_PER_MS = 1e6;

interface Timer {
  readonly run: () => void;
  readonly periodMs: number;
  dueMs: number;
}

export interface PollerOptions {
  /** The longest wait, in ms. Default 20. */
  readonly blockMs?: number;
  /** Sleep after a round with traffic, in microseconds, so that the next one finds more: CPU for latency. Default 0. */
  readonly coalesceUs?: number;
  /** Memory that outlives the thread: byte d is 1 while the poller has descriptor d open. */
  readonly descriptors?: Uint8Array;
}

export class Poller {
  readonly #libc: Libc;
  readonly #arena: Arena;
  readonly #slots: ReceiveSlots;
  readonly #queue: SendQueue;
  readonly #paths: PathTable;
  readonly #events: number;
  readonly #timespec: number;
  readonly #scratch: number;
  readonly #epoll: number;
  /** Descriptor that wakes the poller when somebody writes to it, from any thread of the process. */
  readonly wakeFd: number;
  readonly #sockets: (MmsgSocket | undefined)[] = [];
  readonly #freeNumbers: number[] = [];
  readonly #timers = new Set<Timer>();
  readonly #blockMs: number;
  readonly #coalesceUs: number;
  readonly #descriptors: Uint8Array | undefined;
  /** When the last wait ended, in ms of performance.now: the time of what a round receives, without asking the clock again. */
  nowMs = performance.now();
  /** Numbers of sockets that may hold datagrams of which no event will tell. */
  readonly #unread: number[] = [];
  /** Slots in use in this round. */
  #used = 0;
  /** When the event loop gets its turn; 0 once somebody wrote to `wakeFd`. */
  #turnEndMs = 0;
  /** The system lacks epoll_pwait2, or a container forbids it: waits are whole milliseconds. */
  #isCoarse = false;
  #driven: NodeJS.Immediate | undefined;
  #inRound = false;
  #closed = false;

  constructor(libc: Libc, options: PollerOptions = {}) {
    const { blockMs = 20, coalesceUs = 0, descriptors } = options;
    this.#libc = libc;
    this.#blockMs = blockMs;
    this.#coalesceUs = coalesceUs;
    this.#descriptors = descriptors;
    const small = 64 * 1024;
    this.#arena = new Arena(libc, RECEIVE_ARENA_BYTES + SEND_ARENA_BYTES + PATH_ARENA_BYTES + small);
    this.#slots = new ReceiveSlots(this.#arena);
    this.#queue = new SendQueue(libc, this.#arena);
    this.#paths = new PathTable(this.#arena);
    this.#events = this.#arena.take(MAX_EVENTS * EPOLL_EVENT.size);
    this.#timespec = this.#arena.take(16);
    this.#scratch = this.#arena.take(64);
    this.#epoll = this.#must(libc.epoll_create1(EPOLL_CLOEXEC), 'epoll');
    this.wakeFd = this.#must(libc.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), 'eventfd');
    this.#note(this.#epoll, 1);
    this.#note(this.wakeFd, 1);
    this.#watch(this.wakeFd, WAKE);
  }

  /** Address and size of the native memory, for whoever must give it back if this thread dies. */
  get memory(): { readonly address: number; readonly size: number } {
    return { address: this.#arena.address, size: this.#arena.bytes.length };
  }

  /** Opens and binds a socket. @throws RelayError TICKRELAY_ERR_BIND */
  open(options: DatagramSocketOptions): DatagramSocket {
    const fd = bindUdp(this.#libc, options);
    this.#note(fd, 1);
    return this.#add(fd, options, true);
  }

  /** Receives and sends on a bound socket by its descriptor, which stays the caller's to close. */
  adopt(fd: number, options: DatagramSocketOptions): DatagramSocket {
    return this.#add(fd, options, false);
  }

  #add(fd: number, options: DatagramSocketOptions, isOwn: boolean): DatagramSocket {
    assert(!this.#closed);
    const number = this.#freeNumbers.pop() ?? this.#sockets.length;
    const socket = new MmsgSocket({
      libc: this.#libc,
      fd,
      options,
      queue: this.#queue,
      paths: this.#paths,
      onClose: () => this.#forget(number, fd, isOwn),
    });
    this.#sockets[number] = socket;
    this.#watch(fd, number);
    return socket;
  }

  /** Calls `run` at start + k x periodMs, k = 0, 1, ...; runs that fell due together are one. @returns what ends it */
  every(periodMs: number, run: () => void): () => void {
    const timer = { run, periodMs, dueMs: performance.now() };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** One round, after what `send` has queued outside one. Waits at most `maxWaitMs`. @returns datagrams received, or CLOSED */
  poll(maxWaitMs: number): number {
    this.#inRound = true;
    this.#queue.flush();
    const left = this.#unread.length;
    const ready = this.#wait(left > 0 ? 0 : maxWaitMs);
    this.nowMs = performance.now();
    let received = 0;
    for (let i = 0; i < ready; i++) {
      if (this.#isError(i)) this.#receiveErrors(this.#eventData(i));
      received += this.#receive(this.#eventData(i));
    }
    for (let i = 0; i < left; i++) received += this.#receiveLeft(this.#unread.shift()!);
    this.#queue.flush();
    this.#used = 0;
    this.#runTimers();
    this.#inRound = false;
    if (this.#closed) {
      this.#release();
      return CLOSED;
    }
    if (received > 0 && this.#coalesceUs > 0) this.#libc.usleep(this.#coalesceUs);
    return received;
  }

  /** Sends what `send` has queued outside a round. */
  flush(): void {
    this.#queue.flush();
  }

  /** Runs rounds on this thread's event loop until `close`. */
  drive(): void {
    const turn = (): void => {
      this.#turnEndMs = performance.now() + TURN_MS;
      do {
        if (this.poll(this.#blockMs) === CLOSED) return;
      } while (this.nowMs < this.#turnEndMs);
      this.#driven = setImmediate(turn);
    };
    this.#driven ??= setImmediate(turn);
  }

  /** Closes every socket and gives the memory back. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearImmediate(this.#driven);
    this.#timers.clear();
    for (const socket of this.#sockets) void socket?.close();
    // A callback may close the poller; the memory is in use until its round is over.
    if (!this.#inRound) this.#release();
  }

  #release(): void {
    for (const fd of [this.wakeFd, this.#epoll]) {
      this.#note(fd, 0);
      this.#libc.close(fd);
    }
    this.#arena.free();
  }

  #wait(maxWaitMs: number): number {
    const events = this.#arena.address + this.#events;
    let waitMs = maxWaitMs;
    if (this.#timers.size > 0) {
      const now = performance.now();
      for (const { dueMs } of this.#timers) waitMs = Math.min(waitMs, Math.max(0, dueMs - now));
    }
    // A wait cut short by a signal reports -1 and counts as one that found nothing.
    if (this.#isCoarse || Number.isInteger(waitMs)) {
      return this.#libc.epoll_wait(this.#epoll, events, MAX_EVENTS, Math.ceil(waitMs));
    }
    const { u32 } = this.#arena;
    const at = this.#timespec >> 2;
    u32[at] = waitMs / 1000;
    u32[at + 2] = (waitMs % 1000) * NS_PER_MS;
    const timespec = this.#arena.address + this.#timespec;
    const ready = this.#libc.epoll_pwait2(SYS_EPOLL_PWAIT2, this.#epoll, events, MAX_EVENTS, timespec, 0, 8);
    if (ready === -1 && this.#libc.errno() !== EINTR) this.#isCoarse = true;
    return ready;
  }

  #eventData(i: number): number {
    // Events are 12 bytes on x86-64: 4-byte aligned, which is enough for a 32-bit read.
    return this.#arena.u32[(this.#events + i * EPOLL_EVENT.size + EPOLL_EVENT.data) >> 2]!;
  }

  #isError(i: number): boolean {
    const events = this.#arena.u32[(this.#events + i * EPOLL_EVENT.size + EPOLL_EVENT.events) >> 2]!;
    return (events & EPOLLERR) !== 0;
  }

  /** Takes the errors off the socket, so that they are counted, and not reported to its sends. */
  #receiveErrors(number: number): void {
    if (number === WAKE) return;
    const socket = this.#sockets[number];
    if (socket === undefined) return;
    // To the end, since no other event tells of the rest; the queue is as bounded as the receive buffer.
    do this.#makeRoom();
    while (socket.receiveErrors(this.#slots, this.#used, SLOTS - this.#used));
  }

  #receiveLeft(number: number): number {
    const socket = this.#sockets[number];
    if (socket !== undefined) socket.isUnread = false;
    return this.#receive(number);
  }

  /** Empties a socket, or gives it RECEIVES_PER_ROUND calls and notes it as unread. @returns datagrams received */
  #receive(number: number): number {
    if (number === WAKE) {
      this.#libc.read(this.wakeFd, this.#arena.address + this.#scratch, 8);
      this.#turnEndMs = 0;
      return 0;
    }
    let total = 0;
    for (let receives = 0; receives < RECEIVES_PER_ROUND; receives++) {
      const socket = this.#sockets[number];
      if (socket === undefined) return total;
      this.#makeRoom();
      const room = SLOTS - this.#used;
      const count = socket.receive(this.#slots, this.#used, room);
      if (count === EMPTY) return total;
      this.#used += count;
      total += count;
      if (0 < count && count < room) return total;
    }
    const socket = this.#sockets[number];
    if (socket === undefined || socket.isUnread) return total;
    socket.isUnread = true;
    this.#unread.push(number);
    return total;
  }

  /** When the slots are used up: sends what refers to them, and all are free. */
  #makeRoom(): void {
    if (this.#used < SLOTS) return;
    this.#queue.flush();
    this.#used = 0;
  }

  #runTimers(): void {
    if (this.#timers.size === 0) return;
    const now = performance.now();
    for (const timer of this.#timers) {
      if (timer.dueMs > now) continue;
      timer.dueMs += timer.periodMs * (Math.floor((now - timer.dueMs) / timer.periodMs) + 1);
      timer.run();
    }
    this.#queue.flush();
  }

  #watch(fd: number, data: number): void {
    const { u32 } = this.#arena;
    u32[(this.#scratch + EPOLL_EVENT.events) >> 2] = EPOLLIN | EPOLLET;
    u32[(this.#scratch + EPOLL_EVENT.data) >> 2] = data;
    this.#must(
      this.#libc.epoll_ctl(this.#epoll, EPOLL_CTL_ADD, fd, this.#arena.address + this.#scratch),
      'epoll_ctl',
    );
  }

  #note(fd: number, open: 0 | 1): void {
    if (this.#descriptors !== undefined && fd < this.#descriptors.length) this.#descriptors[fd] = open;
  }

  #forget(number: number, fd: number, isOwn: boolean): void {
    this.#queue.flush();
    this.#libc.epoll_ctl(this.#epoll, EPOLL_CTL_DEL, fd, 0);
    this.#sockets[number] = undefined;
    this.#freeNumbers.push(number);
    if (!isOwn) return;
    this.#note(fd, 0);
    this.#libc.close(fd);
  }

  #must(result: number, what: string): number {
    if (result === -1) {
      throw new RelayError('TICKRELAY_ERR_LIMIT', `${what} failed: ${errnoName(this.#libc.errno())}`);
    }
    return result;
  }
}
