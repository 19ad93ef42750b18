/**
 * An assembler for eBPF: each method appends one instruction; `finish` resolves labels and gives the bytes that bpf(2)
 * takes once the maps' descriptors are linked in. What the verifier would refuse with a riddle, misuse of registers, ranges,
 * labels, the stack, is refused here with the source line that asked for it. Whether a program is safe is the verifier's
 * business.
 *
 * Instruction, 8 bytes, little-endian (RFC 9669 section 3):
 *
 *     byte 0      opcode
 *     byte 1      source register (4 bits) | destination register (4)
 *     byte 2..3   offset, signed: of memory, or of a jump, in instructions after the next
 *     byte 4..7   immediate, signed
 */
import type { Memory, Register, Width } from './memory.ts';

const OPERATIONS = {
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
const CONDITIONS = {
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

const WIDTHS: Readonly<Record<Width, number>> = { 1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18 };

const CLASS = {
  load: 0x01,
  storeImmediate: 0x02,
  store: 0x03,
  alu32: 0x04,
  jump: 0x05,
  jump32: 0x06,
  alu: 0x07,
};
const FROM_REGISTER = 0x08;
const MEMORY_MODE = 0x60;
const ATOMIC_MODE = 0xc0;
const CALL = 0x80;
const EXIT = 0x90;
const TO_BIG_ENDIAN = 0xdc;
const LOAD_WIDE = 0x18;
const PSEUDO_MAP = 1;
const PSEUDO_MAP_VALUE = 2;
const PSEUDO_FUNCTION = 4;
const PSEUDO_CALL = 1;
const FETCH = 0x01;
const COMPARE_EXCHANGE = 0xf1;

const STACK_BYTES = 512;
const FRAME_POINTER = 10;
const INSTRUCTION_BYTES = 8;

/** A programmer's mistake in a program, with the line that made it. */
export class AssemblyError extends Error {
  constructor(line: string, problem: string) {
    super(`${line}: ${problem}`);
    this.name = 'AssemblyError';
  }
}

/** The program itself, at 0, and its subprograms. */
export interface FunctionStart {
  readonly name: string;
  /** Its first instruction, by number. */
  readonly at: number;
}

export interface Assembled<MapName extends string> {
  /** The bytes for bpf(2), with the descriptors of the maps in. */
  readonly link: (descriptors: Readonly<Record<MapName, number>>) => Uint8Array;
  /** The source line of each instruction, `program.ts:12`: the verifier speaks of instructions by number. */
  readonly lines: () => readonly string[];
  /** In the order in which they stand. */
  readonly functions: readonly FunctionStart[];
}

interface Instruction {
  readonly opcode: number;
  readonly destination: number;
  readonly source: number;
  readonly offset: number;
  readonly immediate: number;
  /** Where it was asked for. Naming the line takes long, so it is done when somebody asks. */
  readonly site: Error;
  /** Jumps, calls and addresses of subprograms: where to. */
  readonly target?: string;
  readonly map?: string;
}

type Parts = Partial<Omit<Instruction, 'opcode' | 'site'>>;

export class Assembler<MapName extends string> {
  readonly #maps: ReadonlySet<string>;
  readonly #instructions: Instruction[] = [];
  readonly #labels = new Map<string, number>();
  readonly #subprograms: (() => void)[] = [];
  /** The register that stands for r10. */
  #frame = FRAME_POINTER;
  #unnamed = 0;

  /** @param maps the maps that the program may name */
  constructor(maps: Iterable<MapName>) {
    this.#maps = new Set(maps);
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
    this.#append(TO_BIG_ENDIAN, { destination: this.#writable(destination), immediate: bits });
  }

  load(destination: Register, from: Memory): void {
    const parts = { destination: this.#writable(destination), source: this.#base(from) };
    this.#append(CLASS.load | MEMORY_MODE | this.#width(from), { ...parts, offset: this.#place(from) });
  }

  /** An immediate operand is sign-extended to 8 bytes. */
  store(to: Memory, operand: Register | number): void {
    const parts = { destination: this.#base(to), offset: this.#place(to) };
    const mode = MEMORY_MODE | this.#width(to);
    if (typeof operand === 'number')
      this.#append(CLASS.storeImmediate | mode, {
        ...parts,
        immediate: this.#immediate(operand, to.bytes === 8 ? 64 : 32),
      });
    else this.#append(CLASS.store | mode, { ...parts, source: operand.number });
  }

  addressOf(destination: Register, of: Memory): void {
    const parts = { destination: this.#writable(destination), source: this.#base(of) };
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
    this.#append(CLASS.jump, { target });
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
    this.#append(CLASS.jump | CALL, { immediate: helper });
  }

  /** Calls a subprogram of this program: the same, with r6 to r9 kept and a stack frame of its own. */
  callSubprogram(target: string): void {
    this.#append(CLASS.jump | CALL, { source: PSEUDO_CALL, target });
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
    this.#append(CLASS.jump | EXIT, {});
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
    const code = this.#instructions;
    const targets = code.map((instruction, i) => this.#distance(instruction, i));
    this.#findUnreachable(targets);
    const template = new Uint8Array(code.length * INSTRUCTION_BYTES);
    const view = new DataView(template.buffer);
    code.forEach(({ opcode, destination, source, offset, immediate, target }, i) => {
      const at = i * INSTRUCTION_BYTES;
      const isCall = !isJump(opcode);
      template[at] = opcode;
      template[at + 1] = (source << 4) | destination;
      view.setInt16(at + 2, target === undefined || isCall ? offset : targets[i]!, true);
      view.setInt32(at + 4, target !== undefined && isCall ? targets[i]! : immediate, true);
    });
    const references = code.flatMap(({ map }, i) => (map === undefined ? [] : [{ map: map as MapName, i }]));
    return {
      lines: () => code.map(({ site }) => lineOf(site)),
      functions: this.#functions(),
      link: (descriptors) => {
        const bytes = template.slice();
        const linked = new DataView(bytes.buffer);
        for (const { map, i } of references)
          linked.setInt32(i * INSTRUCTION_BYTES + 4, descriptors[map], true);
        return bytes;
      },
    };
  }

  #calculate(
    kind: number,
    operation: Operation,
    { destination, operand, bits }: { destination: Register; operand: Register | number; bits: 32 | 64 },
  ): void {
    const opcode = kind | OPERATIONS[operation];
    const parts = { destination: this.#writable(destination) };
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
    const parts = { destination: left.number, target };
    if (typeof right !== 'number') this.#append(opcode | FROM_REGISTER, { ...parts, source: right.number });
    else this.#append(opcode, { ...parts, immediate: this.#immediate(right, bits) });
  }

  #atomic(to: Memory, operand: Register, immediate: number): void {
    if (to.bytes !== 4 && to.bytes !== 8) this.#refuse(`an atomic operation on ${to.bytes} bytes`);
    const parts = {
      destination: this.#base(to),
      source: operand.number,
      offset: this.#place(to),
      immediate,
    };
    this.#append(CLASS.store | ATOMIC_MODE | this.#width(to), parts);
  }

  #wide(
    destination: Register,
    { source = 0, immediate = 0, upper = 0, map, target }: Parts & { upper?: number },
  ): void {
    if (map !== undefined && !this.#maps.has(map)) this.#refuse(`there is no map "${map}"`);
    const reference = { ...(map === undefined ? {} : { map }), ...(target === undefined ? {} : { target }) };
    this.#append(LOAD_WIDE, { destination: this.#writable(destination), source, immediate, ...reference });
    this.#append(0, { immediate: upper });
  }

  #append(opcode: number, parts: Parts): void {
    const none = { destination: 0, source: 0, offset: 0, immediate: 0 };
    this.#instructions.push({ ...none, ...parts, opcode, site: new Error() });
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

  #distance({ target, site, opcode }: Instruction, i: number): number {
    if (target === undefined) return 0;
    const to = this.#labels.get(target);
    if (to === undefined) throw new AssemblyError(lineOf(site), `there is no label "${target}"`);
    const distance = to - i - 1;
    if (isJump(opcode) && (distance < -0x8000 || distance > 0x7fff))
      throw new AssemblyError(
        lineOf(site),
        `"${target}" is ${distance} instructions away, which does not fit into 16 bits`,
      );
    return distance;
  }

  #functions(): readonly FunctionStart[] {
    const starts = new Map([[0, 'program']]);
    for (const { target, opcode } of this.#instructions)
      if (target !== undefined && !isJump(opcode)) starts.set(this.#labels.get(target)!, target);
    return [...starts].map(([at, name]) => ({ at, name })).sort((one, other) => one.at - other.at);
  }

  /** Follows every path from the first instruction. */
  #findUnreachable(distances: readonly number[]): void {
    const code = this.#instructions;
    const reached = new Set<number>();
    const pending = [0];
    for (let i = pending.pop(); i !== undefined; i = pending.pop()) {
      if (reached.has(i)) continue;
      const instruction = code[i];
      if (instruction === undefined)
        throw new AssemblyError(lineOf(code.at(-1)?.site), 'the end is reached without an exit');
      reached.add(i);
      if (instruction.opcode === (CLASS.jump | EXIT)) continue;
      if (instruction.target !== undefined) pending.push(i + 1 + distances[i]!);
      if (instruction.opcode !== CLASS.jump) pending.push(i + 1);
    }
    const lost = code.findIndex((_, i) => !reached.has(i));
    if (lost !== -1) throw new AssemblyError(lineOf(code[lost]!.site), 'nothing reaches this instruction');
  }

  #refuse(problem: string): never {
    throw new AssemblyError(lineOf(new Error()), problem);
  }
}

/** Else what has a target calls or names a subprogram. */
function isJump(opcode: number): boolean {
  return opcode !== (CLASS.jump | CALL) && opcode !== LOAD_WIDE;
}

/** The nearest line of the call stack that is not of this file: `program.ts:12`. */
function lineOf(site: Error | undefined): string {
  const frames = site?.stack?.split('\n').slice(1) ?? [];
  const frame = frames.find((text) => !/[/\\]assembler\.[tj]s/.test(text)) ?? '';
  const match = /([^/\\]+\.[tj]s):(\d+)/.exec(frame);
  return match === null ? 'unknown line' : `${match[1]!}:${match[2]!}`;
}
