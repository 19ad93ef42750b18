/**
 * How eBPF encodes an instruction: the numbers of RFC 9669, by the words that the assembler has for them.
 *
 * Instruction, 8 bytes, little-endian (RFC 9669 section 3):
 *
 *     byte 0      opcode
 *     byte 1      source register (4 bits) | destination register (4)
 *     byte 2..3   offset, signed: of memory, or of a jump, in instructions after the next
 *     byte 4..7   immediate, signed
 */
import type { Width } from './memory.ts';

export const OPERATIONS = {
  add: 0x00,
  sub: 0x10,
  mul: 0x20,
  div: 0x30,
  or: 0x40,
  and: 0x50,
  shiftLeft: 0x60,
  shiftRight: 0x70,
  mod: 0x90,
  xor: 0xa0,
  mov: 0xb0,
} as const;
export type Operation = keyof typeof OPERATIONS;

/** Comparisons are unsigned but for the two that say otherwise. `has` is: any of these bits is set. */
export const CONDITIONS = {
  '==': 0x10,
  '>': 0x20,
  '>=': 0x30,
  has: 0x40,
  '!=': 0x50,
  'signed >': 0x60,
  '<': 0xa0,
  '<=': 0xb0,
  'signed <': 0xc0,
} as const;
export type Condition = keyof typeof CONDITIONS;

export const WIDTHS: Readonly<Record<Width, number>> = { 1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18 };

export const CLASS = {
  load: 0x01,
  storeImmediate: 0x02,
  store: 0x03,
  alu32: 0x04,
  jump: 0x05,
  jump32: 0x06,
  alu: 0x07,
};
export const FROM_REGISTER = 0x08;
export const MEMORY_MODE = 0x60;
export const ATOMIC_MODE = 0xc0;
export const CALL = 0x80;
export const EXIT = 0x90;
export const TO_BIG_ENDIAN = 0xdc;
export const LOAD_WIDE = 0x18;
export const PSEUDO_MAP = 1;
export const PSEUDO_MAP_VALUE = 2;
export const PSEUDO_FUNCTION = 4;
export const PSEUDO_CALL = 1;
export const FETCH = 0x01;
export const COMPARE_EXCHANGE = 0xf1;

export const INSTRUCTION_BYTES = 8;

export interface Instruction {
  readonly opcode: number;
  readonly destination: number;
  readonly source: number;
  readonly offset: number;
  readonly immediate: number;
  /** Where it was asked for, if that is wanted. */
  readonly site: Error | undefined;
  /** Jumps, calls and addresses of subprograms: where to. */
  readonly target: string | undefined;
  readonly map: string | undefined;
}

/** Else what has a target calls or names a subprogram. */
export function isJump(opcode: number): boolean {
  return opcode !== (CLASS.jump | CALL) && opcode !== LOAD_WIDE;
}
