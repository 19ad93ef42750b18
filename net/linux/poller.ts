/**
 * Batched UDP on one thread: sockets, one epoll, receive slots and a send queue. One round (`poll`):
 *
 *  1. wait until a socket is readable, a timer is due, or somebody wakes the poller
 *  2. each readable socket: count its errors, line up its receives, as many as it lately had datagrams a round
 *  3. make the receives of all sockets in one call, hand each owner its batch
 *  4. owners answer by `send`, which only queues
 *  5. when the slots are used up, and at the end of the round: send the queue in one call, all slots are free
 *  6. timers that are due
 *
 * So a round is three system calls, however many sockets take part. Where the system has no ring for that (call-ring.ts), each
 * socket is received from and sent on by a call of its own. What a round leaves in a socket, the epoll tells again.
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
  EPOLLIN,
  SYS_EPOLL_PWAIT2,
} from './abi.ts';
import { Arena } from './arena.ts';
import { CallRing, type Piece } from './call-ring.ts';
import { errnoName, type Libc } from './libc.ts';
import { bindUdp, EMPTY, MmsgSocket } from './mmsg-socket.ts';
import { PATH_ARENA_BYTES, PathTable } from './path-table.ts';
import { PeriodicTimers } from './periodic-timers.ts';
import { RECEIVE_ARENA_BYTES, ReceiveSlots, SLOTS } from './receive-slots.ts';
import { SEND_ARENA_BYTES, SendQueue } from './send-queue.ts';

/** Readable sockets that one wait reports. */
const MAX_EVENTS = 256;

/** Datagrams of one socket in one round, on a ring: a flood on one does not keep the others waiting. */
const MAX_RECEIVES = 32;
/** Calls for one socket in one round, without a ring. */
const CALLS_PER_ROUND = 4;

/** What a round answers in which a callback closed the poller. */
const CLOSED = -1;

/** What stands in an event for the wake-up descriptor. */
const WAKE = 0xffffffff;

const NS_PER_MS = 1e6;

export interface PollerOptions {
  /** The longest wait, in ms. Default 20. */
  readonly blockMs?: number;
  /** How long rounds follow each other before the event loop gets its turn, in ms. Whoever wakes the poller gets it at once. Default 4. */
  readonly turnMs?: number;
  /** Sleep after a round with traffic, in microseconds, so that the next one finds more: CPU for latency. Default 0. */
  readonly coalesceUs?: number;
  /** Whether to make the calls of a round together (call-ring.ts), where the system allows it. Default true. */
  readonly ring?: boolean;
  /** Memory that outlives the thread: byte d is 1 while the poller has descriptor d open. */
  readonly descriptors?: Uint8Array;
}

export class Poller {
  readonly #libc: Libc;
  readonly #epollWait: Libc['epoll_wait'];
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
  readonly #timers = new PeriodicTimers();
  readonly #blockMs: number;
  readonly #turnMs: number;
  readonly #coalesceUs: number;
  readonly #descriptors: Uint8Array | undefined;
  /** When the last wait ended, in ms of performance.now: the time of what a round receives, without asking the clock again. */
  nowMs = performance.now();
  #round = 0;
  #ring: CallRing | undefined;
  /** Whose receives are lined up on the ring: the n-th goes into slot n. */
  readonly #lined: (MmsgSocket | undefined)[] = Array.from({ length: SLOTS }, () => undefined);
  #linedCount = 0;
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
    const { blockMs = 20, turnMs = 4, coalesceUs = 0, descriptors } = options;
    this.#libc = libc;
    this.#epollWait = libc.epoll_wait;
    this.#blockMs = blockMs;
    this.#turnMs = turnMs;
    this.#coalesceUs = coalesceUs;
    this.#descriptors = descriptors;
    const small = 64 * 1024;
    this.#arena = new Arena(libc, RECEIVE_ARENA_BYTES + SEND_ARENA_BYTES + PATH_ARENA_BYTES + small);
    this.#slots = new ReceiveSlots(this.#arena);
    this.#queue = new SendQueue(libc, this.#arena, this.#slots);
    this.#paths = new PathTable(this.#arena);
    this.#events = this.#arena.take(MAX_EVENTS * EPOLL_EVENT.size);
    this.#timespec = this.#arena.take(16);
    this.#scratch = this.#arena.take(64);
    if (options.ring ?? true) this.#openRing();
    this.#epoll = this.#must(libc.epoll_create1(EPOLL_CLOEXEC), 'epoll');
    this.wakeFd = this.#must(libc.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), 'eventfd');
    this.#note(this.#epoll, 1);
    this.#note(this.wakeFd, 1);
    this.#watch(this.wakeFd, WAKE);
  }

  /** The native memory, for whoever must give it back if this thread dies. */
  get memory(): readonly Piece[] {
    return [{ address: this.#arena.address, size: this.#arena.bytes.length }, ...(this.#ring?.memory ?? [])];
  }

  #openRing(): void {
    const ring = CallRing.open(this.#libc, [...this.#slots.calls, ...this.#queue.calls]);
    if ('unavailable' in ring) return;
    this.#ring = ring;
    this.#queue.useRing(ring, SLOTS);
    this.#note(ring.fd, 1);
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

  /** As PeriodicTimers.add has it. */
  every(periodMs: number, run: () => void): () => void {
    return this.#timers.add(periodMs, run);
  }

  /** One round, after what `send` has queued outside one. Waits at most `maxWaitMs`. @returns datagrams received, or CLOSED */
  poll(maxWaitMs: number): number {
    this.#inRound = true;
    this.#queue.flush();
    const ready = this.#wait(maxWaitMs);
    this.#round++;
    this.nowMs = performance.now();
    let received = 0;
    const ring = this.#ring;
    for (let i = 0; i < ready; i++) {
      const number = this.#eventData(i);
      if (number === WAKE) this.#wakeUp();
      else {
        if (this.#isError(i)) this.#receiveErrors(number);
        received += ring === undefined ? this.#receive(number) : this.#lineUp(ring, number);
      }
    }
    if (ring !== undefined && this.#linedCount > 0) received += this.#receiveLined(ring);
    this.#queue.flush();
    this.#used = 0;
    if (this.#timers.run(this.nowMs)) this.#queue.flush();
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
      this.#turnEndMs = performance.now() + this.#turnMs;
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
    if (this.#ring !== undefined) {
      this.#note(this.#ring.fd, 0);
      this.#ring.close();
    }
    for (const fd of [this.wakeFd, this.#epoll]) {
      this.#note(fd, 0);
      this.#libc.close(fd);
    }
    this.#arena.free();
  }

  #wait(maxWaitMs: number): number {
    const events = this.#arena.address + this.#events;
    const waitMs = this.#timers.waitMs(maxWaitMs, this.nowMs);
    // A wait cut short by a signal reports -1 and counts as one that found nothing.
    if (this.#isCoarse || Number.isInteger(waitMs)) {
      return this.#epollWait(this.#epoll, events, MAX_EVENTS, Math.ceil(waitMs));
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

  /** Somebody wrote to `wakeFd`. */
  #wakeUp(): void {
    this.#libc.read(this.wakeFd, this.#arena.address + this.#scratch, 8);
    this.#turnEndMs = 0;
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
    const socket = this.#sockets[number];
    if (socket === undefined) return;
    // To the end, since no other event tells of the rest; the queue is as bounded as the receive buffer.
    do this.#makeRoom();
    while (socket.receiveErrors(this.#slots, this.#used, SLOTS - this.#used));
  }

  /** Lines up the receives of a socket that is ready; when the slots are used up, makes those that are. @returns datagrams received */
  #lineUp(ring: CallRing, number: number): number {
    const socket = this.#sockets[number];
    if (socket === undefined) return 0;
    // More came than one round took: the next one takes more.
    if (socket.fullRound === this.#round - 1) socket.receives = Math.min(MAX_RECEIVES, 2 * socket.receives);
    let received = 0;
    for (let n = socket.receives; n > 0; n--) {
      if (this.#linedCount === SLOTS) received += this.#receiveLined(ring);
      // What is in the slots waits to be sent.
      if (this.#linedCount === 0) this.#freeSlots();
      ring.add(this.#linedCount, socket.fd);
      this.#lined[this.#linedCount++] = socket;
    }
    return received;
  }

  /** Makes the receives that are lined up, in one call. Neighbours that share a handler go over in one batch. */
  #receiveLined(ring: CallRing): number {
    const count = this.#linedCount;
    const lined = this.#lined;
    ring.run();
    this.#used = count;
    this.#linedCount = 0;
    let received = 0;
    let first = 0;
    let owner: MmsgSocket | undefined;
    let found = 0;
    for (let slot = 0; slot < count; slot++) {
      const socket = lined[slot]!;
      // Another handler is called before this socket is looked at: it may close it.
      if (owner !== undefined && !owner.sharesBatch(socket)) {
        this.#handOver(owner, first, slot);
        owner = undefined;
      }
      const isFound = !socket.isClosed && socket.take(this.#slots, slot, ring.results[slot]!);
      if (owner !== undefined && !isFound) {
        this.#handOver(owner, first, slot);
        owner = undefined;
      }
      if (isFound) {
        received++;
        found++;
        if (owner === undefined) first = slot;
        owner = socket;
      }
      if (slot + 1 < count && lined[slot + 1] === socket) continue;
      if (found === socket.receives) socket.fullRound = this.#round;
      else socket.receives = Math.max(1, found);
      found = 0;
    }
    if (owner !== undefined) this.#handOver(owner, first, count);
    return received;
  }

  #handOver(owner: MmsgSocket, first: number, end: number): void {
    owner.onReceive(this.#slots.batch(first, end - first, owner.tellsPaths));
  }

  /** Empties a socket, or gives it CALLS_PER_ROUND calls. @returns datagrams received */
  #receive(number: number): number {
    let total = 0;
    for (let receives = 0; receives < CALLS_PER_ROUND; receives++) {
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
    return total;
  }

  #makeRoom(): void {
    if (this.#used === SLOTS) this.#freeSlots();
  }

  /** Sends what refers to the slots, and all are free. */
  #freeSlots(): void {
    if (this.#used === 0) return;
    this.#queue.flush();
    this.#used = 0;
  }

  #watch(fd: number, data: number): void {
    const { u32 } = this.#arena;
    u32[(this.#scratch + EPOLL_EVENT.events) >> 2] = EPOLLIN;
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
