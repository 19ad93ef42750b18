/**
 * The engine's side of one worker: requests and their answers, waking it, and what is left of it when it dies.
 */
import { Worker } from 'node:worker_threads';
import type { Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { type Answer, FIGURES, type FromWorker, type ToWorker, type WorkerSettings } from './messages.ts';

/** Descriptors that a worker may note; a higher one is not given back if it dies. */
const DESCRIPTORS = 1 << 20;

/**
 * For new objects of a worker, in MB. Its packet path makes none, and opening sockets only few that last; the 48 MB that V8 takes
 * by default would be a third of the relay's memory.
 */
const YOUNG_GENERATION_MB = 3;

/** The built worker, also when this file runs from source. */
const ENTRY = import.meta.url.endsWith('.ts')
  ? new URL('../../../dist/relay/engines/mmsg/worker.js', import.meta.url)
  : new URL('./worker.js', import.meta.url);

type WithoutNumber<T> = T extends unknown ? Omit<T, 'request'> : never;

interface Pending {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export interface WorkerThreadOptions {
  readonly libc: Libc;
  readonly settings: Omit<WorkerSettings, 'descriptors' | 'figures'>;
  readonly onTrouble: (error: unknown) => void;
  /** The thread ended by itself. What it had open is closed already. */
  readonly onDeath: () => void;
}

export class WorkerThread {
  readonly #options: WorkerThreadOptions;
  readonly #worker: Worker;
  readonly #figures = new Float64Array(new SharedArrayBuffer(8 * FIGURES.count));
  readonly #descriptors = new Uint8Array(new SharedArrayBuffer(DESCRIPTORS));
  /** One word with the value 1, for writing to the wake-up descriptor. */
  readonly #one: number;
  readonly #pending = new Map<number, Pending>();
  #nextRequest = 1;
  #wakeFd = -1;
  #closing = false;
  #hasExited = false;

  /** @param one address of 8 bytes with the value 1 */
  constructor(options: WorkerThreadOptions, one: number) {
    this.#options = options;
    this.#one = one;
    this.#worker = new Worker(ENTRY, {
      workerData: { ...options.settings, figures: this.#figures, descriptors: this.#descriptors },
      execArgv: [],
      name: 'mmsg',
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    this.#worker.on('message', (message: FromWorker) => this.#receive(message));
    this.#worker.on('error', (error) => options.onTrouble(error));
    this.#worker.on('exit', () => this.#exited());
  }

  get livePins(): number {
    return this.#figures[FIGURES.livePins]!;
  }

  /** Pools that the worker keeps. */
  get pools(): number {
    return this.#figures[FIGURES.pools]!;
  }

  /** @throws RelayError TICKRELAY_ERR_ENGINE when the worker fails or dies before it answers */
  ask(message: WithoutNumber<ToWorker>): Promise<Answer> {
    if (this.#hasExited)
      return Promise.reject(new RelayError('TICKRELAY_ERR_ENGINE', 'the worker has ended'));
    const request = this.#nextRequest++;
    return new Promise((resolve, reject) => {
      this.#pending.set(request, { resolve, reject });
      this.#post({ ...message, request });
    });
  }

  /** Ends the thread in good order. */
  async close(): Promise<void> {
    this.#closing = true;
    if (this.#hasExited) return;
    const exited = new Promise<void>((resolve) => this.#worker.once('exit', () => resolve()));
    await this.ask({ kind: 'close' }).catch(() => undefined);
    await exited;
  }

  /** Ends the thread as a crash would. */
  async kill(): Promise<void> {
    await this.#worker.terminate();
  }

  #post(message: ToWorker): void {
    this.#worker.postMessage(message);
    // It may be waiting for datagrams; a write to its descriptor ends the wait.
    if (this.#wakeFd !== -1) this.#options.libc.write(this.#wakeFd, this.#one, 8);
  }

  #receive(message: FromWorker): void {
    switch (message.kind) {
      case 'online':
        this.#wakeFd = message.wakeFd;
        break;
      case 'done':
        this.#pending.get(message.request)?.resolve(message.answer);
        this.#pending.delete(message.request);
        break;
      case 'failed':
        this.#pending.get(message.request)?.reject(new RelayError('TICKRELAY_ERR_ENGINE', message.reason));
        this.#pending.delete(message.request);
        break;
      case 'trouble':
        this.#options.onTrouble(new Error(message.reason));
        break;
    }
  }

  #freeMemory(): void {
    for (let at: number = FIGURES.memory; at < FIGURES.count; at += 2) {
      const [address = 0, size = 0] = this.#figures.subarray(at, at + 2);
      if (size > 0) this.#options.libc.munmap(address, size);
    }
  }

  /** Gives back what the thread had, since a dead thread's descriptors and mappings stay the process's. */
  #exited(): void {
    this.#hasExited = true;
    this.#wakeFd = -1;
    const { libc, onDeath } = this.#options;
    for (let fd = this.#descriptors.indexOf(1); fd !== -1; fd = this.#descriptors.indexOf(1, fd + 1))
      libc.close(fd);
    if (!this.#closing) this.#freeMemory();
    for (const { reject } of this.#pending.values()) {
      reject(new RelayError('TICKRELAY_ERR_ENGINE', 'the worker ended before it answered'));
    }
    this.#pending.clear();
    if (!this.#closing) onDeath();
  }
}
