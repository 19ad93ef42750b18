/**
 * Native memory for system calls: one anonymous mapping, handed out in pieces at construction and never moved. The kernel
 * reads and writes it by address, JavaScript by the views. Pages that nobody touches cost nothing.
 */
import assert from 'node:assert/strict';
import { RelayError } from '../relay-error.ts';
import { MAP_PRIVATE_ANONYMOUS, PROT_READ_WRITE } from './abi.ts';
import { errnoName, type Libc } from './libc.ts';

export class Arena {
  /** Address of byte 0. */
  readonly address: number;
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly #libc: Libc;
  readonly #addressLow: number;
  readonly #addressHigh: number;
  #used = 0;

  /** @throws RelayError TICKRELAY_ERR_LIMIT when the system has no memory */
  constructor(libc: Libc, size: number) {
    this.#libc = libc;
    this.address = libc.mmap(0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (this.address === -1) {
      throw new RelayError(
        'TICKRELAY_ERR_LIMIT',
        `can't map ${size} bytes of memory: ${errnoName(libc.errno())}`,
      );
    }
    this.buffer = libc.view(this.address, size);
    this.bytes = new Uint8Array(this.buffer);
    this.u16 = new Uint16Array(this.buffer);
    this.u32 = new Uint32Array(this.buffer);
    this.#addressLow = this.address % 2 ** 32;
    this.#addressHigh = Math.floor(this.address / 2 ** 32);
  }

  /** Takes the next `size` bytes. @returns their offset, a multiple of 64 */
  take(size: number): number {
    const offset = this.#used;
    this.#used += Math.ceil(size / 64) * 64;
    assert(this.#used <= this.bytes.length, 'the arena is too small');
    return offset;
  }

  /** Writes the address of the byte at `target` as a pointer at `at`. */
  setPointer(at: number, target: number): void {
    const low = this.#addressLow + target;
    const carry = low >= 2 ** 32 ? 1 : 0;
    this.u32[at >> 2] = low;
    this.u32[(at >> 2) + 1] = this.#addressHigh + carry;
  }

  /** Gives the memory back; the views must not be used any more. */
  free(): void {
    this.#libc.munmap(this.address, this.bytes.length);
  }
}
