/**
 * What comes after a program is written (assembler.ts): its labels are resolved, so that every jump and call has its distance, and its
 * paths are followed, since the verifier refuses instructions that nothing reaches, without a word of which source asked for them.
 */
import { CLASS, EXIT, type Instruction, INSTRUCTION_BYTES, isJump } from './instruction.ts';

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

/** Labels: the number of the instruction that each one names. */
type Labels = ReadonlyMap<string, number>;

/** @throws AssemblyError for an unknown label, a jump too far, instructions that nothing reaches, or a missing end */
export function resolve<MapName extends string>(
  code: readonly Instruction[],
  labels: Labels,
): Assembled<MapName> {
  const targets = code.map((instruction, i) => distanceOf(instruction, i, labels));
  findUnreachable(code, targets);
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
    functions: functionsOf(code, labels),
    link: (descriptors) => {
      const bytes = template.slice();
      const linked = new DataView(bytes.buffer);
      for (const { map, i } of references) linked.setInt32(i * INSTRUCTION_BYTES + 4, descriptors[map], true);
      return bytes;
    },
  };
}

/** The nearest line of the call stack that is not the assembler's: `program.ts:12`. */
export function lineOf(site: Error | undefined): string {
  const frames = site?.stack?.split('\n').slice(1) ?? [];
  const frame = frames.find((text) => !/[/\\]assembler\.[tj]s/.test(text)) ?? '';
  const match = /([^/\\]+\.[tj]s):(\d+)/.exec(frame);
  return match === null ? 'unknown line' : `${match[1]!}:${match[2]!}`;
}

function distanceOf({ target, site, opcode }: Instruction, i: number, labels: Labels): number {
  if (target === undefined) return 0;
  const to = labels.get(target);
  if (to === undefined) throw new AssemblyError(lineOf(site), `there is no label "${target}"`);
  const distance = to - i - 1;
  if (isJump(opcode) && (distance < -0x8000 || distance > 0x7fff))
    throw new AssemblyError(
      lineOf(site),
      `"${target}" is ${distance} instructions away, which does not fit into 16 bits`,
    );
  return distance;
}

function functionsOf(code: readonly Instruction[], labels: Labels): readonly FunctionStart[] {
  const starts = new Map([[0, 'program']]);
  for (const { target, opcode } of code)
    if (target !== undefined && !isJump(opcode)) starts.set(labels.get(target)!, target);
  return [...starts].map(([at, name]) => ({ at, name })).sort((one, other) => one.at - other.at);
}

/** Follows every path from the first instruction. */
function findUnreachable(code: readonly Instruction[], distances: readonly number[]): void {
  const reached = new Uint8Array(code.length);
  const pending = [0];
  for (let i = pending.pop(); i !== undefined; i = pending.pop()) {
    if (reached[i] === 1) continue;
    const instruction = code[i];
    if (instruction === undefined)
      throw new AssemblyError(lineOf(code.at(-1)?.site), 'the end is reached without an exit');
    reached[i] = 1;
    if (instruction.opcode === (CLASS.jump | EXIT)) continue;
    if (instruction.target !== undefined) pending.push(i + 1 + distances[i]!);
    if (instruction.opcode !== CLASS.jump) pending.push(i + 1);
  }
  const lost = reached.indexOf(0);
  if (lost !== -1) throw new AssemblyError(lineOf(code[lost]!.site), 'nothing reaches this instruction');
}
