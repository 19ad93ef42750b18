/**
 * Operands of eBPF instructions: registers, and places in memory with their width. What stands where is a Struct (struct.ts),
 * be it a record of a map, a kernel structure or the stack frame of a program.
 */
import assert from 'node:assert/strict';
import type { Struct } from './struct.ts';

export class Register {
  readonly number: number;

  constructor(number: number) {
    this.number = number;
  }
}

/** What a call returns, and a program. */
export const r0 = new Register(0);
// Arguments of a call, which loses them.
export const r1 = new Register(1);
export const r2 = new Register(2);
export const r3 = new Register(3);
export const r4 = new Register(4);
export const r5 = new Register(5);
// Kept by calls.
export const r6 = new Register(6);
export const r7 = new Register(7);
export const r8 = new Register(8);
export const r9 = new Register(9);
/** End of the stack frame, which is the 512 bytes below; read-only. */
export const r10 = new Register(10);

export type Width = 1 | 2 | 4 | 8;

/** Bytes in memory at `base` + `offset`. */
export interface Memory {
  readonly base: Register;
  readonly offset: number;
  /** 1, 2, 4 or 8 can be loaded and stored; of others only the address can be taken. */
  readonly bytes: number;
}

export function memory(base: Register, offset: number, bytes: number): Memory {
  return { base, offset, bytes };
}

/** A field of the record that `base` points to. */
export function field<Field extends string>(base: Register, record: Struct<Field>, name: Field): Memory {
  return { base, offset: record.at[name], bytes: record.bytes[name] };
}

/** The same place, `offset` bytes further, as `bytes` bytes: an element of an array, a word of an address. */
export function part(whole: Memory, offset: number, bytes: number): Memory {
  assert(offset + bytes <= whole.bytes, 'the part is outside the whole');
  return { base: whole.base, offset: whole.offset + offset, bytes };
}

/** A program's locals: its stack frame as a record. */
export class Frame<Field extends string> {
  readonly #record: Struct<Field>;
  readonly #bottom: number;

  constructor(record: Struct<Field>) {
    this.#record = record;
    this.#bottom = -8 * Math.ceil(record.size / 8);
    assert(this.#bottom >= -512, `a stack frame has 512 bytes, not ${record.size}`);
  }

  at(name: Field): Memory {
    return {
      base: r10,
      offset: this.#bottom + this.#record.at[name],
      bytes: this.#record.bytes[name],
    };
  }
}
