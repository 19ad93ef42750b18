/** One UDP socket of a poller: the DatagramSocket contract over recvmmsg and sendmmsg. */
import { Endpoint, IpAddress } from '../address.ts';
import { bindError } from '../bind-error.ts';
import {
  type DatagramBatch,
  type DatagramSocket,
  type DatagramSocketOptions,
  DEFAULT_SOCKET_BUFFER_BYTES,
} from '../datagram-socket.ts';
import { RelayError } from '../relay-error.ts';
import {
  AF_INET,
  AF_INET6,
  EAGAIN,
  EINTR,
  IP_MTU_DISCOVER,
  IP_PKTINFO,
  IP_PMTUDISC_DO,
  IP_PMTUDISC_WANT,
  IP_RECVERR,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVERR,
  IPV6_RECVPKTINFO,
  IPV6_V6ONLY,
  MSG_DONTWAIT,
  MSG_ERRQUEUE,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_REUSEPORT,
  SO_RXQ_OVFL,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCKADDR_IN,
  SOCKADDR_IN6,
  SOL_SOCKET,
} from './abi.ts';
import { Arena } from './arena.ts';
import { errnoName, type Libc } from './libc.ts';
import type { PathTable } from './path-table.ts';
import type { ReceiveSlots } from './receive-slots.ts';
import type { Sender, SendQueue } from './send-queue.ts';

/** No datagram waits. */
export const EMPTY = -1;

export interface MmsgSocketOptions {
  readonly libc: Libc;
  /** A bound, non-blocking UDP socket. */
  readonly fd: number;
  readonly options: DatagramSocketOptions;
  readonly queue: SendQueue;
  readonly paths: PathTable;
  readonly onClose: () => void;
}

export class MmsgSocket implements DatagramSocket, Sender {
  // What each datagram needs comes first, since fields lie in memory in this order, and of many sockets none is in the cache.
  readonly fd: number;
  isClosed = false;
  readonly #queue: SendQueue;
  readonly isV4: boolean;
  readonly isConnected: boolean;
  /** Where the socket tells paths. */
  readonly #paths: PathTable | undefined;
  readonly sent: (sent: number, failed: number, sentBytes: number) => void;
  readonly onReceive: (batch: DatagramBatch) => void;
  readonly #tag: number;
  /** The poller's own: receives to line up when the socket is ready, */
  receives = 1;
  /** and the last round in which all of them found a datagram. */
  fullRound = -2;
  /** Datagrams that the kernel dropped since this socket was bound, because its receive buffer was full. */
  kernelDrops = 0;
  readonly local: Endpoint;
  readonly meetsPendingErrors: boolean;
  readonly #libc: Libc;
  readonly #onError: ((error: Error) => void) | undefined;
  readonly #onUnreachable: ((count: number) => void) | undefined;
  readonly #onClose: () => void;
  /** Whether the system may cut a datagram that is larger than the way takes. */
  #mayFragment: boolean;

  constructor({ libc, fd, options, queue, paths, onClose }: MmsgSocketOptions) {
    this.#libc = libc;
    this.fd = fd;
    this.isV4 = options.local.ip.isV4;
    this.isConnected = options.remote !== undefined;
    this.local = withAddressOf(options.local, readLocal(libc, fd));
    this.#queue = queue;
    this.#paths = hasPaths(options) ? paths : undefined;
    this.onReceive = options.onReceive;
    this.#tag = options.tag ?? 0;
    this.#onError = options.onError;
    this.#onUnreachable = options.onUnreachable;
    this.meetsPendingErrors = options.onUnreachable !== undefined || this.isConnected;
    this.#onClose = onClose;
    this.sent = options.onSent ?? (() => undefined);
    this.#mayFragment = !forbidFragments(libc, fd);
  }

  allowFragments(): boolean {
    if (this.#mayFragment) return false;
    this.#mayFragment = true;
    setMtuDiscovery(this.#libc, this.fd, IP_PMTUDISC_WANT);
    return true;
  }

  send(batch: DatagramBatch): number {
    if (this.isClosed) return 0;
    const { count, payloads, lengths, words, ports } = batch;
    for (let i = 0; i < count; i++) {
      this.#queue.add(this, payloads[i]!, lengths[i]!, words, 4 * i, ports[i]!);
      if (this.#paths !== undefined) this.#setPath(this.#paths, batch.paths[i]!);
    }
    return count;
  }

  /**
   * Receives into slots from `from`, at most `room`, and hands the batch over.
   *
   * @returns datagrams received, fewer than `room` when no more are there; 0 after an error, behind which some may be; EMPTY
   */
  receive(slots: ReceiveSlots, from: number, room: number): number {
    const count = this.#libc.recvmmsg(this.fd, slots.headers[from]!, room, MSG_DONTWAIT, 0);
    if (count <= 0) {
      const errno = this.#libc.errno();
      if (errno === EAGAIN) return EMPTY;
      if (errno !== EINTR) this.#onError?.(new Error(`recvmmsg: ${errnoName(errno)}`));
      return 0;
    }
    const batch = slots.read(from, count, this.#tag, this.#paths);
    if (slots.kernelDrops !== -1) this.kernelDrops = slots.kernelDrops;
    this.onReceive(batch);
    return count;
  }

  get tellsPaths(): boolean {
    return this.#paths !== undefined;
  }

  /** Whether datagrams of both sockets may go over in one batch. */
  sharesBatch(other: MmsgSocket): boolean {
    return this.onReceive === other.onReceive && this.#paths === other.#paths;
  }

  /** Reads a datagram that a call from the slots' `calls` received. @returns whether there was one */
  take(slots: ReceiveSlots, slot: number, result: number): boolean {
    if (result < 0) {
      if (result !== -EAGAIN && result !== -EINTR)
        this.#onError?.(new Error(`recvmsg: ${errnoName(-result)}`));
      return false;
    }
    slots.kernelDrops = -1;
    slots.readSlot(slot, result, this.#tag, this.#paths);
    if (slots.kernelDrops !== -1) this.kernelDrops = slots.kernelDrops;
    return true;
  }

  /** Empties the queue of ICMP errors into slots from `from`, at most `room`. @returns whether more may be there */
  receiveErrors(slots: ReceiveSlots, from: number, room: number): boolean {
    const count = this.#libc.recvmmsg(this.fd, slots.headers[from]!, room, MSG_DONTWAIT | MSG_ERRQUEUE, 0);
    if (count <= 0) return false;
    const unreachable = slots.readErrors(from, count);
    if (unreachable > 0) this.#onUnreachable?.(unreachable);
    return count === room;
  }

  #setPath(paths: PathTable, path: number): void {
    if (path !== 0) this.#queue.control(paths.control(path), paths.controlLength(path));
  }

  resizeReceiveBuffer(bytes: number): void {
    setReceiveBuffer(this.#libc, this.fd, bytes);
  }

  close(): Promise<void> {
    if (!this.isClosed) {
      this.#onClose();
      this.isClosed = true;
    }
    return Promise.resolve();
  }
}

/**
 * Opens and binds a UDP socket. With `reusePort`, several sockets may share the address.
 *
 * @returns its descriptor
 * @throws RelayError TICKRELAY_ERR_BIND
 */
export function bindUdp(
  libc: Libc,
  options: Pick<
    DatagramSocketOptions,
    'local' | 'remote' | 'tellPaths' | 'onUnreachable' | 'receiveBufferBytes' | 'sendBufferBytes'
  >,
  { reusePort = false, isBlocking = false } = {},
): number {
  const { local, remote } = options;
  const { isV4 } = local.ip;
  const fd = libc.socket(
    isV4 ? AF_INET : AF_INET6,
    SOCK_DGRAM | SOCK_CLOEXEC | (isBlocking ? 0 : SOCK_NONBLOCK),
    0,
  );
  if (fd === -1) throw bindError(local, errnoName(libc.errno()));
  const memory = scratchOf(libc);
  const set = (level: number, option: number, value: number): boolean => {
    memory.u32[0] = value;
    return libc.setsockopt(fd, level, option, memory.address, 4) === 0;
  };
  if (!isV4) set(IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (options.tellPaths === true && isWildcard(local)) {
    set(IPPROTO_IP, IP_PKTINFO, 1);
    if (!isV4) set(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  }
  if (options.onUnreachable !== undefined) {
    if (isV4) set(IPPROTO_IP, IP_RECVERR, 1);
    else set(IPPROTO_IPV6, IPV6_RECVERR, 1);
  }
  if (reusePort) set(SOL_SOCKET, SO_REUSEPORT, 1);
  const { receiveBufferBytes = DEFAULT_SOCKET_BUFFER_BYTES, sendBufferBytes = DEFAULT_SOCKET_BUFFER_BYTES } =
    options;
  // The first goes beyond the system's limit where the process may (CAP_NET_ADMIN); the second takes what the limit grants.
  if (!set(SOL_SOCKET, SO_RCVBUFFORCE, receiveBufferBytes)) set(SOL_SOCKET, SO_RCVBUF, receiveBufferBytes);
  if (!set(SOL_SOCKET, SO_SNDBUFFORCE, sendBufferBytes)) set(SOL_SOCKET, SO_SNDBUF, sendBufferBytes);
  set(SOL_SOCKET, SO_RXQ_OVFL, 1);
  const length = writeAddress(memory, local);
  if (libc.bind(fd, memory.address, length) === -1) {
    const reason = errnoName(libc.errno());
    libc.close(fd);
    throw bindError(local, reason);
  }
  if (remote !== undefined) connect(libc, fd, memory, remote);
  return fd;
}

/**
 * Memory for one call, by thread. Views of native memory are garbage that the collector is slow to see, so all sockets share
 * one; a thread that dies leaves its page behind.
 */
const scratches = new WeakMap<Libc, Arena>();

function scratchOf(libc: Libc): Arena {
  let scratch = scratches.get(libc);
  if (scratch === undefined) scratches.set(libc, (scratch = new Arena(libc, 4096)));
  return scratch;
}

/** Of thousands of sockets on one address, each has its own port and none its own copy of the address. */
function withAddressOf({ ip }: Endpoint, bound: Endpoint): Endpoint {
  return bound.ip.equals(ip) ? new Endpoint(ip, bound.port) : bound;
}

function isWildcard({ ip }: Endpoint): boolean {
  return ip.range === 'unspecified';
}

/** Whether the socket has more than one way to answer a datagram. */
function hasPaths({ local, tellPaths }: DatagramSocketOptions): boolean {
  return tellPaths === true && (isWildcard(local) || !local.ip.isV4);
}

/** @throws RelayError TICKRELAY_ERR_BIND where there is no way from the bound address to the remote end */
function connect(libc: Libc, fd: number, memory: Arena, remote: Endpoint): void {
  const length = writeAddress(memory, remote);
  if (libc.connect(fd, memory.address, length) === 0) return;
  const reason = errnoName(libc.errno());
  libc.close(fd);
  throw new RelayError('TICKRELAY_ERR_BIND', `no UDP way to ${remote.toString()}: ${reason}`);
}

/**
 * Has the system refuse what is larger than the way is known to take (IP_PMTUDISC_DO), where it cuts that by default
 * (IP_PMTUDISC_WANT): then an IPv4 header needs no number to put pieces together by, which costs the kernel a look at a table
 * for each datagram. A socket of a system without path MTU discovery (sysctl net.ipv4.ip_no_pmtu_disc) stays as it is. IPv6
 * numbers only pieces, and needs nothing; a socket of it may send to IPv4 too.
 *
 * @returns whether the socket refuses now
 */
function forbidFragments(libc: Libc, fd: number): boolean {
  const memory = scratchOf(libc);
  memory.u32[16] = 4;
  libc.getsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, memory.address, memory.address + 64);
  const how = memory.u32[0]!;
  // A worker that died may have left its successor a socket that refuses.
  return how === IP_PMTUDISC_DO || (how === IP_PMTUDISC_WANT && setMtuDiscovery(libc, fd, IP_PMTUDISC_DO));
}

function setMtuDiscovery(libc: Libc, fd: number, how: number): boolean {
  const memory = scratchOf(libc);
  memory.u32[0] = how;
  return libc.setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, memory.address, 4) === 0;
}

/** Asks for another receive buffer, as `bindUdp` does. */
function setReceiveBuffer(libc: Libc, fd: number, bytes: number): void {
  const memory = scratchOf(libc);
  memory.u32[0] = bytes;
  const set = (option: number): number => libc.setsockopt(fd, SOL_SOCKET, option, memory.address, 4);
  if (set(SO_RCVBUFFORCE) !== 0) set(SO_RCVBUF);
}

/** The receive buffer that was granted, in the unit it is asked for in: the kernel reports twice that (socket(7)). */
export function readReceiveBuffer(libc: Libc, fd: number): number {
  const memory = scratchOf(libc);
  memory.u32[16] = 4;
  libc.getsockopt(fd, SOL_SOCKET, SO_RCVBUF, memory.address, memory.address + 64);
  return memory.u32[0]! / 2;
}

/** Writes a socket address at the arena's beginning. @returns its length */
export function writeAddress(memory: Arena, { ip, port }: Endpoint): number {
  memory.bytes[SOCKADDR_IN.port] = port >>> 8;
  memory.bytes[SOCKADDR_IN.port + 1] = port;
  memory.u16[0] = ip.isV4 ? AF_INET : AF_INET6;
  if (ip.isV4) memory.u32[SOCKADDR_IN.address >> 2] = ip.words[3]!;
  else {
    memory.bytes.fill(0, 4, SOCKADDR_IN6.size);
    memory.u32.set(ip.words, SOCKADDR_IN6.address >> 2);
  }
  return ip.isV4 ? SOCKADDR_IN.size : SOCKADDR_IN6.size;
}

/** The address that a socket is bound to. */
export function readLocal(libc: Libc, fd: number): Endpoint {
  const memory = scratchOf(libc);
  memory.u32[16] = 32;
  libc.getsockname(fd, memory.address, memory.address + 64);
  return readAddress(memory);
}

/** Reads the socket address at the arena's beginning. */
export function readAddress({ bytes, u16, u32 }: Arena): Endpoint {
  const port = (bytes[SOCKADDR_IN.port]! << 8) | bytes[SOCKADDR_IN.port + 1]!;
  const ip =
    u16[0] === AF_INET6
      ? IpAddress.fromWords(u32, SOCKADDR_IN6.address >> 2)
      : IpAddress.fromV4Word(u32[SOCKADDR_IN.address >> 2]!);
  return new Endpoint(ip, port);
}
