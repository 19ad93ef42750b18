/**
 * Asks the program `steward` to end sessions, pins and resting reverse records: it does the same bookkeeping as the packet
 * path, and looks again whether what was idle a moment ago still is. Requests gather, and are done in one system call.
 */
import type { Bpf } from './loader.ts';
import type { MappedArray } from './mapped-array.ts';
import { MAX_REQUESTS, REQUEST, REQUESTS, STEWARD } from './records.ts';
import { doRequests, type Requests } from './requests.ts';

export type StewardOperation = keyof typeof STEWARD;

/** Part of an array of u32. */
export interface WordRange {
  readonly from: number;
  readonly count: number;
}

export class Steward {
  readonly #requests: Requests;
  #count = 0;
  #done = 0;

  /** @param program the steward's descriptor, which is taken over */
  constructor(bpf: Bpf, program: number, memory: MappedArray) {
    this.#requests = { bpf, program, memory, list: REQUESTS };
  }

  /** @param key of the session, the pin or the reverse record */
  add(operation: StewardOperation, key: Uint8Array): void {
    const at = this.#begin(operation);
    this.#requests.memory.bytes.set(key, at + REQUEST.at.key);
    this.#end();
  }

  /** The same for a key of so many words that begins at `from`: a sweep asks a million times. */
  addWords(operation: StewardOperation, keys: Uint32Array, { from, count }: WordRange): void {
    const at = (this.#begin(operation) + REQUEST.at.key) >> 2;
    const { u32 } = this.#requests.memory;
    for (let i = 0; i < count; i++) u32[at + i] = keys[from + i]!;
    this.#end();
  }

  /** Does what was asked for. @returns how many requests since the last call changed anything */
  flush(): number {
    this.#run();
    const done = this.#done;
    this.#done = 0;
    return done;
  }

  /** @returns where in the list the request begins */
  #begin(operation: StewardOperation): number {
    const at = REQUESTS.at.requests + this.#count * REQUEST.size;
    this.#requests.memory.setU32(at + REQUEST.at.operation, STEWARD[operation]);
    return at;
  }

  #end(): void {
    this.#count++;
    if (this.#count === MAX_REQUESTS) this.#run();
  }

  close(): void {
    this.#requests.bpf.closeFd(this.#requests.program);
  }

  #run(): void {
    const { memory } = this.#requests;
    if (this.#count === 0) return;
    memory.setU32(REQUESTS.at.done, 0);
    doRequests(this.#requests, this.#count);
    this.#done += memory.getU32(REQUESTS.at.done);
    this.#count = 0;
  }
}
