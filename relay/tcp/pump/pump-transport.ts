/** TCP by system calls, all sockets of a thread on one epoll. */
import type { Endpoint } from '../../../net/address.ts';
import { ECONNABORTED, EAGAIN, EINTR, EPOLLIN } from '../../../net/linux/abi.ts';
import type { EventHandler, EventPoll } from '../../../net/linux/event-poll.ts';
import { errnoName } from '../../../net/linux/libc.ts';
import { TcpSockets } from '../../../net/linux/tcp-sockets.ts';
import {
  BACKLOG,
  type AcceptedClient,
  type Acceptor,
  type LinkOptions,
  type ListenOptions,
  type TcpTransport,
} from '../transport.ts';
import { Chunks } from './chunks.ts';
import { HeaderMemory } from './header-memory.ts';
import { PumpLink, type PumpMemory } from './pump-link.ts';

/** Clients that are accepted in one round: a flood does not keep live connections waiting. */
const ACCEPTS_PER_ROUND = 64;

/** How long nobody is accepted after the system could not, for want of descriptors as a rule. Clients wait in its backlog. */
const ACCEPT_PAUSE_MS = 100;

export class PumpTransport implements TcpTransport {
  readonly name = 'pump';
  readonly #memory: PumpMemory;

  /** @param noted see Chunks */
  constructor(poll: EventPoll, noted?: Float64Array) {
    const { libc } = poll;
    this.#memory = {
      poll,
      sockets: new TcpSockets(libc),
      chunks: new Chunks(libc, noted),
      header: new HeaderMemory(libc),
    };
  }

  listen(options: ListenOptions): Promise<Acceptor> {
    return Promise.resolve().then(() => new PumpAcceptor(this.#memory, options));
  }

  after(delayMs: number, run: () => void): () => void {
    return this.#memory.poll.after(delayMs, run);
  }

  /** Gives the memory back. Every connection and acceptor is closed before. */
  close(): void {
    this.#memory.sockets.close();
    this.#memory.chunks.close();
    this.#memory.header.close();
  }
}

class PumpAcceptor implements Acceptor, EventHandler {
  readonly port: number;
  readonly #memory: PumpMemory;
  readonly #options: ListenOptions;
  readonly #fd: number;
  readonly #number: number;
  #cancelPause: () => void = () => undefined;
  #isClosed = false;

  constructor(memory: PumpMemory, options: ListenOptions) {
    const { poll, sockets } = memory;
    this.#memory = memory;
    this.#options = options;
    this.#fd = options.fd ?? sockets.listen(options.listen, BACKLOG);
    if (options.fd === undefined) poll.note(this.#fd, 1);
    this.port = sockets.local(this.#fd).port;
    this.setKeepAlive(options.keepAliveMs);
    this.#number = poll.watch(this.#fd, EPOLLIN, this);
  }

  setKeepAlive(keepAliveMs: number): void {
    this.#memory.sockets.setKeepAlive(this.#fd, keepAliveMs);
  }

  onEvents(): void {
    const { poll, sockets } = this.#memory;
    for (let accepts = 0; !this.#isClosed; accepts++) {
      if (accepts === ACCEPTS_PER_ROUND) {
        poll.again(this);
        return;
      }
      const fd = sockets.accept(this.#fd);
      if (fd === -1) {
        const errno = poll.libc.errno();
        if (errno === EAGAIN) return;
        if (errno === EINTR || errno === ECONNABORTED) continue;
        this.#pause(errnoName(errno));
        return;
      }
      this.#options.onAccept(new PumpClient(fd, this.#memory));
    }
  }

  close(): Promise<void> {
    this.#isClosed = true;
    this.#cancelPause();
    const { poll } = this.#memory;
    poll.unwatch(this.#number);
    if (this.#options.fd === undefined) {
      poll.note(this.#fd, 0);
      poll.libc.close(this.#fd);
    } else poll.remove(this.#fd);
    return Promise.resolve();
  }

  #pause(code: string): void {
    this.#cancelPause();
    this.#cancelPause = this.#memory.poll.after(ACCEPT_PAUSE_MS, () => this.onEvents());
    this.#options.onError(Object.assign(new Error(`accept: ${code}`), { code }));
  }
}

/** The client whom the last `accept` brought. */
class PumpClient implements AcceptedClient {
  readonly address: Endpoint;
  readonly #fd: number;
  readonly #memory: PumpMemory;

  constructor(fd: number, memory: PumpMemory) {
    this.address = memory.sockets.address;
    this.#fd = fd;
    this.#memory = memory;
  }

  refuse(): void {
    this.#memory.sockets.reset(this.#fd);
  }

  open(options: LinkOptions): PumpLink {
    return new PumpLink(this.#fd, this.#memory, options);
  }
}
