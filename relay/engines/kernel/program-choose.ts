/** Which backend takes a new player: the same answers as core/select.ts. */
import { MAGLEV_SLOTS } from '../../core/limits.ts';
import type { MapName } from './maps.ts';
import { field, memory, part, r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, type Register } from './memory.ts';
import { type Code, local, lookupAt } from './program-frame.ts';
import { fewestPerWeight, loadLive, loadSlot } from './program-least.ts';
import { ALGORITHM_NUMBERS, LISTENER_STATE, LIVE, RULES, SETTINGS, SNAPSHOT } from './records.ts';
import { U16, U32 } from './struct.ts';

const JHASH_INITIAL = 0xdead_beef;
const ADDRESS_BYTES = 16;

/**
 * r0 = the slot of a ready backend for the client, or a jump to `none`. Needs the local `snapshot`; keeps r6, r8, r9. Loses
 * r7.
 */
export function choose(a: Code, none: string): void {
  a.load(r7, local('snapshot'));
  a.load(r1, field(r7, SNAPSHOT, 'readyCount'));
  a.jumpIf(r1, '==', 0, none);
  a.load(r1, field(r8, RULES, 'algorithm'));
  a.jumpIf(r1, '==', ALGORITHM_NUMBERS['round-robin'], 'round robin');
  hashClient(a);
  a.alu32('mod', r0, MAGLEV_SLOTS);
  a.jumpIf(r0, '>=', MAGLEV_SLOTS, none);
  loadSlot(a, r0, 'maglev');
  a.load(r1, field(r8, RULES, 'algorithm'));
  a.jumpIf(r1, '!=', ALGORITHM_NUMBERS['least-connections'], 'chosen');
  keep(a);
  leastConnections(a);
  restore(a);
  a.jump('chosen');
  a.label('round robin');
  nextInTurn(a, none, { map: 'listener_state', at: LISTENER_STATE.at.turns });
  a.label('chosen');
}

/** r0 = jhash2 of the client's address (core/hash.ts). a, b, c are r0, r2, r3. */
export function hashClient(a: Code): void {
  const [x, y, z] = [r0, r2, r3];
  const word = (i: number): void => a.load(r4, part(local('client'), i * U32, U32));
  a.loadMapValue(r1, 'settings', SETTINGS.at.hashSeed);
  a.load(x, memory(r1, 0, U32));
  a.alu32('add', x, (JHASH_INITIAL + ADDRESS_BYTES) >>> 0);
  a.alu32('mov', y, x);
  a.alu32('mov', z, x);
  for (const [i, to] of [x, y, z].entries()) {
    word(i);
    a.alu32('add', to, r4);
  }
  // __jhash_mix: p = (p - q) ^ rol(q, bits); q += o
  for (const [p, q, o, bits] of [
    [x, z, y, 4],
    [y, x, z, 6],
    [z, y, x, 8],
    [x, z, y, 16],
    [y, x, z, 19],
    [z, y, x, 4],
  ] as const) {
    a.alu32('sub', p, q);
    rotate(a, q, bits);
    a.alu32('xor', p, r4);
    a.alu32('add', q, o);
  }
  word(3);
  a.alu32('add', x, r4);
  // __jhash_final: p = (p ^ q) - rol(q, bits)
  for (const [p, q, bits] of [
    [z, y, 14],
    [x, z, 11],
    [y, x, 25],
    [z, y, 16],
    [x, z, 4],
    [y, x, 14],
    [z, y, 24],
  ] as const) {
    a.alu32('xor', p, q);
    rotate(a, q, bits);
    a.alu32('sub', p, r4);
  }
  a.alu32('mov', x, z);
}

/** r4 = the word, rotated left. Loses r5. */
function rotate(a: Code, word: Register, bits: number): void {
  a.alu32('mov', r4, word);
  a.alu32('shiftLeft', r4, bits);
  a.alu32('mov', r5, word);
  a.alu32('shiftRight', r5, 32 - bits);
  a.alu32('or', r4, r5);
}

/** Where the turns of a listener are counted: a map by its index, and the place in its records. */
export interface Turns {
  readonly map: MapName;
  readonly at: number;
}

/** r0 = the next slot of the rotation. */
export function nextInTurn(a: Code, none: string, { map, at }: Turns): void {
  const turns = memory(r0, at, U32);
  a.load(r1, part(local('listener'), 0, U16));
  lookupAt(a, map, { index: r1, otherwise: none });
  a.mov(r2, 1);
  a.fetchAdd(turns, r2);
  a.load(r1, field(r7, SNAPSHOT, 'rotationLength'));
  a.jumpIf32(r2, '<', r1, 'in the round');
  // The round is over, or the pool has shrunk below the turn.
  a.store(turns, 1);
  a.mov(r2, 0);
  a.label('in the round');
  a.jumpIf(r2, '>=', SNAPSHOT.bytes.rotation / U16, none);
  a.mov(r0, r2);
  loadSlot(a, r0, 'rotation');
}

/** r0 = the slot with the fewest live sessions per weight, from the one that the hash prefers (r0) on. Loses r6, r8 and r9. */
function leastConnections(a: Code): void {
  a.mov(r9, r0);
  a.load(r1, field(r8, RULES, 'pool'));
  lookupAt(a, 'live', { index: r1, otherwise: 'no live sessions' });
  a.mov(r8, r0);
  a.mov(r0, r9);
  fewestPerWeight(a, (_, registers) => loadLive(a, { ...registers, size: LIVE.size }));
  a.jump('fewest sessions');
  a.label('no live sessions');
  a.mov(r0, r9);
  a.label('fewest sessions');
}

/** r6, r8 and r9 wait on the stack while they serve for something else. */
export function keep(a: Code): void {
  a.store(local('context'), r6);
  a.store(local('rules'), r8);
  a.store(local('counters'), r9);
}

export function restore(a: Code): void {
  a.load(r6, local('context'));
  a.load(r8, local('rules'));
  a.load(r9, local('counters'));
}
