/**
 * The packet I/O contract. Batches are in the contract, so that what comes with each visit is paid once for all that arrived: a
 * system call, and the cache misses of looking up many sessions, which then overlap. Relay, game server and bots all speak through it.
 */
import assert from 'node:assert/strict';
import type { Endpoint } from './address.ts';
import { ADDRESS_WORDS } from './address.ts';

/** The largest UDP payload over IPv4: 65,535 - 20 (IP header) - 8 (UDP header). */
export const MAX_DATAGRAM_BYTES = 65_507;

/** Paths are numbers of 12 bits, so that a session has room for its own. */
export const MAX_PATH = 4_095;

type BatchArray = 'payloads' | 'lengths' | 'words' | 'ports' | 'paths' | 'tags';

/**
 * Datagrams side by side, each with its remote end. Slot i (0 <= i < count) is `payloads[i]` up to `lengths[i]` bytes,
 * from or to the address `words[4i..4i+3]` (net/address.ts) and `ports[i]`, on the path `paths[i]`.
 *
 * A path is a socket's own number for the way that a datagram came: the local address that it was sent to and, for a
 * link-local remote, the interface. A datagram that is sent with the path of a received one leaves from that address. 0 is
 * no path in particular: the system chooses. Numbers hold as long as the socket, and are at most MAX_PATH.
 *
 * In a received batch, `tags[i]` is the tag of the socket that received the datagram; a sent batch's mean nothing.
 */
export class DatagramBatch {
  readonly capacity: number;
  count = 0;
  readonly payloads: Uint8Array[];
  readonly lengths: Int32Array;
  readonly words: Uint32Array;
  readonly ports: Uint16Array;
  readonly paths: Uint16Array;
  readonly tags: Uint32Array;

  /** @param memory arrays for the batch to use instead of its own, each with room for `capacity` datagrams */
  constructor(capacity: number, memory?: Pick<DatagramBatch, BatchArray>) {
    assert(capacity > 0);
    const empty = new Uint8Array(0);
    this.capacity = capacity;
    this.payloads = memory?.payloads ?? Array.from({ length: capacity }, () => empty);
    this.lengths = memory?.lengths ?? new Int32Array(capacity);
    this.words = memory?.words ?? new Uint32Array(capacity * ADDRESS_WORDS);
    this.ports = memory?.ports ?? new Uint16Array(capacity);
    this.paths = memory?.paths ?? new Uint16Array(capacity);
    this.tags = memory?.tags ?? new Uint32Array(capacity);
  }

  /** Adds one datagram to or from the address at `words[at]`. The payload is referenced, not copied. */
  append(payload: Uint8Array, length: number, words: Uint32Array, at: number, port: number, path = 0): void {
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
    this.paths[slot] = path;
  }

  clear(): void {
    this.count = 0;
  }
}

export interface DatagramSocketOptions {
  /** Where to bind; port 0 asks the system for a free one. `[::]` also receives IPv4, as v4-mapped addresses. */
  readonly local: Endpoint;
  /**
   * The only remote end: everything sent must go there. A socket that can make use of it sends cheaper, reports ICMP errors and
   * receives nothing from others.
   */
  readonly remote?: Endpoint | undefined;
  /**
   * The batch and its payloads are the socket's own again as soon as the handler returns. Sockets that have the same
   * handler may be served by one call, whose batch holds datagrams of several of them.
   */
  readonly onReceive: (batch: DatagramBatch) => void;
  /** Stands beside each datagram that this socket receives, for an owner of many with one handler; a u32. Default 0. */
  readonly tag?: number;
  /** What became of accepted datagrams; the sum of both over time is the sum of what `send` accepted. */
  readonly onSent?: (sent: number, failed: number, sentBytes: number) => void;
  /** A receive failed, of no datagram in particular (an ICMP error, no memory). The socket goes on. */
  readonly onError?: (error: Error) => void;
  /**
   * ICMP errors that came back for datagrams that this socket sent: a closed port, no route. Only a socket with this
   * handler asks the system for them; node:dgram has no way to ask.
   */
  readonly onUnreachable?: (count: number) => void;
  /**
   * Whether received datagrams should tell their path, for an owner who answers them. It costs only a socket that has more
   * than one way to answer: on `0.0.0.0`, on `[::]`, or towards IPv6 link-local addresses.
   */
  readonly tellPaths?: boolean;
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
  /** Receive buffer that the system granted, in the unit of `receiveBufferBytes`; absent where unknown. */
  readonly receiveBufferBytes?: number;

  /**
   * Sends a batch, each datagram to its own address.
   *
   * @returns how many were accepted, from the front; the others met a full queue and were not sent. Accepted ones are
   *   reported later by `onSent`. The batch and its payloads are the caller's again when `send` returns.
   */
  send(batch: DatagramBatch): number;

  /** Asks for another receive buffer; the system may grant less. Absent where it can't be changed. */
  resizeReceiveBuffer?(bytes: number): void;

  /** Idempotent. Datagrams still queued may be lost, as may those that the system has handed over and no batch has reported yet. */
  close(): Promise<void>;
}

/** Opens and binds a socket. @throws RelayError TICKRELAY_ERR_BIND when the address can't be had. */
export type OpenDatagramSocket = (options: DatagramSocketOptions) => DatagramSocket;

export const DEFAULT_SEND_QUEUE_LIMIT = 1_024;
export const DEFAULT_SOCKET_BUFFER_BYTES = 4 * 1024 * 1024;
