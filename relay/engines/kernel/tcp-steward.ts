/** Asks the TCP steward (program-tcp-steward.ts) to end connections; requests gather, and are done in one system call. */
import assert from 'node:assert/strict';
import type { CloseReason } from '../../core/close-reason.ts';
import type { Bpf } from './loader.ts';
import type { MappedArray } from './mapped-array.ts';
import { closedCounter, MAX_TCP_REQUESTS, TCP_REQUEST, TCP_REQUESTS, TCP_STEWARD } from './tcp-maps.ts';

/** A packet for the program to run on, which it never looks at. */
const NO_PACKET = new Uint8Array(64);

export class TcpSteward {
  /** Requests that gather before a flush. */
  static readonly room = MAX_TCP_REQUESTS;
  readonly #bpf: Bpf;
  readonly #program: number;
  readonly #requests: MappedArray;
  #count = 0;

  /** @param program the steward's descriptor, which is taken over */
  constructor(bpf: Bpf, program: number, requests: MappedArray) {
    this.#bpf = bpf;
    this.#program = program;
    this.#requests = requests;
  }

  /**
   * @param key TCP_KEY of the connection, or PIN_KEY of the client IP
   * @param reason of a cut
   */
  add(operation: keyof typeof TCP_STEWARD, key: Uint8Array, reason?: CloseReason): void {
    assert(this.#count < MAX_TCP_REQUESTS);
    const at = TCP_REQUESTS.at.requests + this.#count * TCP_REQUEST.size;
    this.#requests.setU32(at + TCP_REQUEST.at.operation, TCP_STEWARD[operation]);
    this.#requests.setU32(at + TCP_REQUEST.at.reason, reason === undefined ? 0 : closedCounter(reason));
    this.#requests.bytes.set(key, at + TCP_REQUEST.at.key);
    this.#count++;
  }

  /** Does what was asked for. @returns for each request, in order, whether it cut an open connection, whose ends are to be told */
  flush(): readonly boolean[] {
    const { at } = TCP_REQUESTS;
    const requests = this.#requests;
    const count = this.#count;
    requests.setU32(at.cursor, 0);
    requests.setU32(at.count, count);
    for (let cursor = 0; cursor < count;) {
      this.#bpf.testRun(this.#program, NO_PACKET, { repeat: count - cursor });
      const next = requests.getU32(at.cursor);
      assert(next > cursor, 'the steward does nothing');
      cursor = next;
    }
    this.#count = 0;
    return Array.from({ length: count }, (_, i) => {
      return requests.getU32(at.requests + i * TCP_REQUEST.size + TCP_REQUEST.at.done) !== 0;
    });
  }

  close(): void {
    this.#bpf.closeFd(this.#program);
  }
}
