/** A relay with real backends and clients on loopback, for the tests of relay/tcp. Everything it opens it closes. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, vi } from 'vitest';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import type { CloseReason } from '../../../relay/core/close-reason.ts';
import { EventPoll } from '../../../net/linux/event-poll.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { PumpTransport } from '../../../relay/tcp/pump/pump-transport.ts';
import { StreamTransport } from '../../../relay/tcp/streams/stream-transport.ts';
import { TcpEngine, type TcpEngineOptions } from '../../../relay/tcp/tcp-engine.ts';
import type { TcpListenerStatus } from '../../../relay/tcp/tcp-listener.ts';
import type { TcpListenerSpec } from '../../../relay/tcp/tcp-rules.ts';

import type {
  ListenOptions,
  LinkOptions,
  TcpTransport,
  TransportName,
} from '../../../relay/tcp/transport.ts';

const loaded = loadLibc();
/** Why `pump` does not run here; undefined where it does. */
export const PUMP_UNAVAILABLE = 'unavailable' in loaded ? loaded.unavailable : undefined;

/** Those that run here. */
export const TRANSPORTS_HERE: readonly TransportName[] = 'libc' in loaded ? ['streams', 'pump'] : ['streams'];

/** What an attempt to reach a backend comes to, where a test decides: it never ends, or fails with a code. */
export type DialOutcome = 'real' | 'never' | { readonly fails: string };

export interface BenchOptions extends Omit<TcpEngineOptions, 'transport'> {
  readonly dial?: (backend: Endpoint) => DialOutcome;
}

/** Opens a transport on this thread. */
export function openTransport(name: TransportName): { transport: TcpTransport; close: () => void } {
  if (name === 'streams') return { transport: new StreamTransport(), close: () => undefined };
  if ('unavailable' in loaded) throw new Error(loaded.unavailable);
  // The clients and backends of the test share the thread: never wait, and let them run after each round.
  const poll = new EventPoll(loaded.libc, { blockMs: 0, turnMs: 0 });
  const transport = new PumpTransport(poll);
  poll.drive();
  return {
    transport,
    close: () => {
      transport.close();
      poll.close();
    },
  };
}

/** The same transport, whose attempts to reach backends come to what the test says. */
function withDial(transport: TcpTransport, outcomeOf: (backend: Endpoint) => DialOutcome): TcpTransport {
  const open = (client: Parameters<ListenOptions['onAccept']>[0], options: LinkOptions) => {
    const link = client.open(options);
    const dial = link.dial.bind(link);
    const reset = link.reset.bind(link);
    let isClosed = false;
    link.reset = () => {
      isClosed = true;
      reset();
    };
    link.dial = (backend) => {
      const outcome = outcomeOf(backend);
      if (outcome === 'real') dial(backend);
      else if (outcome !== 'never')
        setImmediate(() => isClosed || options.events.backendFailed(outcome.fails));
    };
    return link;
  };
  return {
    name: transport.name,
    after: (delayMs, run) => transport.after(delayMs, run),
    listen: (options) =>
      transport.listen({
        ...options,
        onAccept: (client) =>
          options.onAccept({
            address: client.address,
            refuse: () => client.refuse(),
            open: (linkOptions) => open(client, linkOptions),
          }),
      }),
  };
}

export class TestBackend {
  readonly server: Server;
  readonly sockets = new Set<Socket>();
  /** Errors that the backend's sockets met, in order. */
  readonly errorCodes: string[] = [];

  private constructor(onConnection: (socket: Socket) => void) {
    this.server = createServer({ allowHalfOpen: true }, (socket) => {
      this.sockets.add(socket);
      socket.on('error', (error: NodeJS.ErrnoException) => this.errorCodes.push(error.code ?? error.message));
      socket.on('close', () => this.sockets.delete(socket));
      onConnection(socket);
    });
  }

  static async start(onConnection: (socket: Socket) => void, host = '127.0.0.1'): Promise<TestBackend> {
    const backend = new TestBackend(onConnection);
    backend.server.listen(0, host);
    await once(backend.server, 'listening');
    return backend;
  }

  get endpoint(): Endpoint {
    const { address, port } = this.server.address() as AddressInfo;
    return new Endpoint(IpAddress.parse(address), port);
  }

  async close(): Promise<void> {
    if (!this.server.listening) return;
    const closed = once(this.server, 'close');
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}

export const echo = (socket: Socket): void => void socket.pipe(socket);
export const hold = (): void => undefined;

/** Sends its name and goes on listening. */
export const greet =
  (name: string) =>
  (socket: Socket): void =>
    void socket.resume().write(name);

export class TcpBench {
  readonly #transport: TransportName;
  #engine: TcpEngine | undefined;
  #pool = new BackendPool('pool');
  #backends: TestBackend[] = [];
  #clients: Socket[] = [];
  #closeTransport = (): void => undefined;
  local = Endpoint.parse('127.0.0.1:0');

  constructor(transport: TransportName) {
    this.#transport = transport;
  }

  /** A relay without listeners; one that was started before ends. */
  async start({ dial, ...options }: BenchOptions = {}): Promise<void> {
    await this.end();
    const { transport, close } = openTransport(this.#transport);
    this.#closeTransport = close;
    this.#pool = new BackendPool('pool');
    this.#backends = [];
    this.#clients = [];
    this.#engine = new TcpEngine({
      ...options,
      transport: dial === undefined ? transport : withDial(transport, dial),
    });
  }

  /** Of the relay that was started last, also after its end. */
  get engine(): TcpEngine {
    assert(this.#engine !== undefined, 'not started yet');
    return this.#engine;
  }

  get pool(): BackendPool {
    return this.#pool;
  }

  async backend(
    id: string,
    onConnection: (socket: Socket) => void,
    { host, ...spec }: { weight?: number; maxConnections?: number; host?: string } = {},
  ): Promise<TestBackend> {
    const backend = await TestBackend.start(onConnection, host);
    this.#backends.push(backend);
    this.#pool.add({ id, endpoint: backend.endpoint, weight: 1, ...spec });
    return backend;
  }

  /** A backend whose port nobody listens on. */
  async deadBackend(id: string): Promise<void> {
    const backend = await TestBackend.start(hold);
    const { endpoint } = backend;
    await backend.close();
    this.pool.add({ id, endpoint, weight: 1 });
  }

  publish(): void {
    void this.engine.publish(this.pool.snapshot());
  }

  async listen(rules: Partial<TcpListenerSpec> = {}): Promise<TcpListenerSpec> {
    const spec: TcpListenerSpec = { ...listenerSpec(), ...rules };
    this.publish();
    this.local = await this.engine.addListener(spec);
    return spec;
  }

  /** A client on its way; errors are expected and looked at through the events. */
  dial(options: { host?: string; localAddress?: string } = {}): Socket {
    const host = options.host ?? this.local.ip.toString();
    const client = connect({ ...options, host, port: this.local.port, allowHalfOpen: true });
    client.on('error', () => undefined);
    this.#clients.push(client);
    return client;
  }

  status(): TcpListenerStatus {
    return this.engine.listeners()[0]!;
  }

  /** Live connections by the id of their backend. */
  liveByBackend(): Record<string, number> {
    return Object.fromEntries(this.status().connectionsByBackend);
  }

  /** So many clients, connected. */
  async dialMany(count: number): Promise<Socket[]> {
    const clients = Array.from({ length: count }, () => this.dial());
    await Promise.all(clients.map((client) => once(client, 'connect')));
    return clients;
  }

  closed(reason: CloseReason): number {
    return this.status().counts.closed[reason];
  }

  async end(): Promise<void> {
    for (const client of this.#clients) client.destroy();
    await this.#engine?.close();
    await Promise.all(this.#backends.map((backend) => backend.close()));
    this.#closeTransport();
    this.#closeTransport = () => undefined;
  }
}

/** A bench that starts before each test of the block and ends after it, when its figures must balance. */
export function benchOfEach(transport: TransportName, optionsOf: () => BenchOptions = () => ({})): TcpBench {
  const bench = new TcpBench(transport);
  beforeEach(() => bench.start(optionsOf()));
  afterEach(async () => {
    await bench.end();
    expect(isBalanced(bench.engine)).toBe(true);
  });
  return bench;
}

export function listenerSpec(): TcpListenerSpec {
  return {
    name: 'login',
    listen: Endpoint.parse('127.0.0.1:0'),
    pool: 'pool',
    algorithm: 'least-connections',
    connectTimeoutMs: 3_000,
    idleTimeoutMs: 7_440_000,
    keepAliveMs: 60_000,
    maxConnections: 2_000,
    slowStartMs: 0,
    limits: { connectionsPerSource: 0, connectionRatePerSource: 0 },
    queue: { size: 0, timeoutMs: 5_000 },
    proxyProtocol: { accept: [], timeoutMs: 5_000, send: 'none' },
  };
}

/** Waits until the assertion holds; the deadline is for busy machines only. */
export function eventually(assertion: () => void): Promise<void> {
  return vi.waitFor(assertion, { timeout: 20_000, interval: 10 });
}

/** accepted = the sum of closed + those that are in the table of connections */
export function isBalanced(engine: TcpEngine): boolean {
  const live = engine.listeners().reduce((sum, { liveConnections }) => sum + liveConnections, 0);
  return live === engine.dump().connections;
}

/** The next bytes, as text. */
export async function nextText(socket: Socket): Promise<string> {
  const [chunk] = (await once(socket, 'data')) as [Buffer];
  return chunk.toString();
}

/** 'reset' when the peer sent RST, 'end' when it sent FIN. */
export function howItEnds(socket: Socket): Promise<'reset' | 'end'> {
  return new Promise((resolve, reject) => {
    socket.once('end', () => resolve('end'));
    socket.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNRESET' || error.code === 'EPIPE' ? resolve('reset') : reject(error),
    );
    socket.resume();
  });
}
