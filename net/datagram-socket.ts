/**
 * The packet I/O contract. Batches are in the contract, so that a fast socket can hand over sixty-four datagrams at a
 * time; the portable one simply reports batches of one. Relay, game server and bots all speak through it.
 */
import assert from 'node:assert/strict';
import type { Endpoint } from './address.ts';
import { ADDRESS_WORDS } from './address.ts';

/** The largest UDP payload over IPv4: 65,535 - 20 (IP header) - 8 (UDP header). */
export const MAX_DATAGRAM_BYTES = 65_507;

/**
 * Datagrams side by side, each with its remote end. Slot i (0 <= i < count) is `payloads[i]` up to `lengths[i]` bytes,
 * from or to the address `words[4i..4i+3]` (net/address.ts) and `ports[i]`.
 */
export class DatagramBatch {
  readonly capacity: number;
  count = 0;
  readonly payloads: Uint8Array[];
  readonly lengths: Int32Array;
  readonly words: Uint32Array;
  readonly ports: Uint16Array;

  /** @param memory arrays for the batch to use instead of its own, each with room for `capacity` datagrams */
  constructor(capacity: number, memory?: Pick<DatagramBatch, 'payloads' | 'lengths' | 'words' | 'ports'>) {
    assert(capacity > 0);
    const empty = new Uint8Array(0);
    this.capacity = capacity;
    this.payloads = memory?.payloads ?? Array.from({ length: capacity }, () => empty);
    this.lengths = memory?.lengths ?? new Int32Array(capacity);
    this.words = memory?.words ?? new Uint32Array(capacity * ADDRESS_WORDS);
    this.ports = memory?.ports ?? new Uint16Array(capacity);
  }

  /** Adds one datagram to or from the address at `words[at]`. The payload is referenced, not copied. */
  append(payload: Uint8Array, length: number, words: Uint32Array, at: number, port: number): void {
    const slot = this.count++;
    assert(slot < this.capacity, 'the batch is full');
    this.payloads[slot] = payload;
    this.lengths[slot] = length;
    const to = slot * ADDRESS_WORDS;
    this.words[to] = words[at]!;
    this.words[to + 1] = words[at + 1]!;
    this.words[to + 2] = words[at + 2]!;
    this.words[to + 3] = words[at + 3]!;
    this.ports[slot] = port;
  }

  clear(): void {
    this.count = 0;
  }
}

export interface DatagramSocketOptions {
  /** Where to bind; port 0 asks the system for a free one. `[::]` also receives IPv4, as v4-mapped addresses. */
  readonly local: Endpoint;
  /** The batch and its payloads are the socket's own again as soon as the handler returns. */
  readonly onReceive: (batch: DatagramBatch) => void;
  /** What became of accepted datagrams; the sum of both over time is the sum of what `send` accepted. */
  readonly onSent?: (sent: number, failed: number, sentBytes: number) => void;
  /** A receive failed, of no datagram in particular (an ICMP error, no memory). The socket goes on. */
  readonly onError?: (error: Error) => void;
  /** Datagrams that may wait for the system at once; beyond it `send` refuses. Default 1,024. */
  readonly sendQueueLimit?: number;
  /** Asked of the system, which may grant less. Default 4 MiB each. */
  readonly receiveBufferBytes?: number;
  readonly sendBufferBytes?: number;
}

export interface DatagramSocket {
  /** The bound address, with the port that the system chose. */
  readonly local: Endpoint;
  /** Datagrams that the kernel dropped since the socket was bound, its receive buffer being full; absent where unknown. */
  readonly kernelDrops?: number;

  /**
   * Sends a batch, each datagram to its own address.
   *
   * @returns how many were accepted, from the front; the others met a full queue and were not sent. Accepted ones are
   *   reported later by `onSent`. The batch and its payloads are the caller's again when `send` returns.
   */
  send(batch: DatagramBatch): number;

  /** Idempotent. Datagrams still queued may be lost. */
  close(): Promise<void>;
}

/** Opens and binds a socket. @throws RelayError TICKRELAY_ERR_BIND when the address can't be had. */
export type OpenDatagramSocket = (options: DatagramSocketOptions) => DatagramSocket;

export const DEFAULT_SEND_QUEUE_LIMIT = 1_024;
export const DEFAULT_SOCKET_BUFFER_BYTES = 4 * 1024 * 1024;
