/**
 * The portable socket: the DatagramSocket contract over node:dgram. It runs wherever Node does, and reports batches of
 * one, since node:dgram hands over one datagram at a time.
 *
 * node:dgram speaks of addresses as text and looks each one up by name; the lookup here answers at once with the text
 * itself, which also makes binding synchronous.
 *
 * It does not say which local address a datagram was sent to, so a socket on a wildcard address answers from the one that the
 * route picks. It does say the zone of a link-local remote; the paths of this socket are the zones.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { Endpoint, formatWords, IpAddress, isV4Words, parseIntoWords } from './address.ts';
import {
  DatagramBatch,
  type DatagramSocket,
  type DatagramSocketOptions,
  DEFAULT_SEND_QUEUE_LIMIT,
  DEFAULT_SOCKET_BUFFER_BYTES,
  MAX_PATH,
} from './datagram-socket.ts';
import { bindError } from './bind-error.ts';

/** Linux reports twice what it was asked for: the other half is for its own bookkeeping (socket(7), SO_RCVBUF). */
const KERNEL_SHARE = process.platform === 'linux' ? 2 : 1;

type LookupCallback = (error: Error | null, address: string, family: number) => void;

/** Opens a node:dgram socket. @throws RelayError TICKRELAY_ERR_BIND when the address can't be had. */
export function openDgramSocket(options: DatagramSocketOptions): DatagramSocket {
  return new DgramSocket(options);
}

class DgramSocket implements DatagramSocket {
  readonly local: Endpoint;
  receiveBufferBytes: number;
  readonly #socket: Socket;
  readonly #isV4: boolean;
  readonly #received = new DatagramBatch(1);
  readonly #onReceive: (batch: DatagramBatch) => void;
  readonly #onSendDone: (error: Error | null, bytes: number) => void;
  readonly #sendQueueLimit: number;
  /** By path: `%eth0`. */
  readonly #zones = [''];
  readonly #tellPaths: boolean;
  #queued = 0;
  #closed: Promise<void> | undefined;

  constructor(options: DatagramSocketOptions) {
    const { local, onReceive, onSent, onError } = options;
    this.#isV4 = local.ip.isV4;
    this.#onReceive = onReceive;
    this.#tellPaths = options.tellPaths ?? false;
    this.#sendQueueLimit = options.sendQueueLimit ?? DEFAULT_SEND_QUEUE_LIMIT;
    this.#onSendDone = (error, bytes) => {
      this.#queued--;
      if (error === null) onSent?.(1, 0, bytes);
      else onSent?.(0, 1, 0);
    };
    const lookup = (address: string, _family: unknown, callback: LookupCallback): void =>
      callback(null, address, this.#isV4 ? 4 : 6);
    this.#socket = createSocket({
      type: this.#isV4 ? 'udp4' : 'udp6',
      recvBufferSize: options.receiveBufferBytes ?? DEFAULT_SOCKET_BUFFER_BYTES,
      sendBufferSize: options.sendBufferBytes ?? DEFAULT_SOCKET_BUFFER_BYTES,
      lookup: lookup,
    });
    this.local = bind(this.#socket, local);
    this.receiveBufferBytes = this.#socket.getRecvBufferSize() / KERNEL_SHARE;
    this.#socket.on('error', (error) => onError?.(error));
    this.#socket.on('message', (message, remote) => {
      this.#receive(message, remote);
    });
  }

  resizeReceiveBuffer(bytes: number): void {
    this.#socket.setRecvBufferSize(bytes);
    this.receiveBufferBytes = this.#socket.getRecvBufferSize() / KERNEL_SHARE;
  }

  send(batch: DatagramBatch): number {
    const { count, payloads, lengths, words, ports, paths } = batch;
    for (let i = 0; i < count; i++) {
      if (this.#queued >= this.#sendQueueLimit || this.#closed !== undefined) return i;
      this.#queued++;
      // Copied, since node:dgram keeps a datagram that the system does not take at once, and the payload is on loan.
      const copy = Buffer.allocUnsafe(lengths[i]!);
      copy.set(lengths[i] === payloads[i]!.length ? payloads[i]! : payloads[i]!.subarray(0, lengths[i]));
      try {
        this.#socket.send(copy, ports[i], this.#format(words, i * 4, paths[i]!), this.#onSendDone);
      } catch (error) {
        this.#onSendDone(error as Error, 0);
      }
    }
    return count;
  }

  close(): Promise<void> {
    this.#closed ??= new Promise((resolve) => {
      this.#socket.close(resolve);
    });
    return this.#closed;
  }

  #receive(message: Buffer, remote: RemoteInfo): void {
    const batch = this.#received;
    batch.count = 1;
    batch.payloads[0] = message;
    batch.lengths[0] = message.length;
    parseIntoWords(remote.address, batch.words, 0);
    batch.ports[0] = remote.port;
    batch.paths[0] = this.#tellPaths && !this.#isV4 ? this.#pathOf(remote.address) : 0;
    this.#onReceive(batch);
  }

  #pathOf(address: string): number {
    const percent = address.indexOf('%');
    if (percent === -1) return 0;
    const zone = address.slice(percent);
    const path = this.#zones.indexOf(zone);
    if (path !== -1 || this.#zones.length > MAX_PATH) return Math.max(0, path);
    return this.#zones.push(zone) - 1;
  }

  #format(words: Uint32Array, at: number, path: number): string {
    const text = formatWords(words, at);
    if (this.#isV4) return text;
    return isV4Words(words, at) ? `::ffff:${text}` : text + this.#zones[path]!;
  }
}

/** Binds now: with a lookup that answers at once, node:dgram reports success or failure before `bind` returns. */
function bind(socket: Socket, local: Endpoint): Endpoint {
  let failure: NodeJS.ErrnoException | undefined;
  const onFailure = (error: Error): void => void (failure = error);
  socket.once('error', onFailure);
  socket.bind({ port: local.port, address: local.ip.toString(), exclusive: true });
  socket.off('error', onFailure);
  if (failure !== undefined) {
    socket.close();
    throw bindError(local, failure.code ?? failure.message, failure);
  }
  const { address, port } = socket.address();
  return new Endpoint(IpAddress.parse(address), port);
}
