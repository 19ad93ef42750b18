/** Has a steward program do the requests that were written into its map, in one system call: it does one each time it runs. */
import assert from 'node:assert/strict';
import type { Bpf } from './loader.ts';
import type { MappedArray } from './mapped-array.ts';
import type { Struct } from './struct.ts';

/** A packet for the program to run on, which it never looks at. */
const NO_PACKET = new Uint8Array(64);

export interface Requests {
  readonly bpf: Bpf;
  /** The steward's descriptor. */
  readonly program: number;
  readonly memory: MappedArray;
  readonly list: Struct<'cursor' | 'count' | 'requests'>;
}

/** @param count of requests that stand in the list */
export function doRequests({ bpf, program, memory, list: { at } }: Requests, count: number): void {
  memory.setU32(at.cursor, 0);
  memory.setU32(at.count, count);
  for (let cursor = 0; cursor < count;) {
    bpf.testRun(program, NO_PACKET, { repeat: count - cursor });
    const next = memory.getU32(at.cursor);
    assert(next > cursor, 'the steward does nothing');
    cursor = next;
  }
}
