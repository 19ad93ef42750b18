/** A relay with real backends and clients on loopback, for the tests of relay/tcp. Everything it opens it closes. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { vi } from 'vitest';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { CLOSE_REASONS, type CloseReason } from '../../../relay/tcp/close-reason.ts';
import { TcpEngine, type TcpEngineOptions } from '../../../relay/tcp/tcp-engine.ts';
import type { TcpListenerStatus } from '../../../relay/tcp/tcp-listener.ts';
import type { TcpListenerSpec } from '../../../relay/tcp/tcp-rules.ts';

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
  readonly engine: TcpEngine;
  readonly pool = new BackendPool('pool');
  readonly #backends: TestBackend[] = [];
  readonly #clients: Socket[] = [];
  local = Endpoint.parse('127.0.0.1:0');

  constructor(options: TcpEngineOptions = {}) {
    this.engine = new TcpEngine(options);
  }

  async backend(
    id: string,
    onConnection: (socket: Socket) => void,
    { host, ...spec }: { weight?: number; maxConnections?: number; host?: string } = {},
  ): Promise<TestBackend> {
    const backend = await TestBackend.start(onConnection, host);
    this.#backends.push(backend);
    this.pool.add({ id, endpoint: backend.endpoint, weight: 1, ...spec });
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
    this.engine.publish(this.pool.snapshot());
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

  closed(reason: CloseReason): number {
    return this.status().counts.closed[reason];
  }

  async end(): Promise<void> {
    for (const client of this.#clients) client.destroy();
    await this.engine.close();
    await Promise.all(this.#backends.map((backend) => backend.close()));
  }
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

/** accepted = the sum of closed + live */
export function isBalanced({ counts, liveConnections }: TcpListenerStatus): boolean {
  const closed = CLOSE_REASONS.reduce((sum, reason) => sum + counts.closed[reason], 0);
  return counts.accepted === closed + liveConnections;
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
