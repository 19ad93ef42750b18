/** A TCP program for tests: it sends, keeps what it receives, and knows how its connection ended. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Endpoint } from '../../net/address.ts';
import { until } from './until.ts';

export class TcpClient {
  readonly #socket: Socket;
  readonly #chunks: Buffer[] = [];
  #hasEnded = false;
  #failure: string | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => this.#chunks.push(chunk));
    socket.on('end', () => (this.#hasEnded = true));
    socket.on('error', (error: NodeJS.ErrnoException) => (this.#failure = error.code ?? error.message));
  }

  /** Fails as the system does, with `code` ECONNREFUSED for example. */
  static async connect(to: Endpoint, localAddress?: string): Promise<TcpClient> {
    const from = localAddress === undefined ? {} : { localAddress };
    const socket = connect({ host: to.ip.toString(), port: to.port, allowHalfOpen: true, ...from });
    await once(socket, 'connect');
    return new TcpClient(socket);
  }

  get received(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  /** The code of the error that ended it, if one did. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Whether the other side sent its FIN, or the connection failed. */
  get isOver(): boolean {
    return this.#hasEnded || this.#failure !== undefined;
  }

  write(bytes: Uint8Array | string): void {
    this.#socket.write(bytes);
  }

  /** Sends FIN after the last byte; the other side may go on. */
  end(): void {
    this.#socket.end();
  }

  async untilReceived(bytes: number): Promise<Buffer> {
    let total = 0;
    let counted = 0;
    await until(`${bytes} bytes`, () => {
      for (; counted < this.#chunks.length; counted++) total += this.#chunks[counted]!.length;
      return total >= bytes;
    });
    return this.received;
  }

  async untilOver(): Promise<void> {
    await until('the end of the connection', () => this.isOver);
  }

  close(): void {
    this.#socket.destroy();
  }
}

/**
 * Waits until nobody listens any more. Readiness fails first and the listener closes a moment later, so that a client in between
 * may still come in.
 */
export function untilRefused(at: Endpoint): Promise<void> {
  return until('new connections to be refused', () =>
    TcpClient.connect(at).then(
      (late) => {
        late.close();
        return false;
      },
      (error: unknown) => (error as NodeJS.ErrnoException).code === 'ECONNREFUSED',
    ),
  );
}
