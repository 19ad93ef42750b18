/**
 * The portable socket: the DatagramSocket contract over node:dgram. It runs wherever Node does. node:dgram hands over one
 * datagram at a time; those that one turn of the event loop brings are reported together, at its end.
 *
 * node:dgram speaks of addresses as text and looks each one up by name; the lookup here answers at once with the text
 * itself, which also makes binding synchronous.
 *
 * It does not say which local address a datagram was sent to. So where an owner wants to know, a wildcard address is a
 * socket on it and one more on each address of the machine's interfaces, with the same port: the system hands a datagram to
 * the socket whose address is the most specific. What was sent to an address that no interface lists, as 127.0.0.2 or one
 * that came later, is answered from the address that the route picks. Windows promises no such order, and gets one socket.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { networkInterfaces } from 'node:os';
import { ADDRESS_WORDS, Endpoint, formatWords, IpAddress, isV4Words, parseIntoWords } from './address.ts';
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

/** What libuv receives from a socket before it turns to the next one (uv__udp_recvmsg), and so the most in one turn. */
const RECEIVE_BATCH = 32;
const NOTHING = new Uint8Array(0);

/** For the sockets that have gathered something to borrow: there are thousands of sockets, and few that a turn brings something. */
const idleBatches: DatagramBatch[] = [];

type LookupCallback = (error: Error | null, address: string, family: number) => void;

/** Opens a node:dgram socket. @throws RelayError TICKRELAY_ERR_BIND when the address can't be had. */
export function openDgramSocket(options: DatagramSocketOptions): DatagramSocket {
  return new DgramSocket(options);
}

/** A path: the socket to answer from, and the zone of a link-local remote, like `%eth0`. */
interface Way {
  readonly socket: Socket;
  readonly isV4: boolean;
  readonly zone: string;
}

class DgramSocket implements DatagramSocket {
  readonly local: Endpoint;
  receiveBufferBytes: number;
  /** By path. The first one answers whatever has no other, from where the route leads. */
  readonly #ways: Way[];
  readonly #tag: number;
  /** What this turn of the event loop brought so far. */
  #gathered: DatagramBatch | undefined;
  readonly #report = (): void => {
    const batch = this.#gathered;
    if (batch === undefined) return;
    this.#gathered = undefined;
    if (this.#closed === undefined) this.#onReceive(batch);
    batch.payloads.fill(NOTHING, 0, batch.count);
    batch.clear();
    idleBatches.push(batch);
  };
  readonly #onReceive: (batch: DatagramBatch) => void;
  readonly #onError: (error: Error) => void;
  readonly #onSendDone: (error: Error | null, bytes: number) => void;
  readonly #sendQueueLimit: number;
  readonly #tellPaths: boolean;
  #queued = 0;
  #closed: Promise<void> | undefined;

  constructor(options: DatagramSocketOptions) {
    const { local, tellPaths = false, onReceive, onSent, onError } = options;
    this.#onReceive = onReceive;
    this.#onError = (error) => onError?.(error);
    this.#tellPaths = tellPaths;
    this.#tag = options.tag ?? 0;
    this.#sendQueueLimit = options.sendQueueLimit ?? DEFAULT_SEND_QUEUE_LIMIT;
    this.#onSendDone = (error, bytes) => {
      this.#queued--;
      if (error === null) onSent?.(1, 0, bytes);
      else onSent?.(0, 1, 0);
    };
    const isShared = tellPaths && local.ip.range === 'unspecified' && process.platform !== 'win32';
    // Sockets that share a port would take one from another program that shares its own; a plain socket meets it as an error.
    const bound = isShared ? tryBind(options, local) : local;
    const main = open(options, bound, isShared);
    this.local = main.local;
    this.#ways = [{ socket: main.socket, isV4: local.ip.isV4, zone: '' }];
    if (isShared) this.#openEach(options);
    this.receiveBufferBytes = main.socket.getRecvBufferSize() / KERNEL_SHARE;
    for (const [path, { socket }] of this.#ways.entries()) this.#listen(socket, path);
  }

  resizeReceiveBuffer(bytes: number): void {
    for (const { socket, zone } of this.#ways) if (zone === '') socket.setRecvBufferSize(bytes);
    this.receiveBufferBytes = this.#ways[0]!.socket.getRecvBufferSize() / KERNEL_SHARE;
  }

  send(batch: DatagramBatch): number {
    const { count, payloads, lengths, words, ports, paths } = batch;
    for (let i = 0; i < count; i++) {
      if (this.#queued >= this.#sendQueueLimit || this.#closed !== undefined) return i;
      this.#queued++;
      // Copied, since node:dgram keeps a datagram that the system does not take at once, and the payload is on loan.
      const copy = Buffer.allocUnsafe(lengths[i]!);
      copy.set(lengths[i] === payloads[i]!.length ? payloads[i]! : payloads[i]!.subarray(0, lengths[i]));
      const way = this.#ways[paths[i]!] ?? this.#ways[0]!;
      try {
        way.socket.send(copy, ports[i], format(way, words, i * 4), this.#onSendDone);
      } catch (error) {
        this.#onSendDone(error as Error, 0);
      }
    }
    return count;
  }

  close(): Promise<void> {
    this.#closed ??= Promise.all(
      Array.from(
        new Set(this.#ways.map(({ socket }) => socket)),
        (socket) => new Promise<void>((resolve) => void socket.close(resolve)),
      ),
    ).then(() => undefined);
    return this.#closed;
  }

  /** Binds the port on each address of the machine's interfaces. One that has just gone is passed over. */
  #openEach(options: DatagramSocketOptions): void {
    for (const ip of interfaceAddresses()) {
      if (!ip.isV4 && options.local.ip.isV4) continue;
      try {
        const { socket } = open(options, new Endpoint(ip, this.local.port), true);
        this.#ways.push({ socket, isV4: ip.isV4, zone: '' });
      } catch (error) {
        this.#onError(error as Error);
      }
    }
  }

  #listen(socket: Socket, path: number): void {
    const tellsZones = this.#tellPaths && path === 0 && !this.#ways[0]!.isV4;
    socket.on('error', this.#onError);
    socket.on('message', (message, remote) => {
      this.#receive(message, remote, tellsZones ? this.#pathOf(remote.address) : path);
    });
  }

  #receive(message: Buffer, remote: RemoteInfo, path: number): void {
    if (this.#gathered === undefined) {
      this.#gathered = idleBatches.pop() ?? new DatagramBatch(RECEIVE_BATCH);
      setImmediate(this.#report);
    }
    const batch = this.#gathered;
    const slot = batch.count++;
    batch.payloads[slot] = message;
    batch.lengths[slot] = message.length;
    parseIntoWords(remote.address, batch.words, slot * ADDRESS_WORDS);
    batch.ports[slot] = remote.port;
    batch.paths[slot] = path;
    batch.tags[slot] = this.#tag;
    if (batch.count === batch.capacity) this.#report();
  }

  /** The path of a remote of the first socket, by its zone. */
  #pathOf(address: string): number {
    const percent = address.indexOf('%');
    if (percent === -1) return 0;
    const zone = address.slice(percent);
    const path = this.#ways.findIndex((way) => way.zone === zone);
    if (path !== -1 || this.#ways.length > MAX_PATH) return Math.max(0, path);
    return this.#ways.push({ ...this.#ways[0]!, zone }) - 1;
  }
}

/** The remote address as its socket takes it. */
function format({ isV4, zone }: Way, words: Uint32Array, at: number): string {
  const text = formatWords(words, at);
  if (isV4) return text;
  return isV4Words(words, at) ? `::ffff:${text}` : text + zone;
}

/** Those of this machine; link-local ones left out, since they need a zone to be bound. */
function interfaceAddresses(): IpAddress[] {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .map(({ address }) => IpAddress.parse(address))
    .filter(({ range }) => range !== 'linkLocal');
}

/** Opens a socket and binds it, with `isShared` beside others of the same port. @throws RelayError TICKRELAY_ERR_BIND */
function open(
  options: DatagramSocketOptions,
  local: Endpoint,
  isShared: boolean,
): { socket: Socket; local: Endpoint } {
  const { isV4 } = local.ip;
  const lookup = (address: string, _family: unknown, callback: LookupCallback): void =>
    callback(null, address, isV4 ? 4 : 6);
  const socket = createSocket({
    type: isV4 ? 'udp4' : 'udp6',
    reuseAddr: isShared,
    recvBufferSize: options.receiveBufferBytes ?? DEFAULT_SOCKET_BUFFER_BYTES,
    sendBufferSize: options.sendBufferBytes ?? DEFAULT_SOCKET_BUFFER_BYTES,
    lookup,
  });
  return { socket, local: bind(socket, local) };
}

/** @returns the address with its port, free a moment ago. @throws RelayError TICKRELAY_ERR_BIND */
function tryBind(options: DatagramSocketOptions, local: Endpoint): Endpoint {
  const probe = open(options, local, false);
  probe.socket.close();
  return probe.local;
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
