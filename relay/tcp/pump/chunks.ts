/**
 * Native memory that bytes are read to and written from. One chunk serves all connections of a thread, as long as what was read
 * can be written at once. What can't stays where it is: the connection keeps the chunk until its slow side has taken the bytes,
 * and the next read goes to another one.
 */
import { MAP_PRIVATE_ANONYMOUS, PROT_READ_WRITE } from '../../../net/linux/abi.ts';
import { errnoName, type Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';

/** The most that one read takes; docs/tcp.md derives the memory bound from it. */
export const CHUNK_BYTES = 128 * 1024;

/** Chunks that are kept for the next slow reader; more go back to the system. */
const SPARE = 8;

export class Chunks {
  readonly #libc: Libc;
  /** Memory that outlives the thread: the address of every chunk, or 0. */
  readonly #noted: Float64Array | undefined;
  readonly #spare: number[] = [];
  /** Address of the chunk that is read to. */
  current: number;

  constructor(libc: Libc, noted?: Float64Array) {
    this.#libc = libc;
    this.#noted = noted;
    this.current = this.#map();
  }

  /** The caller keeps the current chunk. @returns its address */
  take(): number {
    const taken = this.current;
    this.current = this.#spare.pop() ?? this.#map();
    return taken;
  }

  give(chunk: number): void {
    if (this.#spare.length < SPARE) this.#spare.push(chunk);
    else this.#unmap(chunk);
  }

  /** Gives back what nobody keeps. */
  close(): void {
    for (const chunk of [this.current, ...this.#spare]) this.#unmap(chunk);
    this.#spare.length = 0;
  }

  #map(): number {
    const chunk = this.#libc.mmap(0, CHUNK_BYTES, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (chunk === -1) {
      throw new RelayError(
        'TICKRELAY_ERR_LIMIT',
        `can't map ${CHUNK_BYTES} bytes of memory: ${errnoName(this.#libc.errno())}`,
      );
    }
    this.#note(0, chunk);
    return chunk;
  }

  #unmap(chunk: number): void {
    this.#note(chunk, 0);
    this.#libc.munmap(chunk, CHUNK_BYTES);
  }

  #note(before: number, now: number): void {
    const at = this.#noted?.indexOf(before) ?? -1;
    if (at !== -1) this.#noted![at] = now;
  }
}
