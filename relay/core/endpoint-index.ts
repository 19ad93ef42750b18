/**
 * Finds a backend by its exact address and port: the question that each reply asks. Built once for a set of backends,
 * immutable after that.
 *
 * Open addressing with linear probing, at most a quarter full, so that a stranger's address mostly meets an empty entry
 * at once.
 */
import { ADDRESS_WORDS, type Endpoint } from '../../net/address.ts';
import { hashKey } from './hash.ts';
import { MAX_BACKENDS } from './limits.ts';

const EMPTY = -1;

export class EndpointIndex {
  /** Address words by slot, 4 each; room for MAX_BACKENDS slots. */
  readonly words = new Uint32Array(MAX_BACKENDS * ADDRESS_WORDS);
  /** Ports by slot. */
  readonly ports = new Uint16Array(MAX_BACKENDS);
  /** Slot of the backend at this address and port, or -1. Allocates nothing. */
  readonly slotAt: (words: Uint32Array, at: number, port: number) => number;

  constructor(backends: readonly { readonly slot: number; readonly endpoint: Endpoint }[]) {
    const { words, ports } = this;
    const size = 2 ** Math.ceil(Math.log2(Math.max(1, backends.length) * 4));
    const mask = size - 1;
    const table = new Int16Array(size).fill(EMPTY);

    for (const { slot, endpoint } of backends) {
      words.set(endpoint.ip.words, slot * ADDRESS_WORDS);
      ports[slot] = endpoint.port;
      let i = hashKey(endpoint.ip.words, 0, endpoint.port, 0) & mask;
      while (table[i] !== EMPTY) i = (i + 1) & mask;
      table[i] = slot;
    }

    this.slotAt = (remote, at, port) => {
      for (let i = hashKey(remote, at, port, 0) & mask; ; i = (i + 1) & mask) {
        const slot = table[i]!;
        if (slot === EMPTY) return EMPTY;
        const own = slot * ADDRESS_WORDS;
        if (
          ports[slot] === port &&
          words[own + 3] === remote[at + 3] &&
          words[own + 2] === remote[at + 2] &&
          words[own + 1] === remote[at + 1] &&
          words[own] === remote[at]
        )
          return slot;
      }
    };
  }
}
