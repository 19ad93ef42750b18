/**
 * One epoll for many sockets of a thread, with timers. One round (`poll`):
 *
 *  1. wait until a descriptor has news, a timer is due, or somebody wakes the poll
 *  2. tell each descriptor's handler; edge-triggered, so a handler takes all there is, or asks to be told again
 *  3. handlers that asked to be told again; timers that are due; what was put off to the end of the round
 *
 * The wait blocks the thread; `drive` runs rounds on the thread's event loop and gives it a turn between them, so that promises
 * and messages still work.
 *
 * The UDP data plane's Poller (poller.ts) has a wait, timers and a drive of its own: its round is about batches. It waits in
 * microseconds, sleeps on purpose under load, spreads the receives of all readable sockets over one set of slots, and sends
 * in between. What would be left to share is some ten lines around epoll_wait, and each round would pay for a call between them.
 */
import { performance } from 'node:perf_hooks';
import { RelayError } from '../relay-error.ts';
import {
  EFD_CLOEXEC,
  EFD_NONBLOCK,
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLL_EVENT,
  EPOLLET,
  EPOLLIN,
} from './abi.ts';
import { Arena } from './arena.ts';
import { errnoName, type Libc } from './libc.ts';
import { TimerQueue } from './timer-queue.ts';

/** Descriptors that one wait reports. */
const MAX_EVENTS = 256;

export interface EventPollOptions {
  /** The longest wait, in ms. Default 1,000. */
  readonly blockMs?: number;
  /** How long rounds follow each other before the event loop gets its turn, in ms. Whoever wakes the poll gets it at once. Default 2. */
  readonly turnMs?: number;
  /** Memory that outlives the thread: byte d is 1 while descriptor d is open. */
  readonly descriptors?: Uint8Array | undefined;
}

export interface EventHandler {
  /** @param events bits of EPOLLIN and the like; 0: it asked to be told again */
  onEvents(events: number): void;
}

const NOBODY: EventHandler = { onEvents: () => undefined };

export class EventPoll {
  readonly libc: Libc;
  /** Descriptor that wakes the poll when somebody writes to it, from any thread of the process. */
  readonly wakeFd: number;
  /** When the last wait ended, in ms of performance.now. */
  nowMs = performance.now();
  readonly #arena: Arena;
  readonly #events: number;
  readonly #scratch: number;
  readonly #epoll: number;
  readonly #blockMs: number;
  readonly #turnMs: number;
  readonly #descriptors: Uint8Array | undefined;
  readonly #handlers: EventHandler[] = [];
  readonly #freeNumbers: number[] = [];
  /** Numbers that were given up in this round: an event that was reported before may still name one. */
  readonly #restingNumbers: number[] = [];
  #again = new Set<EventHandler>();
  #soon: (() => void)[] = [];
  readonly #timers = new TimerQueue();
  #turnEndMs = 0;
  #driven: NodeJS.Immediate | undefined;
  #inRound = false;
  #isClosed = false;

  constructor(libc: Libc, { blockMs = 1_000, turnMs = 2, descriptors }: EventPollOptions = {}) {
    this.libc = libc;
    this.#blockMs = blockMs;
    this.#turnMs = turnMs;
    this.#descriptors = descriptors;
    this.#arena = new Arena(libc, 8 * 1024);
    this.#events = this.#arena.take(MAX_EVENTS * EPOLL_EVENT.size);
    this.#scratch = this.#arena.take(64);
    this.#epoll = this.#must(libc.epoll_create1(EPOLL_CLOEXEC), 'epoll');
    this.wakeFd = this.#must(libc.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), 'eventfd');
    this.note(this.#epoll, 1);
    this.note(this.wakeFd, 1);
    this.watch(this.wakeFd, EPOLLIN, { onEvents: () => this.#woken() });
  }

  /**
   * Tells `handler` whenever one of `events` begins to hold.
   *
   * @returns the number that `unwatch` takes, or -1 when the system has no room
   */
  watch(fd: number, events: number, handler: EventHandler): number {
    const number = this.#freeNumbers.pop() ?? this.#handlers.length;
    const { u32 } = this.#arena;
    u32[(this.#scratch + EPOLL_EVENT.events) >> 2] = events | EPOLLET;
    u32[(this.#scratch + EPOLL_EVENT.data) >> 2] = number;
    this.#handlers[number] = handler;
    const event = this.#arena.address + this.#scratch;
    if (this.libc.epoll_ctl(this.#epoll, EPOLL_CTL_ADD, fd, event) === 0) return number;
    this.unwatch(number);
    return -1;
  }

  /** The handler is told nothing more. The descriptor must be closed, or taken out by `remove`, by the caller. */
  unwatch(number: number): void {
    // A look into a set costs more than one at its size.
    if (this.#again.size > 0) this.#again.delete(this.#handlers[number]!);
    this.#handlers[number] = NOBODY;
    this.#restingNumbers.push(number);
  }

  /** Takes a descriptor out that stays open. */
  remove(fd: number): void {
    this.libc.epoll_ctl(this.#epoll, EPOLL_CTL_DEL, fd, 0);
  }

  /** Tells the handler again in the next round, with no events: it left something unread. */
  again(handler: EventHandler): void {
    this.#again.add(handler);
  }

  /** Calls `run` at the end of the round, or of the next one. */
  soon(run: () => void): void {
    this.#soon.push(run);
  }

  /** Calls `run` once, `delayMs` after this round's wait ended. @returns what prevents it */
  after(delayMs: number, run: () => void): () => void {
    return this.#timers.add(this.nowMs, delayMs, run);
  }

  /** Notes whether a descriptor is open, for whoever must close it if this thread dies. */
  note(fd: number, open: 0 | 1): void {
    if (this.#descriptors !== undefined && fd < this.#descriptors.length) this.#descriptors[fd] = open;
  }

  /** One round. Waits at most `maxWaitMs`. */
  poll(maxWaitMs: number): void {
    const ready = this.#wait(maxWaitMs);
    this.nowMs = performance.now();
    this.#inRound = true;
    for (let i = 0; i < ready; i++) {
      // Events are 12 bytes on x86-64: 4-byte aligned, which is enough for a 32-bit read.
      const at = (this.#events + i * EPOLL_EVENT.size) >> 2;
      const events = this.#arena.u32[at + (EPOLL_EVENT.events >> 2)]!;
      this.#handlers[this.#arena.u32[at + (EPOLL_EVENT.data >> 2)]!]!.onEvents(events);
    }
    this.#tellAgain();
    this.#timers.runDue(this.nowMs);
    this.#runSoon();
    for (const number of this.#restingNumbers) this.#freeNumbers.push(number);
    this.#restingNumbers.length = 0;
    this.#inRound = false;
    if (this.#isClosed) this.#release();
  }

  /** Runs rounds on this thread's event loop until `close`. */
  drive(): void {
    const turn = (): void => {
      this.#turnEndMs = performance.now() + this.#turnMs;
      do {
        this.poll(this.#blockMs);
        if (this.#isClosed) return;
      } while (this.nowMs < this.#turnEndMs);
      this.#driven = setImmediate(turn);
    };
    this.#driven ??= setImmediate(turn);
  }

  /** Ends the rounds. Whoever watches a descriptor has closed it before. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearImmediate(this.#driven);
    if (!this.#inRound) this.#release();
  }

  #release(): void {
    for (const fd of [this.wakeFd, this.#epoll]) {
      this.note(fd, 0);
      this.libc.close(fd);
    }
    this.#arena.free();
  }

  #wait(maxWaitMs: number): number {
    // The round since the last wait counts as no time: a clock read in every round costs more than a timer that late.
    const toTimerMs = Math.max(0, this.#timers.nextDueMs - this.nowMs);
    const waitMs = this.#again.size > 0 || this.#soon.length > 0 ? 0 : Math.min(maxWaitMs, toTimerMs);
    // A wait cut short by a signal reports -1 and counts as one that found nothing.
    return this.libc.epoll_wait(
      this.#epoll,
      this.#arena.address + this.#events,
      MAX_EVENTS,
      Math.ceil(waitMs),
    );
  }

  #woken(): void {
    this.libc.read(this.wakeFd, this.#arena.address + this.#scratch, 8);
    this.#turnEndMs = 0;
  }

  #tellAgain(): void {
    if (this.#again.size === 0) return;
    const handlers = this.#again;
    this.#again = new Set();
    for (const handler of handlers) handler.onEvents(0);
  }

  #runSoon(): void {
    if (this.#soon.length === 0) return;
    const runs = this.#soon;
    this.#soon = [];
    for (const run of runs) run();
  }

  #must(result: number, what: string): number {
    if (result === -1) {
      throw new RelayError('TICKRELAY_ERR_LIMIT', `${what} failed: ${errnoName(this.libc.errno())}`);
    }
    return result;
  }
}
