/** Asks the TCP steward (program-tcp-steward.ts) to end connections; requests gather, and are done in one system call. */
import type { CloseReason } from '../../core/close-reason.ts';
import type { Bpf } from './loader.ts';
import type { MappedArray } from './mapped-array.ts';
import { doRequests, type Requests } from './requests.ts';
import { closedCounter, MAX_TCP_REQUESTS, TCP_REQUEST, TCP_REQUESTS, TCP_STEWARD } from './tcp-maps.ts';
import assert from 'node:assert/strict';

export class TcpSteward {
  /** Requests that gather before a flush. */
  static readonly room = MAX_TCP_REQUESTS;
  readonly #requests: Requests;
  #count = 0;

  /** @param program the steward's descriptor, which is taken over */
  constructor(bpf: Bpf, program: number, memory: MappedArray) {
    this.#requests = { bpf, program, memory, list: TCP_REQUESTS };
  }

  /**
   * @param key TCP_KEY of the connection, or PIN_KEY of the client IP
   * @param reason of a cut
   */
  add(operation: keyof typeof TCP_STEWARD, key: Uint8Array, reason?: CloseReason): void {
    assert(this.#count < MAX_TCP_REQUESTS);
    const { memory } = this.#requests;
    const at = TCP_REQUESTS.at.requests + this.#count * TCP_REQUEST.size;
    memory.setU32(at + TCP_REQUEST.at.operation, TCP_STEWARD[operation]);
    memory.setU32(at + TCP_REQUEST.at.reason, reason === undefined ? 0 : closedCounter(reason));
    memory.bytes.set(key, at + TCP_REQUEST.at.key);
    this.#count++;
  }

  /** Does what was asked for. @returns for each request, in order, whether it cut an open connection, whose ends are to be told */
  flush(): readonly boolean[] {
    const { at } = TCP_REQUESTS;
    const { memory } = this.#requests;
    const count = this.#count;
    doRequests(this.#requests, count);
    this.#count = 0;
    return Array.from({ length: count }, (_, i) => {
      return memory.getU32(at.requests + i * TCP_REQUEST.size + TCP_REQUEST.at.done) !== 0;
    });
  }

  close(): void {
    this.#requests.bpf.closeFd(this.#requests.program);
  }
}
