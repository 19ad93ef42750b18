/**
 * Asks the program `steward` to end sessions, pins and resting reverse records: it does the same bookkeeping as the packet
 * path, and looks again whether what was idle a moment ago still is. Requests gather, and are done in one system call.
 */
import assert from 'node:assert/strict';
import type { Bpf } from './loader.ts';
import { MAX_REQUESTS, REQUEST, REQUESTS, STEWARD } from './maps.ts';
import type { MappedArray } from './mapped-array.ts';

export type StewardOperation = keyof typeof STEWARD;

/** A packet for the program to run on, which it never looks at. */
const NO_PACKET = new Uint8Array(64);

export class Steward {
  readonly #bpf: Bpf;
  readonly #program: number;
  readonly #requests: MappedArray;
  #count = 0;
  #done = 0;

  /** @param program the steward's descriptor, which is taken over */
  constructor(bpf: Bpf, program: number, requests: MappedArray) {
    this.#bpf = bpf;
    this.#program = program;
    this.#requests = requests;
  }

  /** @param key of the session, the pin or the reverse record */
  add(operation: StewardOperation, key: Uint8Array): void {
    const at = REQUESTS.at.requests + this.#count * REQUEST.size;
    this.#requests.setU32(at + REQUEST.at.operation, STEWARD[operation]);
    this.#requests.bytes.set(key, at + REQUEST.at.key);
    this.#count++;
    if (this.#count === MAX_REQUESTS) this.#run();
  }

  /** Does what was asked for. @returns how many requests since the last call changed anything */
  flush(): number {
    this.#run();
    const done = this.#done;
    this.#done = 0;
    return done;
  }

  close(): void {
    this.#bpf.closeFd(this.#program);
  }

  #run(): void {
    const { at } = REQUESTS;
    const requests = this.#requests;
    if (this.#count === 0) return;
    requests.setU32(at.cursor, 0);
    requests.setU32(at.done, 0);
    requests.setU32(at.count, this.#count);
    for (let cursor = 0; cursor < this.#count;) {
      this.#bpf.testRun(this.#program, NO_PACKET, { repeat: this.#count - cursor });
      const next = requests.getU32(at.cursor);
      assert(next > cursor, 'the steward does nothing');
      cursor = next;
    }
    this.#done += requests.getU32(at.done);
    this.#count = 0;
  }
}
