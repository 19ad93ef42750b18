/** Random bytes and numbers from a seed: the same ones in every run, so that a failure can be repeated. */
import { createCipheriv, createHash, type Cipher } from 'node:crypto';

export class SeededBytes {
  readonly #stream: Cipher;

  constructor(seed: string) {
    const key = createHash('sha256').update(seed).digest();
    this.#stream = createCipheriv('aes-256-ctr', key, Buffer.alloc(16));
  }

  bytes(count: number): Buffer {
    return this.#stream.update(Buffer.alloc(count));
  }

  /** A whole number from 0 to `max`, at most 2^32 - 1. */
  integer(max: number): number {
    return this.bytes(4).readUInt32LE() % (max + 1);
  }
}
