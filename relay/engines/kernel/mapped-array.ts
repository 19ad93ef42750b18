/**
 * An array map that is mapped into this process: records are read and written in place, without a system call. Aligned
 * stores of up to 4 bytes are whole for a program that reads at the same time; what must change together does so behind
 * a switch (pool-writer.ts).
 *
 * While an array is held, reads and writes are of a copy, and the programs go on with what was there: so a relay prepares to take over
 * what another one left, and changes nothing of it before it can.
 */
import { MAP_SHARED, PROT_READ_WRITE } from '../../../net/linux/abi.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { failure, type MapSpec } from './loader.ts';

const PAGE = 4_096;

export class MappedArray {
  /** Bytes from one record to the next. */
  readonly stride: number;
  bytes!: Uint8Array;
  u16!: Uint16Array;
  u32!: Uint32Array;
  u64!: BigUint64Array;
  readonly #libc: Libc;
  readonly #address: number;
  readonly #mapping: ArrayBuffer;
  /** While the array is held: what was there. */
  #held: Uint32Array | undefined;

  /** @param fd of a map with BPF_F_MMAPABLE. @throws RelayError TICKRELAY_ERR_ENGINE */
  constructor(libc: Libc, spec: MapSpec, fd: number) {
    this.#libc = libc;
    this.stride = Math.ceil(spec.valueSize / 8) * 8;
    const size = Math.ceil((this.stride * spec.maxEntries) / PAGE) * PAGE;
    this.#address = libc.mmap(0, size, PROT_READ_WRITE, MAP_SHARED, fd, 0);
    if (this.#address === -1) throw failure(`map the map ${spec.name} into memory`, -libc.errno());
    this.#mapping = libc.view(this.#address, size);
    this.#look(this.#mapping);
  }

  /** Keeps what is written from the programs until `release`. */
  hold(): void {
    this.#held = new Uint32Array(this.u32);
    this.#look(new Uint8Array(this.bytes).buffer);
  }

  /** Lets the programs have what was written, beside what they wrote themselves. Without `hold` before it nothing happens. */
  release(): void {
    const [held, written] = [this.#held, this.u32];
    if (held === undefined) return;
    this.#held = undefined;
    this.#look(this.#mapping);
    // Word by word, so that a program that reads meanwhile finds each one whole.
    for (let i = 0; i < written.length; i++) if (held[i] !== written[i]) this.u32[i] = written[i]!;
  }

  /** Offset of a field of the record at `index`. */
  at(index: number, field: number): number {
    return index * this.stride + field;
  }

  getU32(at: number): number {
    return this.u32[at >> 2]!;
  }

  setU32(at: number, value: number): void {
    this.u32[at >> 2] = value;
  }

  setU16(at: number, value: number): void {
    this.u16[at >> 1] = value;
  }

  /** Below 2^53. */
  getU64(at: number): number {
    return this.u32[at >> 2]! + this.u32[(at >> 2) + 1]! * 2 ** 32;
  }

  setU64(at: number, value: number): void {
    this.u64[at >> 3] = BigInt(value);
  }

  /** Zeroes the record. */
  clear(index: number): void {
    this.bytes.fill(0, index * this.stride, (index + 1) * this.stride);
  }

  /** Gives the mapping back; the views must not be used any more. */
  unmap(): void {
    this.#libc.munmap(this.#address, this.#mapping.byteLength);
  }

  #look(at: ArrayBuffer): void {
    this.bytes = new Uint8Array(at);
    this.u16 = new Uint16Array(at);
    this.u32 = new Uint32Array(at);
    this.u64 = new BigUint64Array(at);
  }
}
