/** A UDP program for tests: it sends, keeps what it receives, and lets a test wait for the next datagram. */
import { Endpoint, IpAddress } from '../../net/address.ts';
import { DatagramBatch, type DatagramSocket } from '../../net/datagram-socket.ts';
import { openDgramSocket } from '../../net/dgram-socket.ts';

export interface ReceivedDatagram {
  readonly payload: Buffer;
  readonly from: Endpoint;
}

/** What a server sends back to a datagram, if anything. */
export type Answer = (datagram: ReceivedDatagram) => Uint8Array | undefined;

export class UdpPeer {
  readonly received: ReceivedDatagram[] = [];
  readonly #socket: DatagramSocket;
  readonly #answer: Answer | undefined;
  #taken = 0;
  #wake: () => void = () => undefined;

  /** @param answer makes a server of it: what it returns is sent back */
  constructor(local: string, answer?: Answer) {
    this.#answer = answer;
    this.#socket = openDgramSocket({
      local: Endpoint.parse(local),
      onReceive: (batch) => this.#receive(batch),
    });
  }

  get local(): Endpoint {
    return this.#socket.local;
  }

  send(to: Endpoint, payload: Uint8Array | string): void {
    const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload;
    const batch = new DatagramBatch(1);
    batch.append(bytes, bytes.length, to.ip.words, 0, to.port);
    this.#socket.send(batch);
  }

  /** The next datagram that no earlier call took. Fails with `what` after five seconds. */
  async next(what = 'a datagram'): Promise<ReceivedDatagram> {
    await this.until(() => this.received.length > this.#taken, what);
    return this.received[this.#taken++]!;
  }

  /** Sends and waits for the next datagram. */
  ask(to: Endpoint, payload: Uint8Array | string): Promise<ReceivedDatagram> {
    this.send(to, payload);
    return this.next(`an answer from ${to.toString()} to ${this.local.toString()}`);
  }

  /** Waits until the condition holds; it is looked at after each datagram. */
  async until(condition: () => boolean, what: string): Promise<void> {
    const deadline = AbortSignal.timeout(5_000);
    while (!condition()) {
      await new Promise<void>((resolve, reject) => {
        this.#wake = resolve;
        deadline.addEventListener('abort', () => reject(new Error(`${what} did not come`)), { once: true });
      });
    }
  }

  close(): Promise<void> {
    return this.#socket.close();
  }

  #receive(batch: DatagramBatch): void {
    for (let i = 0; i < batch.count; i++) {
      const from = new Endpoint(IpAddress.fromWords(batch.words, 4 * i), batch.ports[i]!);
      const datagram = { payload: Buffer.from(batch.payloads[i]!.subarray(0, batch.lengths[i])), from };
      this.received.push(datagram);
      const answer = this.#answer?.(datagram);
      if (answer !== undefined) this.send(from, answer);
    }
    this.#wake();
  }
}
