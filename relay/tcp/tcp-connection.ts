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
import { readProxyHeader, writeProxyHeader, type ProxyVersion } from './proxy-header.ts';
import type { TcpCounters } from './tcp-counters.ts';
import type { TcpChoice, TcpPool } from './tcp-pool.ts';

export type TcpConnectionState =
  /** A trusted proxy is to say who the client is. */
  | 'proxy-header'
  /** Waits for a limit. */
  | 'queued'
  | 'connecting'
  | 'established'
  /** The client sent its FIN; the backend may go on. */
  | 'client-ended'
  /** The backend sent its FIN; the client may go on. */
  | 'backend-ended'
  /** Both ended or the connection was cut; the last bytes are on their way, or the descriptors are being closed. */
  | 'closing';

/** One live connection, as the admin API lists it. */
export interface TcpConnectionView {
  readonly id: number;
  readonly listener: string;
  readonly client: string;
  /** Id; undefined until one is chosen. */
  readonly backend: string | undefined;
  readonly state: TcpConnectionState;
  readonly ageMs: number;
  /** Time since a byte last moved, in either direction. */
  readonly idleMs: number;
  /** Bytes read from the client. */
  readonly downstreamBytes: number;
  /** Bytes read from the backend. */
  readonly upstreamBytes: number;
  /** Bytes read and not yet taken by the system of the other side, both directions together. */
  readonly bufferedBytes: number;
}

/** How a socket towards a backend is opened; `node:net`'s connect, unless a test stands in. */
export type Connect = (options: TcpNetConnectOpts) => Socket;

/** What a connection obeys; its listener may change the values while it lives. */
export interface TcpConnectionRules {
  /** For each of at most two attempts. */
  readonly connectTimeoutMs: number;
  /** Time without a byte in either direction after which a connection ends. */
  readonly idleTimeoutMs: number;
  /** Silence before the system probes whether the other end is still there; 0 means never. */
  readonly keepAliveMs: number;
  /** How long a backend takes from coming up to its whole share of new connections. */
  readonly slowStartMs: number;
  /** The PROXY header that a backend gets before the client's bytes. */
  readonly proxyProtocol: { readonly send: ProxyVersion | 'none' };
}

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
  /** Called once, when every descriptor is closed. */
  readonly onClosed: (connection: TcpConnection, reason: CloseReason) => void;
}

/** Codes that speak of the backend. Others, such as EMFILE, speak of the relay's own machine. */
const BACKEND_FAULTS = new Set(['ECONNREFUSED', 'ECONNRESET', 'ETIMEDOUT', 'EHOSTUNREACH', 'EHOSTDOWN']);

/** Bytes at which a stream asks its source to wait; docs/tcp.md derives the memory bound from it. */
export const STREAM_HIGH_WATER_BYTES = 16 * 1024;

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
    const socket = this.#clientSocket;
    this.#isReadingHeader = true;
    this.#timer = setTimeout(() => this.close('proxy-header-timeout'), timeoutMs);
    let bytes = Buffer.alloc(0);
    const onEnd = () => this.close('bad-proxy-header');
    const onReadable = () => {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null || this.#reason !== undefined) return;
      bytes = Buffer.concat([bytes, chunk]);
      const header = readProxyHeader(bytes);
      if (header === 'incomplete') return;
      if (header === 'malformed') {
        this.close('bad-proxy-header');
        return;
      }
      clearTimeout(this.#timer);
      socket.off('readable', onReadable).off('end', onEnd);
      if (header.length < bytes.length) socket.unshift(bytes.subarray(header.length));
      this.#isReadingHeader = false;
      this.#client = header.addresses?.client ?? this.#client;
      this.#destination = header.addresses?.destination;
      onRead();
    };
    socket.on('readable', onReadable).once('end', onEnd);
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
    const { pool, listener, onConnectOutcome } = this.#options;
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
    this.#connect(other);
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

  #pumpFrom(backendSocket: Socket): void {
    const clientSocket = this.#clientSocket;
    const { counters } = this.#options.listener;
    const { now } = this.#options;
    backendSocket.on('data', (chunk: Buffer) => {
      this.#lastActiveMs = now();
      this.#upstreamBytes += chunk.length;
      counters.upstreamBytes += chunk.length;
      if (isHeldUp(clientSocket, chunk)) backendSocket.pause();
    });
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

/** Writes. @returns whether so much waits now that the source must; what the system took at once does not wait */
function isHeldUp(socket: Socket, chunk: Buffer): boolean {
  return !socket.write(chunk) && socket.writableLength > 0;
}

function bufferedBytes(socket: Socket | undefined): number {
  return socket === undefined ? 0 : socket.readableLength + socket.writableLength;
}

/**
 * Closes a socket so that its peer sees RST, never a FIN after only a part of the bytes. Where the last byte is out and
 * the FIN on its way, Node can't reset any more and need not: the peer has everything.
 */
export function reset(socket: Socket | undefined): void {
  if (socket === undefined || socket.destroyed) return;
  const isFinishing = socket.writableEnded && !socket.writableFinished && socket.writableLength === 0;
  if (socket.connecting || isFinishing) socket.destroy();
  else socket.resetAndDestroy();
}
