/**
 * bpf(2) through koffi: maps are made, programs loaded and test-run, both pinned and found again. What reads and writes
 * maps is bpf-map.ts, what attaches programs attach.ts.
 *
 * Every command fills a zeroed attribute block (union bpf_attr in linux/bpf.h; offsets in net/linux/abi.ts) and hands over
 * its address. Descriptors belong to the caller, who closes them.
 */
import {
  BPF_ATTR_SIZE,
  BPF_BTF_ATTR,
  BPF_BTF_LOAD,
  BPF_INFO_ATTR,
  BPF_INFO_SIZE,
  BPF_MAP_ATTR,
  BPF_MAP_CREATE,
  BPF_NAME_LENGTH,
  BPF_OBJ_ATTR,
  BPF_OBJ_GET,
  BPF_OBJ_GET_INFO_BY_FD,
  BPF_OBJ_PIN,
  BPF_PROG_ATTR,
  BPF_PROG_LOAD,
  BPF_PROG_TEST_RUN,
  BPF_PROG_TYPE_SCHED_CLS,
  BPF_TEST_ATTR,
  EAGAIN,
  EINTR,
  ENOENT,
  ENOSPC,
  SYS_BPF,
} from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import { errnoName, type Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { FUNCTION_INFO_BYTES, functionInfo, functionTypes } from './btf.ts';
import type { FunctionStart } from './linker.ts';

/** What a map is made of; sizes in bytes. */
export interface MapSpec {
  /** At most 15 letters, digits and underscores. */
  readonly name: string;
  /** BPF_MAP_TYPE_... */
  readonly type: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  /** BPF_F_... */
  readonly flags?: number;
}

export interface ProgramSpec {
  readonly name: string;
  /** 8 bytes each, map references already descriptors. */
  readonly instructions: Uint8Array;
  /** The program and its subprograms; only needed where a helper takes one of them. */
  readonly functions?: readonly FunctionStart[];
  /** BPF_PROG_TYPE_...; default: a classifier, which tcx links attach. */
  readonly type?: number;
  /** Helpers such as bpf_ktime_get_ns are for GPL-compatible programs only; the licence is the program's, declared to the kernel. */
  readonly license?: string;
}

export interface TestRun {
  /** What the program returned, such as TC_ACT_OK. */
  readonly returned: number;
  /** The packet as the program left it. */
  readonly packet: Uint8Array;
  /** Mean time of one run. */
  readonly durationNs: number;
}

/** Room for the verifier's log; a longer one is cut by the kernel. */
const LOG_SIZE = 1 << 20;
/** What the log is to have: each instruction that was followed, or what was found in the end. */
const LOG_ALL = 1;
const LOG_VERDICT = 4;
/** Lines of the log that an error quotes: the verdict stands at the end. */
const LOG_LINES = 24;
/** Signals that may come in while a program is verified, or runs. */
const MOST_INTERRUPTIONS = 100;
const PACKET_ROOM = 1 << 16;
const PATH_ROOM = 4_096;

export class Bpf {
  readonly libc: Libc;
  readonly #attributes: Arena;
  readonly #scratch: Arena;

  constructor(libc: Libc) {
    this.libc = libc;
    this.#attributes = new Arena(libc, 4_096);
    this.#scratch = new Arena(libc, 3 * PACKET_ROOM);
  }

  /**
   * Runs one command.
   *
   * @param fill writes the attributes, all zero before
   * @returns what the kernel returns, or -errno
   */
  run(command: number, fill: (attributes: Attributes) => void): number {
    const { libc } = this;
    this.#attributes.bytes.fill(0, 0, BPF_ATTR_SIZE);
    fill(new Attributes(this.#attributes));
    const result = libc.bpf(SYS_BPF, command, this.#attributes.address, BPF_ATTR_SIZE);
    return result === -1 ? -libc.errno() : result;
  }

  /** A field of the last command's attributes, where the kernel answers in them. */
  answer(at: number): number {
    return this.#attributes.u32[at >> 2]!;
  }

  /**
   * @param innerMap of an array of maps: a map like those that it will hold
   * @returns the map's descriptor
   * @throws RelayError TICKRELAY_ERR_ENGINE
   */
  createMap(spec: MapSpec, innerMap = 0): number {
    const fd = this.run(BPF_MAP_CREATE, (attributes) => {
      attributes.u32(BPF_MAP_ATTR.type, spec.type);
      attributes.u32(BPF_MAP_ATTR.keySize, spec.keySize);
      attributes.u32(BPF_MAP_ATTR.valueSize, spec.valueSize);
      attributes.u32(BPF_MAP_ATTR.maxEntries, spec.maxEntries);
      attributes.u32(BPF_MAP_ATTR.flags, spec.flags ?? 0);
      attributes.u32(BPF_MAP_ATTR.innerMap, innerMap);
      attributes.text(BPF_MAP_ATTR.name, spec.name);
    });
    if (fd < 0) throw failure(`make the map ${spec.name} of ${spec.maxEntries} entries`, fd);
    return fd;
  }

  /** @returns the program's descriptor. @throws RelayError TICKRELAY_ERR_ENGINE with the end of the verifier's log */
  loadProgram(spec: ProgramSpec): number {
    const { instructions, functions = [] } = spec;
    const info = functionInfo(functions);
    const memory = new Arena(this.libc, instructions.length + info.length + 256 + LOG_SIZE);
    const types = functions.length === 0 ? 0 : this.#loadTypes(functions);
    try {
      const infoAt = memory.take(info.length);
      const code = memory.take(instructions.length);
      const license = memory.take(64);
      const log = memory.take(LOG_SIZE - 128);
      memory.bytes.set(instructions, code);
      memory.bytes.set(info, infoAt);
      memory.bytes.set(Buffer.from(`${spec.license ?? 'GPL'}\0`), license);
      const load = (logLevel: number): number =>
        this.run(BPF_PROG_LOAD, (attributes) => {
          attributes.u32(BPF_PROG_ATTR.type, spec.type ?? BPF_PROG_TYPE_SCHED_CLS);
          attributes.u32(BPF_PROG_ATTR.count, instructions.length / 8);
          attributes.pointer(BPF_PROG_ATTR.instructions, memory.address + code);
          attributes.pointer(BPF_PROG_ATTR.license, memory.address + license);
          attributes.text(BPF_PROG_ATTR.name, spec.name);
          if (functions.length > 0) {
            attributes.u32(BPF_PROG_ATTR.btf, types);
            attributes.u32(BPF_PROG_ATTR.functionInfoSize, FUNCTION_INFO_BYTES);
            attributes.pointer(BPF_PROG_ATTR.functionInfo, memory.address + infoAt);
            attributes.u32(BPF_PROG_ATTR.functionCount, functions.length);
          }
          if (logLevel === 0) return;
          attributes.u32(BPF_PROG_ATTR.logLevel, logLevel);
          attributes.u32(BPF_PROG_ATTR.logSize, LOG_SIZE - 128);
          attributes.pointer(BPF_PROG_ATTR.log, memory.address + log);
        });
      // The log costs time, so it is written only for a program that was refused; first as a whole, and where that has no room
      // (before Linux 6.4 its end is lost then) without the instructions.
      const fd = uninterrupted(() => load(0));
      if (fd >= 0) return fd;
      for (const level of [LOG_ALL, LOG_VERDICT]) {
        const again = uninterrupted(() => load(level));
        if (again >= 0) return again;
        if (again !== -ENOSPC) break;
      }
      throw failure(`load the program ${spec.name}`, fd, endOfLog(memory.bytes.subarray(log)));
    } finally {
      if (functions.length > 0) this.closeFd(types);
      memory.free();
    }
  }

  /**
   * Runs a classifier on one packet (BPF_PROG_TEST_RUN), without sending anything. A signal ends a run between two
   * repetitions, and then all of them are done again.
   *
   * @param packet from its Ethernet header on, at least 14 bytes
   * @param options repeat: how often; context: a struct __sk_buff, for what the packet does not say
   * @throws RelayError TICKRELAY_ERR_ENGINE
   */
  testRun(
    program: number,
    packet: Uint8Array,
    options: { readonly repeat?: number; readonly context?: Uint8Array } = {},
  ): TestRun {
    const { address, bytes } = this.#scratch;
    const { repeat = 1, context } = options;
    bytes.set(packet, 0);
    if (context !== undefined) bytes.set(context, 2 * PACKET_ROOM);
    const run = (): number =>
      this.run(BPF_PROG_TEST_RUN, (attributes) => {
        attributes.u32(BPF_TEST_ATTR.program, program);
        attributes.u32(BPF_TEST_ATTR.sizeIn, packet.length);
        attributes.u32(BPF_TEST_ATTR.sizeOut, PACKET_ROOM);
        attributes.pointer(BPF_TEST_ATTR.dataIn, address);
        attributes.pointer(BPF_TEST_ATTR.dataOut, address + PACKET_ROOM);
        attributes.u32(BPF_TEST_ATTR.repeat, repeat);
        if (context === undefined) return;
        attributes.u32(BPF_TEST_ATTR.contextSizeIn, context.length);
        attributes.pointer(BPF_TEST_ATTR.contextIn, address + 2 * PACKET_ROOM);
      });
    const result = uninterrupted(run);
    if (result < 0) throw failure(`test-run a program on ${packet.length} bytes`, result);
    const length = this.answer(BPF_TEST_ATTR.sizeOut);
    return {
      returned: this.answer(BPF_TEST_ATTR.returned) | 0,
      packet: bytes.slice(PACKET_ROOM, PACKET_ROOM + length),
      durationNs: this.answer(BPF_TEST_ATTR.durationNs),
    };
  }

  /** Gives a map, program or link a name in a BPF file system, where it outlives the process. @throws RelayError */
  pin(fd: number, path: string): void {
    const result = this.run(BPF_OBJ_PIN, (attributes) => {
      attributes.pointer(BPF_OBJ_ATTR.path, this.#path(path));
      attributes.u32(BPF_OBJ_ATTR.fd, fd);
    });
    if (result < 0) throw failure(`pin ${path}`, result);
  }

  /** @returns a descriptor of what is pinned there, or undefined when nothing is. @throws RelayError */
  open(path: string): number | undefined {
    const fd = this.run(BPF_OBJ_GET, (attributes) => attributes.pointer(BPF_OBJ_ATTR.path, this.#path(path)));
    if (fd === -ENOENT) return undefined;
    if (fd < 0) throw failure(`open the pinned ${path}`, fd);
    return fd;
  }

  /** What the kernel says of a map, program or link: its info structure. @throws RelayError */
  info(fd: number): DataView {
    const { bytes, address } = this.#scratch;
    bytes.fill(0, 0, BPF_INFO_SIZE);
    const result = this.run(BPF_OBJ_GET_INFO_BY_FD, (attributes) => {
      attributes.u32(BPF_INFO_ATTR.fd, fd);
      attributes.u32(BPF_INFO_ATTR.size, BPF_INFO_SIZE);
      attributes.pointer(BPF_INFO_ATTR.info, address);
    });
    if (result < 0) throw failure(`ask about descriptor ${fd}`, result);
    return new DataView(bytes.slice(0, BPF_INFO_SIZE).buffer);
  }

  closeFd(fd: number): void {
    this.libc.close(fd);
  }

  /** Gives the memory of commands back. Descriptors stay open. */
  close(): void {
    this.#attributes.free();
    this.#scratch.free();
  }

  /** @returns the descriptor of the types of a program's functions */
  #loadTypes(functions: readonly FunctionStart[]): number {
    const types = functionTypes(functions);
    this.#scratch.bytes.set(types, 0);
    const fd = this.run(BPF_BTF_LOAD, (attributes) => {
      attributes.pointer(BPF_BTF_ATTR.btf, this.#scratch.address);
      attributes.u32(BPF_BTF_ATTR.size, types.length);
    });
    if (fd < 0) throw failure('load the types of a program’s functions', fd);
    return fd;
  }

  #path(path: string): number {
    const text = Buffer.from(`${path}\0`);
    if (text.length > PATH_ROOM) throw new RangeError('the path is too long');
    this.#scratch.bytes.set(text, 0);
    return this.#scratch.address;
  }
}

/** Writes the fields of one command's attributes. */
export class Attributes {
  readonly #memory: Arena;

  constructor(memory: Arena) {
    this.#memory = memory;
  }

  u32(at: number, value: number): void {
    this.#memory.u32[at >> 2] = value;
  }

  pointer(at: number, address: number): void {
    this.#memory.u32[at >> 2] = address % 2 ** 32;
    this.#memory.u32[(at >> 2) + 1] = Math.floor(address / 2 ** 32);
  }

  text(at: number, value: string): void {
    this.#memory.bytes.set(Buffer.from(value.slice(0, BPF_NAME_LENGTH)), at);
  }
}

/** @param result -errno */
export function failure(what: string, result: number, detail = ''): RelayError {
  const more = detail === '' ? '' : `; the verifier says:\n${detail}`;
  return new RelayError('TICKRELAY_ERR_ENGINE', `can't ${what}: ${errnoName(-result)}${more}`);
}

/** A signal ends a verification or a test run, with EAGAIN or EINTR, and nothing is done. Each of them is heard but once. */
function uninterrupted(run: () => number): number {
  for (let interruptions = 0; ; interruptions++) {
    const result = run();
    if ((result !== -EAGAIN && result !== -EINTR) || interruptions === MOST_INTERRUPTIONS) return result;
  }
}

function endOfLog(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.subarray(0, bytes.indexOf(0))).toString('latin1');
  return text.trimEnd().split('\n').slice(-LOG_LINES).join('\n');
}
