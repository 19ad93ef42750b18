/**
 * A public TCP address. What happens to each connection that arrives:
 *
 *   1. it is counted; a trusted proxy says who the client is; the client IP's rate is checked
 *   2. the limits are checked: of the listener, of the client IP, of the backends
 *   3. a backend is chosen, in a pin group the one of the client's pin, and dialled (tcp-connection.ts); or the connection waits for its turn in a bounded queue;
 *      or it is reset at once, with a reason that is counted
 *   4. when it ends, those that wait are looked at, in the order in which they came
 */
import assert from 'node:assert/strict';
import { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import { Admission } from './admission.ts';
import type { CloseReason } from '../core/close-reason.ts';
import type { SharedPins } from './shared-pins.ts';
import type { TcpConnection } from './tcp-connection.ts';
import { liveIn, TcpCounters, type TcpCounts } from './tcp-counters.ts';
import type { TcpPool } from './tcp-pool.ts';
import type { TcpListenerSpec } from './tcp-rules.ts';
import type { AcceptedClient, Acceptor, TcpTransport } from './transport.ts';

/** Live figures of one listener. */
export interface TcpListenerStatus {
  readonly name: string;
  readonly pool: string;
  readonly local: Endpoint;
  /** False once the listener drains: its address is free, its connections go on. */
  readonly isAccepting: boolean;
  readonly counts: TcpCounts;
  /** Those that wait included. */
  readonly liveConnections: number;
  readonly queuedConnections: number;
  /** Live connections by backend id. */
  readonly connectionsByBackend: ReadonlyMap<string, number>;
}

export interface TcpListenerOptions {
  readonly spec: TcpListenerSpec;
  readonly pool: TcpPool;
  readonly transport: TcpTransport;
  /** A socket that listens on the address already; it stays its owner's to close. */
  readonly fd?: number;
  /** Default: new ones. */
  readonly counters?: TcpCounters;
  readonly hashSeed: number;
  readonly now: () => number;
  readonly pins: SharedPins | undefined;
  /** A client is to be let in, or to wait. */
  readonly open: (listener: TcpListener, accepted: AcceptedClient, client: Endpoint) => TcpConnection;
  readonly onAcceptError: (listener: TcpListener, error: Error) => void;
}

export class TcpListener {
  readonly local: Endpoint;
  readonly counters: TcpCounters;
  readonly #options: TcpListenerOptions;
  readonly #acceptor: Acceptor;
  #rules: TcpListenerSpec;
  readonly #admission: Admission;
  #stopped: Promise<unknown> | undefined;
  #closed: Promise<void> | undefined;
  #onEmpty: (() => void) | undefined;

  private constructor(options: TcpListenerOptions, acceptor: Acceptor) {
    this.#options = options;
    this.#acceptor = acceptor;
    this.#rules = options.spec;
    this.counters = options.counters ?? new TcpCounters();
    const { counters } = this;
    const { pool, hashSeed, now, pins } = options;
    this.#admission = new Admission({ listener: this, pool, counters, hashSeed, now, pins });
    this.local = new Endpoint(options.spec.listen.ip, acceptor.port);
  }

  /** Binds the address. @throws RelayError TICKRELAY_ERR_BIND naming it. */
  static async open(options: TcpListenerOptions): Promise<TcpListener> {
    const { name, listen, keepAliveMs } = options.spec;
    // Nothing is accepted before this turn of the event loop is over.
    const acceptor = await options.transport
      .listen({
        listen,
        ...(options.fd === undefined ? {} : { fd: options.fd }),
        keepAliveMs,
        onAccept: (accepted) => listener.#accept(accepted),
        onError: (error) => listener.#acceptFailed(error),
      })
      .catch((error: unknown) => {
        throw cantListen(name, listen, error);
      });
    const listener = new TcpListener(options, acceptor);
    return listener;
  }

  get name(): string {
    return this.#rules.name;
  }

  get rules(): TcpListenerSpec {
    return this.#rules;
  }

  /** Changes the rules in place; the idle timeout holds for live connections too. Name, address and pool must be the same. */
  update(spec: TcpListenerSpec): void {
    const { name, listen, pool } = this.#rules;
    assert(spec.name === name && spec.listen.equals(listen) && spec.pool === pool);
    if (spec.keepAliveMs !== this.#rules.keepAliveMs) this.#acceptor.setKeepAlive(spec.keepAliveMs);
    this.#rules = spec;
    this.serveQueue();
  }

  status(): TcpListenerStatus {
    return statusOf({
      name: this.name,
      pool: this.#rules.pool,
      local: this.local,
      isAccepting: this.#stopped === undefined,
      counters: this.counters,
      backends: this.#options.pool.backends,
    });
  }

  /** A connection ended and its descriptors are closed. */
  released(connection: TcpConnection, reason: CloseReason): void {
    this.counters.closed(reason);
    this.#admission.release(connection);
    if (this.#admission.live === 0) this.#onEmpty?.();
  }

  /** A connection is about to go on with another backend. @returns resolves when it may, undefined when it may at once */
  retried(
    connection: TcpConnection,
    failed: BackendEntry,
    other: BackendEntry,
  ): Promise<unknown> | undefined {
    return this.#admission.retried(connection, failed, other);
  }

  /** Lets in those of the waiting connections that the limits now allow, the oldest first. */
  serveQueue(): void {
    this.#admission.serveQueue();
  }

  /** Forgets clients that are long gone. */
  sweep(nowMs: number): void {
    this.#admission.sweep(nowMs);
  }

  /** Stops accepting and frees the address; live connections go on. Idempotent. */
  stop(): void {
    this.#stopped ??= this.#acceptor.close();
  }

  /** Stops, and waits until the last connection has ended. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.stop();
    if (this.#admission.live > 0) await new Promise<void>((resolve) => (this.#onEmpty = resolve));
    await this.#stopped;
  }

  #acceptFailed(error: Error): void {
    this.counters.acceptFailed();
    this.#options.onAcceptError(this, error);
  }

  #accept(accepted: AcceptedClient): void {
    this.counters.accept();
    const peer = accepted.address;
    if (peer === undefined) {
      this.#refuse(accepted, 'client-reset');
      return;
    }
    if (this.#rules.proxyProtocol.accept.some((block) => block.contains(peer.ip))) {
      this.#askProxy(accepted, peer);
      return;
    }
    const verdict = this.#admission.judge(peer);
    if (typeof verdict === 'string') this.#refuse(accepted, verdict);
    else this.#admission.enter(this.#options.open(this, accepted, peer), verdict);
  }

  /** The header's time is bounded, and so is the number of those that wait for one. */
  #askProxy(accepted: AcceptedClient, proxy: Endpoint): void {
    if (!this.#admission.mayExpect) {
      this.#refuse(accepted, 'connection-limit');
      return;
    }
    const connection = this.#options.open(this, accepted, proxy);
    this.#admission.expect(connection);
    connection.readProxyHeader(this.#rules.proxyProtocol.timeoutMs, () => {
      const verdict = this.#admission.judge(connection.client);
      if (typeof verdict === 'string') connection.close(verdict);
      else this.#admission.enter(connection, verdict);
    });
  }

  #refuse(accepted: AcceptedClient, reason: CloseReason): void {
    this.counters.closed(reason);
    accepted.refuse();
  }
}

/** What the counters say of a listener. @param backends of its pool, by slot */
export function statusOf({
  counters,
  backends,
  ...listener
}: Pick<TcpListenerStatus, 'name' | 'pool' | 'local' | 'isAccepting'> & {
  readonly counters: TcpCounters;
  readonly backends: readonly (BackendEntry | undefined)[];
}): TcpListenerStatus {
  const counts = counters.dump();
  const connectionsByBackend = new Map<string, number>();
  for (const backend of backends) {
    const live = backend === undefined ? 0 : counters.liveOn(backend.slot);
    if (live > 0) connectionsByBackend.set(backend!.id, live);
  }
  return {
    ...listener,
    counts,
    liveConnections: liveIn(counts),
    queuedConnections: counters.queued,
    connectionsByBackend,
  };
}

/** @param error what binding the address failed with */
export function cantListen(name: string, listen: Endpoint, error: unknown): RelayError {
  return new RelayError(
    'TICKRELAY_ERR_BIND',
    `listener "${name}" can't listen on tcp ${listen.toString()}: ${bindFailure(error)}`,
    { cause: error },
  );
}

function bindFailure(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  switch (code) {
    case 'EADDRINUSE':
      return 'something listens there already (EADDRINUSE); end it or choose another port';
    case 'EADDRNOTAVAIL':
      return 'no interface of this machine has that address (EADDRNOTAVAIL); use one that it has, or 0.0.0.0 or [::] for all';
    case 'EACCES':
      return 'this user may not use that port (EACCES); choose one from 1024 up, or grant CAP_NET_BIND_SERVICE';
    default:
      return `${code}; choose an address and port that this machine can bind`;
  }
}
