/**
 * An assembler for eBPF: each method appends one instruction (instruction.ts). Then labels are resolved (linker.ts), which gives the bytes
 * that bpf(2) takes once the maps' descriptors are linked in. What the verifier would refuse with a riddle, misuse of registers, ranges,
 * labels, the stack, is refused here with the source line that asked for it. Whether a program is safe is the verifier's
 * business.
 */
import {
  ATOMIC_MODE,
  CALL,
  CLASS,
  COMPARE_EXCHANGE,
  type Condition,
  CONDITIONS,
  EXIT,
  FETCH,
  FROM_REGISTER,
  type Instruction,
  LOAD_WIDE,
  MEMORY_MODE,
  type Operation,
  OPERATIONS,
  PSEUDO_CALL,
  PSEUDO_FUNCTION,
  PSEUDO_MAP,
  PSEUDO_MAP_VALUE,
  TO_BIG_ENDIAN,
  WIDTHS,
} from './instruction.ts';
import { type Assembled, AssemblyError, lineOf, resolve } from './linker.ts';
import type { Memory, Register, Width } from './memory.ts';

const STACK_BYTES = 512;
const FRAME_POINTER = 10;

type Parts = Omit<Instruction, 'opcode' | 'site'>;

/** Parts begin with this, so that all are of one shape: reading them takes longer than all else where they are of many. */
const NONE: Parts = { destination: 0, source: 0, offset: 0, immediate: 0, target: undefined, map: undefined };

/**
 * Naming the lines costs several times what the program itself does, so they are only looked for when one is asked for: the program is then
 * written once more.
 *
 * @param maps the maps that the program may name
 * @param write appends the program, the same whenever it is called
 * @throws AssemblyError naming the line
 */
export function assemble<MapName extends string>(
  maps: readonly MapName[],
  write: (a: Assembler<MapName>) => void,
): Assembled<MapName> {
  const written = (options: AssemblerOptions): Assembled<MapName> => {
    const a = new Assembler(maps, options);
    write(a);
    return a.finish();
  };
  try {
    return { ...written({ isLocated: false }), lines: () => written({ isLocated: true }).lines() };
  } catch (error) {
    if (error instanceof AssemblyError) written({ isLocated: true });
    throw error;
  }
}

interface AssemblerOptions {
  /** Whether each instruction knows the line that asked for it. */
  readonly isLocated: boolean;
}

export class Assembler<MapName extends string> {
  readonly #maps: ReadonlySet<string>;
  readonly #isLocated: boolean;
  readonly #instructions: Instruction[] = [];
  readonly #labels = new Map<string, number>();
  readonly #subprograms: (() => void)[] = [];
  /** The register that stands for r10. */
  #frame = FRAME_POINTER;
  #unnamed = 0;

  constructor(maps: readonly MapName[], { isLocated }: AssemblerOptions) {
    this.#maps = new Set(maps);
    this.#isLocated = isLocated;
  }

  /** Names the place of the next instruction. */
  label(name: string): void {
    if (this.#labels.has(name)) this.#refuse(`the label "${name}" is there already`);
    this.#labels.set(name, this.#instructions.length);
  }

  /** A label name that no other one equals. */
  unique(name: string): string {
    return `${name} ${++this.#unnamed}`;
  }

  /** destination = destination OPERATION operand, in 64 bits; an immediate operand is sign-extended from 32. */
  alu(operation: Operation, destination: Register, operand: Register | number): void {
    this.#calculate(CLASS.alu, operation, { destination, operand, bits: 64 });
  }

  /** The same in 32 bits; the upper half of the destination becomes 0. */
  alu32(operation: Operation, destination: Register, operand: Register | number): void {
    this.#calculate(CLASS.alu32, operation, { destination, operand, bits: 32 });
  }

  mov(destination: Register, operand: Register | number): void {
    this.alu('mov', destination, operand);
  }

  /** Host to network order, or back: swaps the lower `bits` and clears the rest. */
  swapBytes(destination: Register, bits: 16 | 32 | 64): void {
    this.#append(TO_BIG_ENDIAN, { ...NONE, destination: this.#writable(destination), immediate: bits });
  }

  load(destination: Register, from: Memory): void {
    const parts = { ...NONE, destination: this.#writable(destination), source: this.#base(from) };
    this.#append(CLASS.load | MEMORY_MODE | this.#width(from), { ...parts, offset: this.#place(from) });
  }

  /** An immediate operand is sign-extended to 8 bytes. */
  store(to: Memory, operand: Register | number): void {
    const parts = { ...NONE, destination: this.#base(to), offset: this.#place(to) };
    const mode = MEMORY_MODE | this.#width(to);
    if (typeof operand === 'number')
      this.#append(CLASS.storeImmediate | mode, {
        ...parts,
        immediate: this.#immediate(operand, to.bytes === 8 ? 64 : 32),
      });
    else this.#append(CLASS.store | mode, { ...parts, source: operand.number });
  }

  addressOf(destination: Register, of: Memory): void {
    const parts = { ...NONE, destination: this.#writable(destination), source: this.#base(of) };
    this.#append(CLASS.alu | OPERATIONS.mov | FROM_REGISTER, parts);
    if (of.offset !== 0) this.alu('add', destination, of.offset);
  }

  /** Adds the register to 4 or 8 bytes of memory, atomically. */
  atomicAdd(to: Memory, operand: Register): void {
    this.#atomic(to, operand, 0);
  }

  /** The same; the register then has what was there before. */
  fetchAdd(to: Memory, operand: Register): void {
    this.#writable(operand);
    this.#atomic(to, operand, FETCH);
  }

  /** If the memory equals r0, stores the register there. r0 then has what was there before. */
  compareExchange(to: Memory, operand: Register): void {
    this.#atomic(to, operand, COMPARE_EXCHANGE);
  }

  jump(target: string): void {
    this.#append(CLASS.jump, { ...NONE, target });
  }

  /** Jumps if `left` CONDITION `right`, both in 64 bits. */
  jumpIf(left: Register, condition: Condition, right: Register | number, target: string): void {
    this.#compare(CLASS.jump, condition, { left, right, target, bits: 64 });
  }

  /** The same on the lower 32 bits. */
  jumpIf32(left: Register, condition: Condition, right: Register | number, target: string): void {
    this.#compare(CLASS.jump32, condition, { left, right, target, bits: 32 });
  }

  /** Calls a kernel function by its number (helpers.ts): arguments in r1 to r5, which are lost; the result in r0. */
  call(helper: number): void {
    this.#append(CLASS.jump | CALL, { ...NONE, immediate: helper });
  }

  /** Calls a subprogram of this program: the same, with r6 to r9 kept and a stack frame of its own. */
  callSubprogram(target: string): void {
    this.#append(CLASS.jump | CALL, { ...NONE, source: PSEUDO_CALL, target });
  }

  /** What `body` appends stands behind the program, as a subprogram with this label. */
  subprogram(label: string, body: () => void): void {
    this.#subprograms.push(() => {
      this.label(label);
      body();
    });
  }

  /** In `body` what is on the stack is in another frame: the one that the register has the frame pointer of. */
  inFrame(frame: Register, body: () => void): void {
    this.#frame = frame.number;
    body();
    this.#frame = FRAME_POINTER;
  }

  exit(): void {
    this.#append(CLASS.jump | EXIT, NONE);
  }

  /** destination = the map, as an argument of helpers. */
  loadMap(destination: Register, map: MapName): void {
    this.#wide(destination, { source: PSEUDO_MAP, map });
  }

  /** destination = the address of byte `offset` in the value of an array map of one element. */
  loadMapValue(destination: Register, map: MapName, offset = 0): void {
    this.#wide(destination, { source: PSEUDO_MAP_VALUE, map, upper: this.#immediate(offset, 32) });
  }

  /** destination = the address of a subprogram, as an argument of helpers. */
  loadSubprogram(destination: Register, target: string): void {
    this.#wide(destination, { source: PSEUDO_FUNCTION, target });
  }

  /** destination = 64 bits. */
  loadWide(destination: Register, value: bigint): void {
    const [lower, upper] = new Int32Array(BigInt64Array.of(BigInt.asIntN(64, value)).buffer) as unknown as [
      number,
      number,
    ];
    this.#wide(destination, { immediate: lower, upper });
  }

  /** @throws AssemblyError for an unknown label, a jump too far, instructions that nothing reaches, or a missing end */
  finish(): Assembled<MapName> {
    for (const append of this.#subprograms) append();
    return resolve<MapName>(this.#instructions, this.#labels);
  }

  #calculate(
    kind: number,
    operation: Operation,
    { destination, operand, bits }: { destination: Register; operand: Register | number; bits: 32 | 64 },
  ): void {
    const opcode = kind | OPERATIONS[operation];
    const parts = { ...NONE, destination: this.#writable(destination) };
    if (typeof operand !== 'number') {
      this.#append(opcode | FROM_REGISTER, { ...parts, source: operand.number });
      return;
    }
    if (operation.startsWith('shift') && (operand < 0 || operand >= bits))
      this.#refuse(`a shift of ${bits} bits by ${operand}`);
    if ((operation === 'div' || operation === 'mod') && operand === 0) this.#refuse('a division by 0');
    this.#append(opcode, { ...parts, immediate: this.#immediate(operand, bits) });
  }

  #compare(
    kind: number,
    condition: Condition,
    {
      left,
      right,
      target,
      bits,
    }: { left: Register; right: Register | number; target: string; bits: 32 | 64 },
  ): void {
    const opcode = kind | CONDITIONS[condition];
    const parts = { ...NONE, destination: left.number, target };
    if (typeof right !== 'number') this.#append(opcode | FROM_REGISTER, { ...parts, source: right.number });
    else this.#append(opcode, { ...parts, immediate: this.#immediate(right, bits) });
  }

  #atomic(to: Memory, operand: Register, immediate: number): void {
    if (to.bytes !== 4 && to.bytes !== 8) this.#refuse(`an atomic operation on ${to.bytes} bytes`);
    const parts = {
      ...NONE,
      destination: this.#base(to),
      source: operand.number,
      offset: this.#place(to),
      immediate,
    };
    this.#append(CLASS.store | ATOMIC_MODE | this.#width(to), parts);
  }

  #wide(destination: Register, { upper = 0, ...parts }: Partial<Parts> & { upper?: number }): void {
    const { map } = parts;
    if (map !== undefined && !this.#maps.has(map)) this.#refuse(`there is no map "${map}"`);
    this.#append(LOAD_WIDE, { ...NONE, ...parts, destination: this.#writable(destination) });
    this.#append(0, { ...NONE, immediate: upper });
  }

  #append(opcode: number, { destination, source, offset, immediate, target, map }: Parts): void {
    const site = this.#isLocated ? new Error() : undefined;
    this.#instructions.push({ opcode, destination, source, offset, immediate, target, map, site });
  }

  #base({ base }: Memory): number {
    return base.number === FRAME_POINTER ? this.#frame : base.number;
  }

  #writable(register: Register): number {
    if (register.number === FRAME_POINTER) this.#refuse('r10 is read-only');
    return register.number;
  }

  #width({ bytes }: Memory): number {
    const width = WIDTHS[bytes as Width] as number | undefined;
    if (width === undefined) this.#refuse(`${bytes} bytes can't be read or written at once`);
    return width;
  }

  #place({ base, offset, bytes }: Memory): number {
    if (offset < -0x8000 || offset > 0x7fff) this.#refuse(`the offset ${offset} does not fit into 16 bits`);
    if (base.number !== FRAME_POINTER) return offset;
    if (offset < -STACK_BYTES || offset + bytes > 0)
      this.#refuse(`bytes ${offset} to ${offset + bytes - 1} of the stack, which has -${STACK_BYTES} to -1`);
    if (offset % bytes !== 0) this.#refuse(`${bytes} bytes at ${offset} of the stack, which is not aligned`);
    return offset;
  }

  /** 64-bit instructions extend the sign; for those of 32 bits a number from 2^31 up is the same bits. */
  #immediate(value: number, bits: 32 | 64): number {
    const most = bits === 64 ? 0x7fff_ffff : 0xffff_ffff;
    if (!Number.isInteger(value) || value < -0x8000_0000 || value > most)
      this.#refuse(`the immediate ${value} does not fit into 32 bits${bits === 64 ? ' with a sign' : ''}`);
    return value | 0;
  }

  #refuse(problem: string): never {
    throw new AssemblyError(lineOf(new Error()), problem);
  }
}
