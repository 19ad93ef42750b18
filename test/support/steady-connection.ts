/** TCP connections under load that account for every byte, through whatever happens to their relay. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Endpoint } from '../../net/address.ts';
import { until } from './until.ts';

export const MESSAGE_BYTES = 2_000;

/** A connection that is hardly ever silent: as soon as a message is back whole and unchanged, or a pause after that, the next one goes. */
export class SteadyConnection {
  exchanged = 0;
  failure: string | undefined;
  readonly #socket: Socket;
  readonly #pauseMs: number;
  readonly #message = Buffer.alloc(MESSAGE_BYTES);
  #received = 0;

  private constructor(socket: Socket, pauseMs: number) {
    this.#socket = socket;
    this.#pauseMs = pauseMs;
    socket.on('data', (bytes) => this.#receive(bytes));
    socket.on('error', (error: NodeJS.ErrnoException) => (this.failure = error.code ?? error.message));
    socket.on('end', () => (this.failure ??= 'ended'));
    this.#send();
  }

  static async open({ ip, port }: Endpoint, { pauseMs = 0 } = {}): Promise<SteadyConnection> {
    const socket = connect({ host: ip.toString(), port });
    await once(socket, 'connect');
    return new SteadyConnection(socket, pauseMs);
  }

  close(): void {
    this.#socket.destroy();
  }

  #send(): void {
    this.#message.fill(`${this.exchanged};`);
    this.#received = 0;
    this.#socket.write(Buffer.from(this.#message));
  }

  #receive(bytes: Buffer): void {
    const wanted = this.#message.subarray(this.#received, this.#received + bytes.length);
    if (!wanted.equals(bytes)) this.failure ??= 'other bytes came back';
    this.#received += bytes.length;
    if (this.#received < MESSAGE_BYTES) return;
    this.exchanged++;
    if (this.#pauseMs === 0) this.#send();
    else setTimeout(() => this.#send(), this.#pauseMs);
  }
}

/** Waits until each connection has exchanged so many more messages, or failed. */
export async function exchangeMore(connections: readonly SteadyConnection[], count = 20): Promise<void> {
  const wanted = connections.map(({ exchanged }) => exchanged + count);
  await until(`${count} exchanges on each connection`, () =>
    connections.every(({ exchanged, failure }, i) => exchanged >= wanted[i]! || failure !== undefined),
  );
}
