/**
 * One client's connection and the one opened for it towards a backend, joined byte for byte.
 *
 *   1. proxy-header, where a trusted proxy connects: it says who the client is before anything else.
 *   2. queued, where a limit is reached and the listener lets clients wait: the client's socket is paused, so that its
 *      early bytes wait in the system.
 *   3. connecting: a backend is dialled; the client still waits. A backend that can't be reached, or that resets before
 *      a byte went either way, is replaced once by another ready one: nothing can have been sent twice.
 *   4. established: bytes flow both ways. A side that can't take more pauses the other one's reading, which fills
 *      the system's window and stops the sender.
 *   5. half-closed: a FIN was passed on after the last byte; the other direction goes on.
 *   6. closed: both sides ended, or one failed and the other was reset. The connection leaves the table when all of its
 *      descriptors are back with the system.
 */
import type { Socket, TcpNetConnectOpts } from 'node:net';
import { Endpoint, IpAddress } from '../../net/address.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import type { CloseReason } from './close-reason.ts';
import { writeProxyHeader } from './proxy-header.ts';
import { ReadBuffer } from './read-buffer.ts';
import { bufferedBytes, isHeldUp, reset, STREAM_HIGH_WATER_BYTES, takeProxyHeader } from './stream-ends.ts';
import type { TcpConnectionState, TcpConnectionView } from './tcp-connection-view.ts';
import type { TcpCounters } from './tcp-counters.ts';
import type { TcpChoice, TcpPool } from './tcp-pool.ts';
import type { TcpConnectionRules } from './tcp-rules.ts';

/** How a socket towards a backend is opened; `node:net`'s connect, unless a test stands in. */
export type Connect = (options: TcpNetConnectOpts) => Socket;

/** The system's code for why a backend could not be reached, or `ETIMEDOUT`; undefined when it could. */
export type ConnectOutcome = (backend: BackendEntry, failure: string | undefined) => void;

export interface TcpConnectionOptions {
  readonly id: number;
  readonly listener: {
    readonly name: string;
    readonly rules: TcpConnectionRules;
    readonly counters: TcpCounters;
  };
  /** Paused. */
  readonly clientSocket: Socket;
  readonly client: Endpoint;
  readonly pool: TcpPool;
  readonly connect: Connect;
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

/** Codes that speak of the backend. Others, such as EMFILE, speak of the relay's own machine. */
const BACKEND_FAULTS = new Set(['ECONNREFUSED', 'ECONNRESET', 'ETIMEDOUT', 'EHOSTUNREACH', 'EHOSTDOWN']);

export class TcpConnection {
  readonly id: number;
  readonly #options: TcpConnectionOptions;
  #client: Endpoint;
  /** What the client contacted, where a proxy says so. */
  #destination: Endpoint | undefined;
  readonly #clientSocket: Socket;
  /** Acquired from the pool, and released when the connection is closed. */
  #backend: BackendEntry | undefined;
  #backendSocket: Socket | undefined;
  readonly #readBuffer = new ReadBuffer();
  #hash = 0;
  /** Of the wait or of the attempt to connect. */
  #timer: NodeJS.Timeout | undefined;
  #isReadingHeader = false;
  #isEstablished = false;
  #isPumping = false;
  #isRetry = false;
  #openSockets = 1;
  #reason: CloseReason | undefined;
  readonly #openedAtMs: number;
  #lastActiveMs: number;
  #downstreamBytes = 0;
  #upstreamBytes = 0;

  constructor(options: TcpConnectionOptions) {
    this.id = options.id;
    this.#client = options.client;
    this.#options = options;
    this.#clientSocket = options.clientSocket;
    this.#openedAtMs = this.#lastActiveMs = options.now();
    this.#clientSocket.on('error', () => this.close('client-reset'));
    this.#clientSocket.once('close', () => this.#socketClosed());
  }

  get listener(): string {
    return this.#options.listener.name;
  }

  get client(): Endpoint {
    return this.#client;
  }

  get pool(): string {
    return this.#options.pool.name;
  }

  get backend(): BackendEntry | undefined {
    return this.#backend;
  }

  get state(): TcpConnectionState {
    if (this.#reason !== undefined) return 'closing';
    if (this.#isReadingHeader) return 'proxy-header';
    if (this.#backend === undefined) return 'queued';
    if (!this.#isEstablished) return 'connecting';
    const clientEnded = this.#clientSocket.readableEnded;
    const backendEnded = this.#backendSocket!.readableEnded;
    if (clientEnded && backendEnded) return 'closing';
    if (clientEnded) return 'client-ended';
    return backendEnded ? 'backend-ended' : 'established';
  }

  view(nowMs: number): TcpConnectionView {
    return {
      id: this.id,
      listener: this.listener,
      client: this.client.toString(),
      backend: this.#backend?.id,
      state: this.state,
      ageMs: Math.round(nowMs - this.#openedAtMs),
      idleMs: Math.round(nowMs - this.#lastActiveMs),
      downstreamBytes: this.#downstreamBytes,
      upstreamBytes: this.#upstreamBytes,
      bufferedBytes: bufferedBytes(this.#clientSocket) + bufferedBytes(this.#backendSocket),
    };
  }

  /**
   * The first bytes are a PROXY header. What follows it stays in the socket.
   *
   * @param onRead `client` is the client that the header names, or the proxy itself
   */
  readProxyHeader(timeoutMs: number, onRead: () => void): void {
    this.#isReadingHeader = true;
    this.#timer = setTimeout(() => this.close('proxy-header-timeout'), timeoutMs);
    takeProxyHeader(this.#clientSocket, (addresses) => {
      if (this.#reason !== undefined) return;
      if (addresses === 'malformed') {
        this.close('bad-proxy-header');
        return;
      }
      clearTimeout(this.#timer);
      this.#isReadingHeader = false;
      this.#client = addresses?.client ?? this.#client;
      this.#destination = addresses?.destination;
      onRead();
    });
  }

  /** The client waits; `connectTo` ends it, or the time does. */
  waitFor(timeoutMs: number): void {
    this.#timer = setTimeout(() => this.close('queue-timeout'), timeoutMs);
  }

  /**
   * Dials the backend and joins it with the client.
   *
   * @param backend acquired from the pool; the connection releases it
   * @param hash of the client's address
   */
  connectTo(backend: BackendEntry, hash: number): void {
    clearTimeout(this.#timer);
    this.#backend = backend;
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

  closeIfIdle(nowMs: number): void {
    if (nowMs - this.#lastActiveMs >= this.#options.listener.rules.idleTimeoutMs) this.close('idle-timeout');
  }

  /** Resets both sides. The first reason counts. */
  close(reason: CloseReason): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    clearTimeout(this.#timer);
    reset(this.#clientSocket);
    reset(this.#backendSocket);
  }

  #connect({ endpoint: { ip, port } }: BackendEntry): void {
    const { connect, listener } = this.#options;
    const { connectTimeoutMs, keepAliveMs } = listener.rules;
    const socket = connect({
      host: ip.toString(),
      port,
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: keepAliveMs > 0,
      keepAliveInitialDelay: keepAliveMs,
      highWaterMark: STREAM_HIGH_WATER_BYTES,
      onread: {
        buffer: () => this.#readBuffer.target,
        callback: (count: number) => this.#fromBackend(count),
      },
    } as TcpNetConnectOpts);
    this.#backendSocket = socket;
    this.#openSockets++;
    this.#timer = setTimeout(() => this.#connectFailed('connect-timeout', 'ETIMEDOUT'), connectTimeoutMs);
    socket.once('connect', () => this.#establish(socket));
    socket.once('close', () => this.#socketClosed());
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (socket !== this.#backendSocket) return;
      if (!this.#isEstablished) this.#connectFailed('connect-failed', error.code);
      else if (this.#isUntouched) this.#connectFailed('backend-reset', error.code);
      else this.close('backend-reset');
    });
  }

  /** Whether nothing was passed on, neither byte nor FIN, so that another backend would make no difference. */
  get #isUntouched(): boolean {
    return this.#downstreamBytes + this.#upstreamBytes === 0 && !this.#clientSocket.readableEnded;
  }

  #connectFailed(reason: CloseReason, code?: string): void {
    if (this.#reason !== undefined) return;
    const { pool, listener, onConnectOutcome, onRetry } = this.#options;
    const failed = this.#backend!;
    if (code !== undefined && BACKEND_FAULTS.has(code)) onConnectOutcome(failed, code);
    const other = this.#isRetry ? undefined : pool.acquireOther(failed, this.#choice());
    if (other === undefined) {
      this.close(reason);
      return;
    }
    clearTimeout(this.#timer);
    this.#isEstablished = false;
    this.#clientSocket.pause();
    this.#backendSocket!.destroy();
    pool.release(failed);
    this.#backend = other;
    this.#isRetry = true;
    listener.counters.retried++;
    const ready = onRetry(this, failed, other);
    if (ready === undefined) this.#connect(other);
    else void ready.then(() => this.#reason === undefined && this.#connect(other));
  }

  #choice(): TcpChoice {
    const { slowStartMs } = this.#options.listener.rules;
    return { algorithm: 'least-connections', hash: this.#hash, slowStartMs, nowMs: this.#options.now() };
  }

  #establish(backendSocket: Socket): void {
    clearTimeout(this.#timer);
    const { onConnectOutcome, now } = this.#options;
    onConnectOutcome(this.#backend!, undefined);
    this.#isEstablished = true;
    this.#lastActiveMs = now();
    const clientSocket = this.#clientSocket;
    this.#sendProxyHeader(backendSocket);
    this.#pumpFrom(backendSocket);
    if (!this.#isPumping) this.#pumpFromClient();
    this.#isPumping = true;
    clientSocket.resume();
  }

  #sendProxyHeader(backendSocket: Socket): void {
    const { send } = this.#options.listener.rules.proxyProtocol;
    const { localAddress, localPort } = this.#clientSocket;
    if (send === 'none' || localAddress === undefined) return;
    const destination = this.#destination ?? new Endpoint(IpAddress.parse(localAddress), localPort!);
    backendSocket.write(writeProxyHeader(send, { client: this.#client, destination }));
  }

  #pumpFromClient(): void {
    const clientSocket = this.#clientSocket;
    const { counters } = this.#options.listener;
    const { now } = this.#options;
    clientSocket.on('data', (chunk: Buffer) => {
      this.#lastActiveMs = now();
      this.#downstreamBytes += chunk.length;
      counters.downstreamBytes += chunk.length;
      if (isHeldUp(this.#backendSocket!, chunk)) clientSocket.pause();
    });
    clientSocket.on('drain', () => {
      this.#lastActiveMs = now();
      this.#backendSocket!.resume();
    });
    // A client may have sent nothing but a PROXY header and its FIN.
    if (clientSocket.readableEnded) this.#backendSocket!.end();
    else clientSocket.once('end', () => this.#backendSocket!.end());
  }

  /** Passes on what was read. @returns whether to read on */
  #fromBackend(count: number): boolean {
    const { listener, now } = this.#options;
    this.#lastActiveMs = now();
    this.#upstreamBytes += count;
    listener.counters.upstreamBytes += count;
    const clientSocket = this.#clientSocket;
    const mayGoOn = !isHeldUp(clientSocket, this.#readBuffer.take(count));
    this.#readBuffer.settle(count, mayGoOn && clientSocket.writableLength > 0);
    return mayGoOn;
  }

  #pumpFrom(backendSocket: Socket): void {
    const clientSocket = this.#clientSocket;
    const { now } = this.#options;
    // A drain is activity too: a slow reader may take minutes over what is buffered for it.
    backendSocket.on('drain', () => {
      this.#lastActiveMs = now();
      clientSocket.resume();
    });
    backendSocket.once('end', () => clientSocket.end());
  }

  #socketClosed(): void {
    if (--this.#openSockets > 0) return;
    if (this.#backend !== undefined) this.#options.pool.release(this.#backend);
    this.#options.onClosed(this, this.#reason ?? 'completed');
  }
}
