/**
 * One backend slot's upstream sockets: those that it may take now, and those that rest towards it. A socket that a session left
 * rests before another session may use it towards the same backend, so that a late reply finds nobody and is dropped.
 *
 *     fresh    may be taken now               (a stack: the last one left is the first taken)
 *     owned    by one live session            (upstream-owners.ts)
 *     resting  since it was left              (a queue, in the order of time)
 */
import type { Endpoint } from '../../../net/address.ts';
import type { DatagramSocket } from '../../../net/datagram-socket.ts';
import { RestQueue } from './rest-queue.ts';

export interface UpstreamSocket {
  /** Its number, in sessions, and its tag. Reused after it was closed. */
  readonly number: number;
  readonly isV4: boolean;
  readonly socket: DatagramSocket;
  /** Slots that have an owner. */
  owned: number;
  /** When a session last left it; before all time when none ever had it. */
  leftMs: number;
  isSpare: boolean;
  closed: boolean;
}

interface Rest {
  readonly upstream: UpstreamSocket;
  readonly sinceMs: number;
}

export class UpstreamSlot {
  readonly endpoint: Endpoint;
  readonly isV4: boolean;
  #fresh: UpstreamSocket[] = [];
  readonly #resting = new RestQueue<Rest>();

  constructor(endpoint: Endpoint) {
    this.endpoint = endpoint;
    this.isV4 = endpoint.ip.isV4;
  }

  /** An open socket that needs no rest, if there is one. */
  take(): UpstreamSocket | undefined {
    let upstream = this.#fresh.pop();
    while (upstream?.closed === true) upstream = this.#fresh.pop();
    return upstream;
  }

  /** A socket that this slot may take. */
  offer(upstream: UpstreamSocket): void {
    this.#fresh.push(upstream);
  }

  rest(upstream: UpstreamSocket, sinceMs: number): void {
    this.#resting.push({ upstream, sinceMs });
  }

  /** Those that rest since then, or longer, are fresh. */
  endRests(sinceMs: number): void {
    for (let head = this.#resting.peek(); head !== undefined; head = this.#resting.peek()) {
      if (head.sinceMs > sinceMs) return;
      this.#resting.shift();
      if (!head.upstream.closed) this.#fresh.push(head.upstream);
    }
  }

  /** A slot that takes few sockets would keep all that were ever opened. Once most of its stack are closed, they go. */
  forgetClosed(openSockets: number): void {
    if (this.#fresh.length > 2 * openSockets) this.#fresh = this.#fresh.filter(({ closed }) => !closed);
  }
}
