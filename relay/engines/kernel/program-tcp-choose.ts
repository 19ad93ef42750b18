/** Which backend takes a new connection: the same answers as the user-space pool (relay/tcp/tcp-pool.ts). */
import { ALGORITHM_NUMBERS, BACKEND, SNAPSHOT, WALK } from './maps.ts';
import { MAGLEV_SLOTS, MAX_BACKENDS } from '../../core/limits.ts';
import { field, memory, r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, type Register } from './memory.ts';
import { findSlot, hashClient, loadSlot, nextInTurn } from './program-choose.ts';
import { type Code, local, lookupAt } from './program-frame.ts';
import { rule } from './program-tcp-frame.ts';
import { TCP_LISTENER_STATE, TCP_LIVE } from './tcp-maps.ts';
import { U64 } from './struct.ts';

/**
 * r0 = the slot of a ready backend for the client, or a jump. Needs the local `snapshot`; keeps r6, r8, r9. Loses r7.
 *
 *  1. the listener's algorithm; with least-connections, backends at their cap have no weight
 *  2. one that has its cap all the same: of the others, the one with the fewest connections per weight
 *  3. when all have their cap, that counts only if their connections are open: those that are still opening might be spoofed
 */
export function chooseTcp(a: Code, { none, full }: { readonly none: string; readonly full: string }): void {
  a.load(r7, local('snapshot'));
  a.load(r1, field(r7, SNAPSHOT, 'readyCount'));
  a.jumpIf(r1, '==', 0, none);
  // From here on: r8 the pool's TCP_LIVE, r6 and r9 for use; they wait on the stack.
  a.load(r1, rule('algorithm'));
  a.jumpIf(r1, '!=', ALGORITHM_NUMBERS['round-robin'], 'ask the hash');
  nextInTurn(a, none, { map: 'tcp_state', at: TCP_LISTENER_STATE.at.turns });
  a.jump('first choice');
  a.label('ask the hash');
  hashClient(a);
  a.alu32('mod', r0, MAGLEV_SLOTS);
  a.jumpIf(r0, '>=', MAGLEV_SLOTS, none);
  loadSlot(a, r0, 'maglev');
  a.label('first choice');
  a.store(local('context'), r6);
  a.store(local('rules'), r8);
  a.store(local('counters'), r9);
  a.mov(r9, r0);
  a.load(r1, rule('algorithm'));
  a.store(local('pin'), r1);
  a.load(r1, rule('pool'));
  lookupAt(a, 'tcp_live', { index: r1, otherwise: 'no walk' });
  a.mov(r8, r0);
  lookupAt(a, 'walk', { index: 0, otherwise: 'no walk' });
  a.mov(r6, r0);
  a.mov(r0, r9);
  loadFigures(a, { slot: r0, connections: r4, weight: r5 });
  a.load(r1, local('pin'));
  a.jumpIf(r1, '==', ALGORITHM_NUMBERS['least-connections'], 'count connections');
  a.jumpIf(r5, '!=', 0, 'has room');
  // The walk begins at the backend that the hash prefers, whatever the algorithm chose.
  hashClient(a);
  a.alu32('mod', r0, MAGLEV_SLOTS);
  a.jumpIf(r0, '>=', MAGLEV_SLOTS, 'no walk');
  loadSlot(a, r0, 'maglev');
  loadFigures(a, { slot: r0, connections: r4, weight: r5 });
  a.label('count connections');
  leastConnections(a);
  a.jumpIf(r5, '!=', 0, 'has room');
  a.mov(r1, r0);
  a.alu('mul', r1, TCP_LIVE.size);
  a.alu('add', r1, r8);
  a.load(r2, field(r1, TCP_LIVE, 'open'));
  a.load(r3, field(r1, TCP_LIVE, 'cap'));
  a.jumpIf(r2, '<', r3, 'has room');
  restore(a);
  a.jump(full);
  a.label('no walk');
  restore(a);
  a.jump(none);
  a.label('has room');
  restore(a);
}

function restore(a: Code): void {
  a.load(r6, local('context'));
  a.load(r8, local('rules'));
  a.load(r9, local('counters'));
}

/** Goes on from the slot in r0 over all ready ones; the position is in a map (program-choose.ts says why). */
function leastConnections(a: Code): void {
  findSlot(a, r0);
  a.load(r1, field(r1, BACKEND, 'readyIndex'));
  a.store(field(r6, WALK, 'place'), r1);
  a.load(r1, field(r7, SNAPSHOT, 'readyCount'));
  a.store(field(r6, WALK, 'left'), r1);
  a.label('next ready');
  a.jumpIfLong('least is found');
  a.load(r1, field(r6, WALK, 'left'));
  a.alu('sub', r1, 1);
  a.store(field(r6, WALK, 'left'), r1);
  a.jumpIf(r1, '==', 0, 'least is found');
  a.load(r2, field(r6, WALK, 'place'));
  a.alu('add', r2, 1);
  a.load(r1, field(r7, SNAPSHOT, 'readyCount'));
  a.jumpIf(r2, '<', r1, 'within ready');
  a.mov(r2, 0);
  a.label('within ready');
  a.store(field(r6, WALK, 'place'), r2);
  a.alu('and', r2, MAX_BACKENDS - 1);
  loadSlot(a, r2, 'ready');
  loadFigures(a, { slot: r2, connections: r3, weight: r9 });
  // connections / weight < best connections / best weight, in whole numbers
  a.mov(r1, r3);
  a.alu('mul', r1, r5);
  a.alu('mul', r9, r4);
  a.jumpIf(r1, '>=', r9, 'next ready');
  a.mov(r0, r2);
  loadFigures(a, { slot: r0, connections: r4, weight: r5 });
  a.jump('next ready');
  a.label('least is found');
}

/**
 * Connections (0 if those counted are of another incarnation) and weight (0 if they are the cap) of a slot below
 * MAX_BACKENDS. Without branches, each of which would double what the verifier has to follow. Loses r1.
 */
function loadFigures(
  a: Code,
  { slot, connections, weight }: { slot: Register; connections: Register; weight: Register },
): void {
  findSlot(a, slot);
  a.load(weight, field(r1, BACKEND, 'weight'));
  a.load(r1, field(r1, BACKEND, 'usable'));
  a.mov(connections, slot);
  a.alu('mul', connections, TCP_LIVE.size);
  a.alu('add', connections, r8);
  a.load(connections, memory(connections, 0, U64));
  // { connections, reference } less the reference: beyond 32 bits if it is another; mask = (-beyond >> 63) - 1.
  a.alu('shiftLeft', r1, 32);
  a.alu('xor', connections, r1);
  a.mov(r1, connections);
  a.alu('shiftRight', r1, 32);
  a.alu('mul', r1, -1);
  a.alu('shiftRight', r1, 63);
  a.alu('sub', r1, 1);
  a.alu('and', connections, r1);
  // No bound is one of 2^32 - 1. Below 0, and so with its highest bit set, is what has reached it.
  a.mov(r1, slot);
  a.alu('mul', r1, TCP_LIVE.size);
  a.alu('add', r1, r8);
  a.load(r1, field(r1, TCP_LIVE, 'cap'));
  a.alu32('sub', r1, 1);
  a.alu('sub', r1, connections);
  a.alu('shiftRight', r1, 63);
  a.alu('xor', r1, 1);
  a.alu('mul', weight, r1);
}
