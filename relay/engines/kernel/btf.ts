/**
 * What the kernel has to be told of a program's functions before one of them may be handed to a helper, as bpf_loop takes it: a name and
 * a type for each. BTF (Documentation/bpf/btf.rst), as little of it as there can be; the kernel's own is not needed.
 *
 *     header     u16 magic, u8 version, u8 flags, u32 header's length,
 *                u32 offset and length of the types, u32 offset and length of the names, both from the header's end
 *     types      u32 name, u32 kind << 24 | count, u32 size or type; numbered from 1:
 *                1 `int`, 2 a function that returns one, then each function
 *     names      each ended by a zero; the first one is empty
 *
 * What the functions take is left open: the verifier follows what they are given.
 */
import type { FunctionStart } from './linker.ts';

const MAGIC = 0xeb9f;
const VERSION = 1;
const HEADER_BYTES = 24;

const KIND_INT = 1;
const KIND_FUNC = 12;
const KIND_FUNC_PROTO = 13;
/** The encoding of `int`: signed, of 32 bits. */
const SIGNED_32_BITS = (1 << 24) | 32;
const INT_BYTES = 4;

const INT = 1;
const PROTOTYPE = 2;
const FIRST_FUNCTION = 3;

/** Bytes of a record of function information: the first instruction, and the type. */
export const FUNCTION_INFO_BYTES = 8;

/** The types of these functions. */
export function functionTypes(functions: readonly FunctionStart[]): Uint8Array {
  let names = '\0';
  const add = (name: string): number => {
    const at = names.length;
    names += `${name}\0`;
    return at;
  };
  const types = [add('int'), KIND_INT << 24, INT_BYTES, SIGNED_32_BITS, 0, KIND_FUNC_PROTO << 24, INT];
  for (const { name } of functions) types.push(add(identifierOf(name)), KIND_FUNC << 24, PROTOTYPE);
  const header = new Uint32Array(HEADER_BYTES / 4);
  header.set([MAGIC | (VERSION << 16), HEADER_BYTES, 0, types.length * 4, types.length * 4, names.length]);
  return Buffer.concat([bytesOf(header), bytesOf(Uint32Array.from(types)), Buffer.from(names, 'latin1')]);
}

/** Where each function begins, and its type: FUNCTION_INFO_BYTES for each. */
export function functionInfo(functions: readonly FunctionStart[]): Uint8Array {
  return bytesOf(Uint32Array.from(functions.flatMap(({ at }, i) => [at, FIRST_FUNCTION + i])));
}

function identifierOf(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9]+/g, '_');
}

function bytesOf({ buffer }: Uint32Array): Uint8Array {
  return new Uint8Array(buffer);
}
