/**
 * What a lookup costs in a small and in a large session table. The aim: a million sessions cost at most twice what a
 * thousand do, although the small table lives in the processor's cache and the large one in memory.
 *
 * Each lookup is of a session that is there, in an order that no prefetcher can guess, with the key in a buffer that is
 * warm, as a datagram's source is when it has just been received.
 */
import assert from 'node:assert/strict';
import { SessionTable } from '../relay/core/session-table.ts';
import { timeInTurns } from './stopwatch.ts';

const SMALL = 1_000;
const LARGE = 1_000_000;

/** Lookups in one batch, as the engines look up what they received together. */
const BATCH = 64;

export interface LookupCost {
  /** ns for one lookup, median over the turns. */
  readonly smallNs: number;
  readonly largeNs: number;
  /** largeNs / smallNs */
  readonly ratio: number;
}

export interface SessionTableLookup {
  /** Sessions in each table. */
  readonly smallSessions: number;
  readonly largeSessions: number;
  /** As the engine `mmsg` looks up what it received together: `prefetch`, then one after the other. */
  readonly batched: LookupCost;
  /** As the engine `dgram` does, which receives one datagram at a time. */
  readonly single: LookupCost;
}

export function measureSessionTableLookup(turns = 9): SessionTableLookup {
  const times = timeInTurns(
    [
      { name: 'small, batched', run: lookups(SMALL, { isBatched: true }) },
      { name: 'large, batched', run: lookups(LARGE, { isBatched: true }) },
      { name: 'small, single', run: lookups(SMALL, { isBatched: false }) },
      { name: 'large, single', run: lookups(LARGE, { isBatched: false }) },
    ],
    { turns, turnMs: 60 },
  );
  const cost = (manner: 'batched' | 'single'): LookupCost => {
    const smallNs = times.get(`small, ${manner}`)!;
    const largeNs = times.get(`large, ${manner}`)!;
    return { smallNs, largeNs, ratio: largeNs / smallNs };
  };
  return { smallSessions: SMALL, largeSessions: LARGE, batched: cost('batched'), single: cost('single') };
}

/** Fills a table and returns what looks up random sessions in it. */
function lookups(sessions: number, { isBatched }: { isBatched: boolean }): (iterations: number) => number {
  const table = new SessionTable({ capacity: sessions, seed: 0x5eed });
  const words = new Uint32Array(4 * BATCH);
  const ports = new Uint16Array(BATCH);
  const place = (slot: number, i: number): void => {
    words[4 * slot + 2] = 0xffff0000;
    words[4 * slot + 3] = addressWord(i);
    ports[slot] = clientPort(i);
  };
  for (let i = 0; i < sessions; i++) {
    place(0, i);
    table.open(0, words, 0, ports[0]!, 0);
  }
  let state = 1;
  return (iterations) => {
    let found = 0;
    const batches = Math.ceil(iterations / BATCH);
    for (let n = 0; n < batches; n++) {
      for (let slot = 0; slot < BATCH; slot++) {
        // xorshift32: a random order that costs next to nothing
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        place(slot, (state >>> 0) % sessions);
      }
      if (isBatched) table.prefetch(0, words, ports, BATCH);
      for (let slot = 0; slot < BATCH; slot++) {
        if (table.find(0, words, 4 * slot, ports[slot]!) !== -1) found++;
      }
    }
    assert.equal(found, batches * BATCH);
    return found;
  };
}

/** Distinct for each i below 2^32: multiplication by an odd number permutes the words. */
function addressWord(i: number): number {
  return Math.imul(i, 0x9e3779b1);
}

function clientPort(i: number): number {
  return 1_024 + (i % 60_000);
}
