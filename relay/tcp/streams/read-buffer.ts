/**
 * Where the bytes of a backend are read to. Node's streams take 64 KiB of fresh memory for every read, however little is in
 * it; measured, that was a good part of what a connection cost.
 *
 * - A connection that says little reads into memory that all connections share, and what was read is copied out: a few
 *   hundred bytes as a rule. An idle connection has no buffer.
 * - One that has much to say gets a large buffer of its own, whose bytes are written from where they are. Reading stops
 *   while the other side has not taken them, so one buffer is enough.
 */

/** A read of this much or more shows that there is more to come. */
const MUCH_BYTES = 16 * 1024;
/** A read of this much or less shows that a connection has become quiet again. */
const LITTLE_BYTES = 4 * 1024;
/** docs/tcp.md derives the memory bound from it. */
const OWN_BYTES = 128 * 1024;

const shared = Buffer.allocUnsafeSlow(64 * 1024);

export class ReadBuffer {
  #own: Buffer | undefined;

  /** Where the next bytes go. */
  get target(): Buffer {
    return this.#own ?? shared;
  }

  /** The bytes that were read last, for as long as they are wanted. */
  take(count: number): Buffer {
    return this.#own === undefined ? Buffer.from(shared.subarray(0, count)) : this.#own.subarray(0, count);
  }

  /**
   * Chooses where the next bytes go.
   *
   * @param count bytes of the last read
   * @param isWanted whether they are still waiting to be written although reading goes on
   */
  settle(count: number, isWanted: boolean): void {
    if (this.#own === undefined) {
      if (count >= MUCH_BYTES) this.#own = Buffer.allocUnsafeSlow(OWN_BYTES);
    } else if (count <= LITTLE_BYTES) this.#own = undefined;
    else if (isWanted) this.#own = Buffer.allocUnsafeSlow(OWN_BYTES);
  }
}
