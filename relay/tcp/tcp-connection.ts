/**
 * One client's connection and the one opened for it towards a backend, joined byte for byte.
 *
 *   1. connecting: the client's socket is paused, so that its early bytes wait in the system. A backend that can't be
 *      reached is replaced once by another ready one, which is safe because no byte has been read yet.
 *   2. established: bytes flow both ways. A side that can't take more pauses the other one's reading, which fills
 *      the system's window and stops the sender.
 *   3. half-closed: a FIN was passed on after the last byte; the other direction goes on.
 *   4. closed: both sides ended, or one failed and the other was reset. The connection leaves the table when all of its
 *      descriptors are back with the system.
 */
import type { Socket, TcpNetConnectOpts } from 'node:net';
import type { Endpoint } from '../../net/address.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import type { CloseReason } from './close-reason.ts';
import type { TcpCounters } from './tcp-counters.ts';
import type { TcpPool } from './tcp-pool.ts';

export type TcpConnectionState =
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
  readonly backend: string;
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
}

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
  /** Acquired from the pool; the connection releases it. */
  readonly backend: BackendEntry;
  readonly pool: TcpPool;
  /** Of the client's address. */
  readonly hash: number;
  readonly connect: Connect;
  readonly now: () => number;
  /** Called once, when every descriptor is closed. */
  readonly onClosed: (connection: TcpConnection, reason: CloseReason) => void;
}

/** Bytes at which a stream asks its source to wait; docs/tcp.md derives the memory bound from it. */
export const STREAM_HIGH_WATER_BYTES = 16 * 1024;

export class TcpConnection {
  readonly id: number;
  readonly client: Endpoint;
  readonly #options: TcpConnectionOptions;
  readonly #clientSocket: Socket;
  #backend: BackendEntry;
  #backendSocket: Socket | undefined;
  #connectTimer: NodeJS.Timeout | undefined;
  #isEstablished = false;
  #isRetry = false;
  #openSockets = 1;
  #reason: CloseReason | undefined;
  readonly #openedAtMs: number;
  #lastActiveMs: number;
  #downstreamBytes = 0;
  #upstreamBytes = 0;

  constructor(options: TcpConnectionOptions) {
    this.id = options.id;
    this.client = options.client;
    this.#options = options;
    this.#clientSocket = options.clientSocket;
    this.#backend = options.backend;
    this.#openedAtMs = this.#lastActiveMs = options.now();
    this.#clientSocket.on('error', () => this.close('client-reset'));
    this.#clientSocket.once('close', () => this.#socketClosed());
    this.#connect();
  }

  get listener(): string {
    return this.#options.listener.name;
  }

  get pool(): string {
    return this.#options.pool.name;
  }

  get backend(): BackendEntry {
    return this.#backend;
  }

  get state(): TcpConnectionState {
    if (this.#reason !== undefined) return 'closing';
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
      backend: this.#backend.id,
      state: this.state,
      ageMs: Math.round(nowMs - this.#openedAtMs),
      idleMs: Math.round(nowMs - this.#lastActiveMs),
      downstreamBytes: this.#downstreamBytes,
      upstreamBytes: this.#upstreamBytes,
      bufferedBytes: bufferedBytes(this.#clientSocket) + bufferedBytes(this.#backendSocket),
    };
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
    clearTimeout(this.#connectTimer);
    reset(this.#clientSocket);
    reset(this.#backendSocket);
  }

  #connect(): void {
    const { connect, listener } = this.#options;
    const { ip, port } = this.#backend.endpoint;
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
    this.#connectTimer = setTimeout(() => this.#connectFailed('connect-timeout'), connectTimeoutMs);
    socket.once('connect', () => this.#establish(socket));
    socket.once('close', () => this.#socketClosed());
    socket.on('error', () => {
      if (socket !== this.#backendSocket) return;
      if (this.#isEstablished) this.close('backend-reset');
      else this.#connectFailed('connect-failed');
    });
  }

  #connectFailed(reason: CloseReason): void {
    if (this.#reason !== undefined) return;
    const { pool, hash, listener } = this.#options;
    const other = this.#isRetry ? undefined : pool.acquireOther(this.#backend, hash);
    if (other === undefined) {
      this.close(reason);
      return;
    }
    clearTimeout(this.#connectTimer);
    this.#backendSocket!.destroy();
    pool.release(this.#backend);
    this.#backend = other;
    this.#isRetry = true;
    listener.counters.retried++;
    this.#connect();
  }

  #establish(backendSocket: Socket): void {
    clearTimeout(this.#connectTimer);
    this.#isEstablished = true;
    this.#lastActiveMs = this.#options.now();
    const clientSocket = this.#clientSocket;
    const { counters } = this.#options.listener;
    const { now } = this.#options;

    clientSocket.on('data', (chunk: Buffer) => {
      this.#lastActiveMs = now();
      this.#downstreamBytes += chunk.length;
      counters.downstreamBytes += chunk.length;
      if (!backendSocket.write(chunk)) clientSocket.pause();
    });
    backendSocket.on('data', (chunk: Buffer) => {
      this.#lastActiveMs = now();
      this.#upstreamBytes += chunk.length;
      counters.upstreamBytes += chunk.length;
      if (!clientSocket.write(chunk)) backendSocket.pause();
    });
    // A drain is activity too: a slow reader may take minutes over what is buffered for it.
    backendSocket.on('drain', () => {
      this.#lastActiveMs = now();
      clientSocket.resume();
    });
    clientSocket.on('drain', () => {
      this.#lastActiveMs = now();
      backendSocket.resume();
    });
    clientSocket.once('end', () => backendSocket.end());
    backendSocket.once('end', () => clientSocket.end());
    clientSocket.resume();
  }

  #socketClosed(): void {
    if (--this.#openSockets > 0) return;
    this.#options.pool.release(this.#backend);
    this.#options.onClosed(this, this.#reason ?? 'completed');
  }
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
