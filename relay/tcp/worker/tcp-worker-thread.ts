/** The main thread's side of one TCP worker: requests, waking it, and what is left of it when it dies. */
import { Worker } from 'node:worker_threads';
import { Arena } from '../../../net/linux/arena.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import type { TcpSockets } from '../../../net/linux/tcp-sockets.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { CHUNK_BYTES } from '../pump/chunks.ts';
import type { TcpWorkerSettings, ToMainThread, ToTcpWorker } from './messages.ts';
import { RequestChannel } from './request-channel.ts';

/** Descriptors, and chunks of memory, that a worker may note; further ones are not given back if it dies. */
const DESCRIPTORS = 1 << 20;
const CHUNKS = 4_096;

/** For new objects of a worker, in MB. Bytes are in memory of its own; the 48 MB that V8 takes by default would be for nothing. */
const YOUNG_GENERATION_MB = 6;

/** The built worker, also when this file runs from source. */
const ENTRY = import.meta.url.endsWith('.ts')
  ? new URL('../../../dist/relay/tcp/worker/tcp-worker.js', import.meta.url)
  : new URL('./tcp-worker.js', import.meta.url);

export interface TcpWorkerThreadOptions extends Pick<TcpWorkerSettings, 'hashSeed' | 'ids'> {
  readonly libc: Libc;
  readonly sockets: TcpSockets;
  /** @returns the answer, where one is wanted */
  readonly onTold: (message: ToMainThread) => unknown;
  readonly onTrouble: (error: unknown) => void;
  /** The thread ended by itself. What it had open is closed already. */
  readonly onDeath: () => void;
}

export class TcpWorkerThread {
  readonly #options: TcpWorkerThreadOptions;
  readonly #worker: Worker;
  readonly #channel: RequestChannel<ToTcpWorker, ToMainThread>;
  readonly #descriptors = new Uint8Array(new SharedArrayBuffer(DESCRIPTORS));
  readonly #chunks = new Float64Array(new SharedArrayBuffer(8 * CHUNKS));
  /** One word with the value 1, for writing to the wake-up descriptor. */
  readonly #one: Arena;
  readonly #exited: Promise<void>;
  #wakeFd = -1;
  #isClosing = false;
  #hasExited = false;

  constructor(options: TcpWorkerThreadOptions) {
    this.#options = options;
    const { libc, hashSeed, ids } = options;
    this.#one = new Arena(libc, 4096);
    this.#one.u32[0] = 1;
    const settings: TcpWorkerSettings = {
      hashSeed,
      ids,
      descriptors: this.#descriptors,
      chunks: this.#chunks,
    };
    this.#worker = new Worker(ENTRY, {
      workerData: settings,
      execArgv: [],
      name: 'tcp',
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    this.#channel = new RequestChannel({
      post: (message) => {
        this.#worker.postMessage(message);
        this.#wake();
      },
      answer: (message) => this.#told(message),
      onTrouble: options.onTrouble,
    });
    this.#worker.on('message', (message) => this.#channel.receive(message));
    this.#worker.on('error', options.onTrouble);
    this.#exited = new Promise((resolve) => {
      this.#worker.on('exit', () => {
        this.#onExit();
        resolve();
      });
    });
  }

  /** @throws RelayError TICKRELAY_ERR_ENGINE when the worker dies before it answers; else what the worker's engine throws */
  ask<Answer>(request: ToTcpWorker): Promise<Answer> {
    return this.#channel.ask(request);
  }

  get hasExited(): boolean {
    return this.#hasExited;
  }

  /** Ends the thread in good order. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.ask({ kind: 'close' }).catch(() => undefined);
    await this.#exited;
  }

  /** Ends the thread as a crash would. */
  async kill(): Promise<void> {
    await this.#worker.terminate();
  }

  #told(message: ToMainThread): unknown {
    if (message.kind !== 'online') return this.#options.onTold(message);
    this.#wakeFd = message.wakeFd;
    // It may have begun to wait before it saw what it was sent at the start.
    this.#wake();
    return undefined;
  }

  /** It may be waiting for news of its sockets; a write to its descriptor ends the wait. */
  #wake(): void {
    if (this.#wakeFd !== -1) this.#options.libc.write(this.#wakeFd, this.#one.address, 8);
  }

  /** Gives back what the thread had, since a dead thread's descriptors and mappings stay the process's. */
  #onExit(): void {
    this.#wakeFd = -1;
    this.#hasExited = true;
    const { libc, sockets, onDeath } = this.#options;
    // Those that are no sockets are closed as well.
    for (let fd = this.#descriptors.indexOf(1); fd !== -1; fd = this.#descriptors.indexOf(1, fd + 1)) {
      sockets.reset(fd);
    }
    for (const chunk of this.#chunks) if (chunk !== 0) libc.munmap(chunk, CHUNK_BYTES);
    this.#one.free();
    this.#channel.close(new RelayError('TICKRELAY_ERR_ENGINE', 'the TCP worker ended before it answered'));
    if (!this.#isClosing) onDeath();
  }
}
