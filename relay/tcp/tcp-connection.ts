/**
 * One client's connection and the one opened for it towards a backend, joined byte for byte.
 *
 *   1. proxy-header, where a trusted proxy connects: it says who the client is before anything else.
 *   2. queued, where a limit is reached and the listener lets clients wait: its early bytes wait in
 *      the system.
 *   3. connecting: a backend is dialled; the client still waits. A backend that can't be reached, or that resets before
 *      a byte went either way, is replaced once by another ready one: nothing can have been sent twice.
 *   4. established: bytes flow both ways. A side that can't take more pauses the other one's reading, which fills
 *      the system's window and stops the sender.
 *   5. half-closed: a FIN was passed on after the last byte; the other direction goes on.
 *   6. closed: both sides ended, or one failed and the other was reset. The connection leaves the table when all of its
 *      descriptors are back with the system.
 */
import type { Endpoint } from '../../net/address.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import type { CloseReason } from '../core/close-reason.ts';
import type { AdmissionEntry } from './admission.ts';
import { writeProxyHeader } from './proxy-header.ts';
import type { TcpConnectionState, TcpConnectionView } from './tcp-connection-view.ts';
import type { TcpCounters } from './tcp-counters.ts';
import type { TcpChoice, TcpPool } from './tcp-pool.ts';
import type { TcpConnectionRules } from './tcp-rules.ts';
import type { AcceptedClient, Link, LinkEvents, TcpTransport } from './transport.ts';

/** The system's code for why a backend could not be reached, or `ETIMEDOUT`; undefined when it could. */
export type ConnectOutcome = (backend: BackendEntry, failure: string | undefined) => void;

/** What all connections of a listener share. */
export interface TcpConnectionHost {
  readonly listener: {
    readonly name: string;
    readonly rules: TcpConnectionRules;
    readonly counters: TcpCounters;
  };
  readonly pool: TcpPool;
  readonly transport: Pick<TcpTransport, 'after'>;
  readonly now: () => number;
  readonly onConnectOutcome: ConnectOutcome;
  /**
   * A backend could not be reached, or was lost before a byte, and another is about to be dialled: at once, or when what this
   * returns resolves.
   */
  readonly onRetry: (
    connection: TcpConnection,
    failed: BackendEntry,
    other: BackendEntry,
  ) => Promise<unknown> | undefined;
  /** Called once, when every descriptor is closed. */
  readonly onClosed: (connection: TcpConnection, reason: CloseReason) => void;
}

export interface TcpConnectionOptions {
  readonly id: number;
  readonly accepted: AcceptedClient;
  readonly client: Endpoint;
}

/** Codes that speak of the backend. Others, such as EMFILE, speak of the relay's own machine. */
const BACKEND_FAULTS = new Set(['ECONNREFUSED', 'ECONNRESET', 'ETIMEDOUT', 'EHOSTUNREACH', 'EHOSTDOWN']);

const NO_TIMER = (): void => undefined;

export class TcpConnection implements LinkEvents {
  readonly id: number;
  /** What it holds on to at its listener's admission, which alone changes it; undefined before and after. */
  entry: AdmissionEntry | undefined;
  readonly #host: TcpConnectionHost;
  #client: Endpoint;
  /** What the client contacted, where a proxy says so. */
  #destination: Endpoint | undefined;
  readonly #link: Link;
  /** Acquired from the pool, and released when the connection is closed. */
  #backend: BackendEntry | undefined;
  #hash = 0;
  /** Ends the wait, or the attempt to connect, before its time is over. */
  #cancelTimer = NO_TIMER;
  #isReadingHeader = false;
  #isEstablished = false;
  #isWatched = false;
  #isRetry = false;
  #reason: CloseReason | undefined;
  readonly #openedAtMs: number;

  constructor(host: TcpConnectionHost, { id, accepted, client }: TcpConnectionOptions) {
    const { listener, now } = host;
    this.id = id;
    this.#client = client;
    this.#host = host;
    this.#openedAtMs = now();
    this.#link = accepted.open({ events: this, counters: listener.counters, now });
  }

  get listener(): string {
    return this.#host.listener.name;
  }

  get client(): Endpoint {
    return this.#client;
  }

  get pool(): string {
    return this.#host.pool.name;
  }

  get backend(): BackendEntry | undefined {
    return this.#backend;
  }

  get state(): TcpConnectionState {
    if (this.#reason !== undefined) return 'closing';
    if (this.#isReadingHeader) return 'proxy-header';
    if (this.#backend === undefined) return 'queued';
    if (!this.#isEstablished) return 'connecting';
    const { hasClientEnded, hasBackendEnded } = this.#link;
    if (hasClientEnded && hasBackendEnded) return 'closing';
    if (hasClientEnded) return 'client-ended';
    return hasBackendEnded ? 'backend-ended' : 'established';
  }

  view(nowMs: number): TcpConnectionView {
    const { lastActiveMs, downstreamBytes, upstreamBytes, bufferedBytes } = this.#link;
    return {
      id: this.id,
      listener: this.listener,
      client: this.client.toString(),
      backend: this.#backend?.id,
      state: this.state,
      ageMs: Math.round(nowMs - this.#openedAtMs),
      idleMs: Math.round(nowMs - lastActiveMs),
      downstreamBytes,
      upstreamBytes,
      bufferedBytes,
    };
  }

  /**
   * The first bytes are a PROXY header. What follows it stays in the socket.
   *
   * @param onRead `client` is the client that the header names, or the proxy itself
   */
  readProxyHeader(timeoutMs: number, onRead: () => void): void {
    this.#isReadingHeader = true;
    this.#setTimer(timeoutMs, () => this.close('proxy-header-timeout'));
    this.#link.readProxyHeader((addresses) => {
      if (this.#reason !== undefined) return;
      if (addresses === 'malformed') {
        this.close('bad-proxy-header');
        return;
      }
      this.#cancelTimer();
      this.#isReadingHeader = false;
      this.#client = addresses?.client ?? this.#client;
      this.#destination = addresses?.destination;
      onRead();
    });
  }

  /** The client waits; `connectTo` ends it, or the time does. */
  waitFor(timeoutMs: number): void {
    this.#setTimer(timeoutMs, () => this.close('queue-timeout'));
  }

  /**
   * Dials the backend and joins it with the client.
   *
   * @param backend acquired from the pool; the connection releases it
   * @param hash of the client's address
   */
  connectTo(backend: BackendEntry, hash: number): void {
    this.#cancelTimer();
    this.#take(backend);
    this.#hash = hash;
    this.#connect(backend);
  }

  /**
   * The backend may not be used any more. A connection that has not forwarded a byte tries another; one that both sides
   * have ended still delivers its last bytes.
   */
  backendLost(): void {
    if (this.state === 'closing') return;
    if (this.#isEstablished) this.close('backend-unusable');
    else this.#connectFailed('backend-unusable');
  }

  /** Now and then: ends it if it is idle, and has the system watch over the backend, which most connections are too short for. */
  tend(nowMs: number): void {
    const { idleTimeoutMs, keepAliveMs } = this.#host.listener.rules;
    if (nowMs - this.#link.lastActiveMs >= idleTimeoutMs) this.close('idle-timeout');
    else if (this.#isEstablished && !this.#isWatched) {
      this.#isWatched = true;
      this.#link.keepBackendAlive(keepAliveMs);
    }
  }

  /** Resets both sides. The first reason counts. */
  close(reason: CloseReason): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#cancelTimer();
    this.#link.reset();
  }

  connected(): void {
    if (this.#reason !== undefined) return;
    this.#cancelTimer();
    const { onConnectOutcome, now } = this.#host;
    onConnectOutcome(this.#backend!, undefined);
    this.#isEstablished = true;
    this.#link.lastActiveMs = now();
    this.#link.join(this.#proxyHeader());
  }

  backendFailed(code: string): void {
    if (!this.#isEstablished) this.#connectFailed('connect-failed', code);
    else if (this.#isUntouched) this.#connectFailed('backend-reset', code);
    else this.close('backend-reset');
  }

  clientFailed(): void {
    this.close('client-reset');
  }

  closed(): void {
    if (this.#backend !== undefined) this.#release(this.#backend);
    this.#host.onClosed(this, this.#reason ?? 'completed');
  }

  #connect({ endpoint }: BackendEntry): void {
    const { connectTimeoutMs } = this.#host.listener.rules;
    this.#setTimer(connectTimeoutMs, () => this.#connectFailed('connect-timeout', 'ETIMEDOUT'));
    this.#link.dial(endpoint);
  }

  /** Whether nothing was passed on, neither byte nor FIN, so that another backend would make no difference. */
  get #isUntouched(): boolean {
    const { downstreamBytes, upstreamBytes, hasClientEnded, hasBackendEnded } = this.#link;
    return downstreamBytes + upstreamBytes === 0 && !hasClientEnded && !hasBackendEnded;
  }

  #connectFailed(reason: CloseReason, code?: string): void {
    if (this.#reason !== undefined) return;
    const { pool, listener, onConnectOutcome, onRetry } = this.#host;
    const failed = this.#backend!;
    if (code !== undefined && BACKEND_FAULTS.has(code)) onConnectOutcome(failed, code);
    const other = this.#isRetry ? undefined : pool.acquireOther(failed, this.#choice());
    if (other === undefined) {
      this.close(reason);
      return;
    }
    this.#cancelTimer();
    this.#isEstablished = this.#isWatched = false;
    this.#link.dropBackend();
    this.#release(failed);
    this.#take(other);
    this.#isRetry = true;
    listener.counters.retry();
    const ready = onRetry(this, failed, other);
    if (ready === undefined) this.#connect(other);
    else void ready.then(() => this.#reason === undefined && this.#connect(other));
  }

  #take(backend: BackendEntry): void {
    this.#backend = backend;
    this.#host.listener.counters.assigned(backend.slot, 1);
  }

  #release(backend: BackendEntry): void {
    this.#host.listener.counters.assigned(backend.slot, -1);
    this.#host.pool.release(backend);
  }

  #choice(): TcpChoice {
    const { slowStartMs } = this.#host.listener.rules;
    return { algorithm: 'least-connections', hash: this.#hash, slowStartMs, nowMs: this.#host.now() };
  }

  #proxyHeader(): Buffer | undefined {
    const { send } = this.#host.listener.rules.proxyProtocol;
    if (send === 'none') return undefined;
    const destination = this.#destination ?? this.#link.local;
    return destination && writeProxyHeader(send, { client: this.#client, destination });
  }

  #setTimer(delayMs: number, run: () => void): void {
    this.#cancelTimer = this.#host.transport.after(delayMs, run);
  }
}
