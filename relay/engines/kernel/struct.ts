/**
 * Layouts of records that an eBPF program and TypeScript share: fields in order, with their sizes, and from that the offsets.
 * Numbers are little-endian, as the machine has them (net/address.ts); an address is 16 bytes in network order.
 */
import assert from 'node:assert/strict';

/** Bytes of an address. */
export const ADDRESS = 16;
export const U8 = 1;
export const U16 = 2;
export const U32 = 4;
export const U64 = 8;

export interface Struct<Field extends string> {
  /** Bytes of the whole. */
  readonly size: number;
  /** Offset of each field. */
  readonly at: Readonly<Record<Field, number>>;
  /** Bytes of each field. */
  readonly bytes: Readonly<Record<Field, number>>;
}

/**
 * Fields by name with their bytes, without padding between them: each number must fall on a multiple of its size, which
 * is what the eBPF verifier asks for.
 */
export function struct<const Fields extends Record<string, number>>(
  fields: Fields,
): Struct<Extract<keyof Fields, string>> {
  type Field = Extract<keyof Fields, string>;
  const at = {} as Record<Field, number>;
  let size = 0;
  for (const [name, bytes] of Object.entries(fields) as [Field, number][]) {
    const alignment = Math.min(8, bytes & -bytes);
    assert(size % alignment === 0, `${name} is at ${size}, which is no multiple of ${alignment}`);
    at[name] = size;
    size += bytes;
  }
  return { size, at, bytes: fields };
}
