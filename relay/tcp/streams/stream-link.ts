/** A client and its backend as two streams of node:net. */
import { connect, type Socket, type TcpNetConnectOpts } from 'node:net';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import type { ProxiedAddresses } from '../proxy-header.ts';
import type { Link, LinkOptions } from '../transport.ts';
import { ReadBuffer } from './read-buffer.ts';
import { bufferedBytes, isHeldUp, reset, STREAM_HIGH_WATER_BYTES, takeProxyHeader } from './stream-ends.ts';

export class StreamLink implements Link {
  downstreamBytes = 0;
  upstreamBytes = 0;
  lastActiveMs: number;
  readonly #options: LinkOptions;
  readonly #client: Socket;
  #backend: Socket | undefined;
  readonly #readBuffer = new ReadBuffer();
  #isPumping = false;
  #openSockets = 1;

  /** @param client paused */
  constructor(client: Socket, options: LinkOptions) {
    this.#client = client;
    this.#options = options;
    this.lastActiveMs = options.now();
    client.on('error', () => options.events.clientFailed());
    client.once('close', () => this.#socketClosed());
  }

  get bufferedBytes(): number {
    return bufferedBytes(this.#client) + bufferedBytes(this.#backend);
  }

  get hasClientEnded(): boolean {
    return this.#client.readableEnded;
  }

  get hasBackendEnded(): boolean {
    return this.#backend?.readableEnded ?? false;
  }

  get local(): Endpoint | undefined {
    const { localAddress, localPort } = this.#client;
    return localAddress === undefined ? undefined : new Endpoint(IpAddress.parse(localAddress), localPort!);
  }

  readProxyHeader(onHeader: (addresses: ProxiedAddresses | undefined | 'malformed') => void): void {
    takeProxyHeader(this.#client, onHeader);
  }

  dial({ ip, port }: Endpoint): void {
    const socket = connect({
      host: ip.toString(),
      port,
      allowHalfOpen: true,
      noDelay: true,
      highWaterMark: STREAM_HIGH_WATER_BYTES,
      onread: {
        buffer: () => this.#readBuffer.target,
        callback: (count: number) => this.#fromBackend(count),
      },
    } as TcpNetConnectOpts);
    this.#backend = socket;
    this.#openSockets++;
    const { events } = this.#options;
    socket.once('connect', () => events.connected());
    socket.once('close', () => this.#socketClosed());
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (socket === this.#backend) events.backendFailed(error.code ?? error.message);
    });
  }

  dropBackend(): void {
    this.#client.pause();
    this.#backend?.destroy();
    this.#backend = undefined;
  }

  join(first: Buffer | undefined): void {
    const backend = this.#backend!;
    if (first !== undefined) backend.write(first);
    this.#pumpFrom(backend);
    if (!this.#isPumping) this.#pumpFromClient();
    this.#isPumping = true;
    this.#client.resume();
  }

  keepBackendAlive(keepAliveMs: number): void {
    this.#backend?.setKeepAlive(keepAliveMs > 0, keepAliveMs);
  }

  reset(): void {
    reset(this.#client);
    reset(this.#backend);
  }

  #pumpFromClient(): void {
    const client = this.#client;
    const { counters, now } = this.#options;
    client.on('data', (chunk: Buffer) => {
      this.lastActiveMs = now();
      this.downstreamBytes += chunk.length;
      counters.downstreamBytes += chunk.length;
      if (isHeldUp(this.#backend!, chunk)) client.pause();
    });
    client.on('drain', () => {
      this.lastActiveMs = now();
      this.#backend!.resume();
    });
    // A client may have sent nothing but a PROXY header and its FIN.
    if (client.readableEnded) this.#backend!.end();
    else client.once('end', () => this.#backend!.end());
  }

  /** Passes on what was read. @returns whether to read on */
  #fromBackend(count: number): boolean {
    const { counters, now } = this.#options;
    this.lastActiveMs = now();
    this.upstreamBytes += count;
    counters.upstreamBytes += count;
    const client = this.#client;
    const mayGoOn = !isHeldUp(client, this.#readBuffer.take(count));
    this.#readBuffer.settle(count, mayGoOn && client.writableLength > 0);
    return mayGoOn;
  }

  #pumpFrom(backend: Socket): void {
    const client = this.#client;
    const { now } = this.#options;
    // A drain is activity too: a slow reader may take minutes over what is buffered for it.
    backend.on('drain', () => {
      this.lastActiveMs = now();
      client.resume();
    });
    backend.once('end', () => client.end());
  }

  #socketClosed(): void {
    if (--this.#openSockets === 0) this.#options.events.closed();
  }
}
