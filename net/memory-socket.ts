/**
 * A network in memory, for tests: the DatagramSocket contract with deterministic delivery and no system underneath.
 * Datagrams wait until `deliver` is called, and arrive in the order they were sent.
 */
import assert from 'node:assert/strict';
import { Endpoint, IpAddress } from './address.ts';
import {
  DatagramBatch,
  type DatagramSocket,
  type DatagramSocketOptions,
  DEFAULT_SEND_QUEUE_LIMIT,
  type OpenDatagramSocket,
} from './datagram-socket.ts';
import { RelayError } from './relay-error.ts';

interface Flight {
  readonly sender: MemorySocket;
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly payload: Uint8Array;
}

/** Decides on one datagram in flight: how many copies of it arrive (0 loses it). */
export type FaultModel = (from: Endpoint, to: Endpoint, payload: Uint8Array) => number;

const LOOPBACK_V4 = IpAddress.parse('127.0.0.1');
const LOOPBACK_V6 = IpAddress.parse('::1');

export class MemoryNetwork {
  /** Replaced by a test that wants loss or duplicates. */
  fault: FaultModel = () => 1;
  readonly #sockets = new Map<string, MemorySocket>();
  readonly #flights: Flight[] = [];
  #nextPort = 40_000;

  /** An opener for sockets of this network. */
  readonly open: OpenDatagramSocket = (options) => {
    let local = options.local;
    while (local.port === 0 || (options.local.port === 0 && this.#sockets.has(local.toString())))
      local = new Endpoint(local.ip, this.#nextPort++);
    if (this.#sockets.has(local.toString())) {
      throw new RelayError(
        'TICKRELAY_ERR_BIND',
        `can't bind UDP ${local.toString()}: another socket has this address`,
      );
    }
    const socket = new MemorySocket(this, local, options);
    this.#sockets.set(local.toString(), socket);
    return socket;
  };

  /** Delivers everything in flight, and what is sent in answer. @returns datagrams delivered */
  deliver(): number {
    let delivered = 0;
    for (let flight = this.#flights.shift(); flight !== undefined; flight = this.#flights.shift()) {
      flight.sender.sent(flight.payload.length);
      const copies = this.fault(flight.from, flight.to, flight.payload);
      for (let i = 0; i < copies; i++) {
        const receiver = this.#find(flight.to);
        if (receiver === undefined) continue;
        receiver.receive(flight.payload, flight.from);
        delivered++;
      }
      assert(delivered < 1_000_000, 'a loop of datagrams');
    }
    return delivered;
  }

  /** For the sockets of this file. */
  enqueue(flight: Flight): void {
    this.#flights.push(flight);
  }

  /** For the sockets of this file. */
  forget(socket: MemorySocket): void {
    this.#sockets.delete(socket.local.toString());
  }

  #find(to: Endpoint): MemorySocket | undefined {
    const anyV4 = to.ip.isV4 ? this.#sockets.get(`0.0.0.0:${to.port}`) : undefined;
    return this.#sockets.get(to.toString()) ?? anyV4 ?? this.#sockets.get(`[::]:${to.port}`);
  }
}

class MemorySocket implements DatagramSocket {
  readonly local: Endpoint;
  readonly #network: MemoryNetwork;
  readonly #options: DatagramSocketOptions;
  readonly #received = new DatagramBatch(1);
  #queued = 0;
  #closed = false;

  constructor(network: MemoryNetwork, local: Endpoint, options: DatagramSocketOptions) {
    this.#network = network;
    this.local = local;
    this.#options = options;
    this.#received.tags[0] = options.tag ?? 0;
  }

  send(batch: DatagramBatch): number {
    const limit = this.#options.sendQueueLimit ?? DEFAULT_SEND_QUEUE_LIMIT;
    for (let i = 0; i < batch.count; i++) {
      if (this.#queued >= limit || this.#closed) return i;
      this.#queued++;
      const to = new Endpoint(IpAddress.fromWords(batch.words, i * 4), batch.ports[i]!);
      // Not slice: of a Buffer, that is a view of the caller's memory.
      const payload = Uint8Array.from(batch.payloads[i]!.subarray(0, batch.lengths[i]));
      this.#network.enqueue({ sender: this, from: this.#source(to), to, payload });
    }
    return batch.count;
  }

  close(): Promise<void> {
    this.#closed = true;
    this.#network.forget(this);
    return Promise.resolve();
  }

  sent(bytes: number): void {
    this.#queued--;
    this.#options.onSent?.(1, 0, bytes);
  }

  receive(payload: Uint8Array, from: Endpoint): void {
    if (this.#closed) return;
    this.#received.clear();
    this.#received.append(payload, payload.length, from.ip.words, 0, from.port);
    this.#options.onReceive(this.#received);
  }

  /** A socket bound to every address sends from loopback. */
  #source(to: Endpoint): Endpoint {
    if (this.local.ip.range !== 'unspecified') return this.local;
    return new Endpoint(to.ip.isV4 ? LOOPBACK_V4 : LOOPBACK_V6, this.local.port);
  }
}
