/** A userspace engine in a network of memory, with a clock of its own and sockets that can be made to fail. */
import { Endpoint, IpAddress } from '../../../net/address.ts';
import {
  DatagramBatch,
  type DatagramSocket,
  type DatagramSocketOptions,
} from '../../../net/datagram-socket.ts';
import { MemoryNetwork } from '../../../net/memory-socket.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import type { UdpListenerSpec } from '../../../relay/engines/engine.ts';
import { UserspaceEngine } from '../../../relay/engines/userspace/userspace-engine.ts';

export const LISTEN = Endpoint.parse('192.0.2.1:7777');
export const QUARANTINE_MS = 1_000;

export interface Arrival {
  readonly from: Endpoint;
  readonly text: string;
}

/** A program with a socket. */
export class Host {
  readonly received: Arrival[] = [];
  readonly #socket: DatagramSocket;

  constructor(network: MemoryNetwork, local: string, answer?: (host: Host, arrival: Arrival) => void) {
    this.#socket = network.open({
      local: Endpoint.parse(local),
      onReceive: ({ payloads, words, ports }) => {
        const from = new Endpoint(IpAddress.fromWords(words), ports[0]!);
        const arrival = { from, text: Buffer.from(payloads[0]!).toString() };
        this.received.push(arrival);
        answer?.(this, arrival);
      },
    });
  }

  send(to: Endpoint, text: string): void {
    const batch = new DatagramBatch(1);
    batch.append(Buffer.from(text), text.length, to.ip.words, 0, to.port);
    this.#socket.send(batch);
  }

  get local(): Endpoint {
    return this.#socket.local;
  }

  get texts(): string[] {
    return this.received.map(({ text }) => text);
  }
}

export class EngineRig {
  readonly network = new MemoryNetwork();
  readonly pool = new BackendPool('game');
  readonly engine: UserspaceEngine;
  readonly troubles: unknown[] = [];
  nowMs = 1_000_000;
  /** Thrown instead of opening a socket. */
  refusal: Error | undefined;

  constructor(settings: { sendQueueLimit?: number; maxUpstreamSockets?: number; maxSessions?: number } = {}) {
    const { sendQueueLimit = 1_000, maxUpstreamSockets = 100, maxSessions = 100 } = settings;
    this.engine = new UserspaceEngine({
      name: 'dgram',
      openSocket: (options: DatagramSocketOptions) => {
        if (this.refusal !== undefined) throw this.refusal;
        return this.network.open({ ...options, sendQueueLimit });
      },
      maxSessions,
      maxUpstreamSockets,
      upstreamQuarantineMs: QUARANTINE_MS,
      hashSeed: 0,
      tableSeed: 0x5eed,
      now: () => this.nowMs,
      onTrouble: (error) => this.troubles.push(error),
    });
  }

  /** @param answer defaults to an echo that names the server */
  server(id: string, answer?: (host: Host, arrival: Arrival) => void): Host {
    const local = `10.0.0.${id.charCodeAt(0)}:9000`;
    const echo = (host: Host, { from, text }: Arrival): void => host.send(from, `${id}:${text}`);
    this.pool.add({ id, endpoint: Endpoint.parse(local), weight: 1 });
    this.publish();
    return new Host(this.network, local, answer ?? echo);
  }

  publish(): void {
    void this.engine.publish(this.pool.snapshot());
  }

  async listen(rules: Partial<UdpListenerSpec> = {}): Promise<this> {
    await this.engine.addListener({
      name: 'game',
      listen: LISTEN,
      pool: 'game',
      algorithm: 'ip-hash',
      idleTimeoutMs: 10_000,
      pinTimeoutMs: 60_000,
      receiveBufferBytes: 131_072,
      limits: { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 },
      ...rules,
    });
    return this;
  }

  advance(ms: number): void {
    this.nowMs += ms;
    this.engine.sweep();
  }

  get counts() {
    return this.engine.listeners()[0]!.counts;
  }

  /** Datagrams received, forwarded and dropped by any reason. */
  sum(direction: 'downstream' | 'upstream') {
    const { received, forwarded, dropped } = this.counts[direction];
    return { received, forwarded, dropped: Object.values(dropped).reduce((sum, count) => sum + count, 0) };
  }
}
