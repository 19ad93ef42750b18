/** Which backend takes a new connection: the same answers as the user-space pool (relay/tcp/tcp-pool.ts). */
import { MAGLEV_SLOTS } from '../../core/limits.ts';
import { field, r0, r1, r2, r3, r4, r5, r7, r8, r9 } from './memory.ts';
import { hashClient, keep, nextInTurn, restore } from './program-choose.ts';
import { type Code, local, lookupAt } from './program-frame.ts';
import { fewestPerWeight, type Figures, loadLive, loadSlot } from './program-least.ts';
import { rule } from './program-tcp-frame.ts';
import { ALGORITHM_NUMBERS, SNAPSHOT } from './records.ts';
import { TCP_LISTENER_STATE, TCP_LIVE } from './tcp-maps.ts';

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
  // From here on: r8 the pool's TCP_LIVE, r6 and r9 for use.
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
  keep(a);
  a.mov(r9, r0);
  a.load(r1, rule('algorithm'));
  a.store(local('pin'), r1);
  a.load(r1, rule('pool'));
  lookupAt(a, 'tcp_live', { index: r1, otherwise: 'no walk' });
  a.mov(r8, r0);
  a.mov(r0, r9);
  figures(a, { slot: r0, count: r4, weight: r5 });
  a.load(r1, local('pin'));
  a.jumpIf(r1, '==', ALGORITHM_NUMBERS['least-connections'], 'count connections');
  a.jumpIf(r5, '!=', 0, 'has room');
  // The walk begins at the backend that the hash prefers, whatever the algorithm chose.
  hashClient(a);
  a.alu32('mod', r0, MAGLEV_SLOTS);
  a.jumpIf(r0, '>=', MAGLEV_SLOTS, 'no walk');
  loadSlot(a, r0, 'maglev');
  a.label('count connections');
  fewestPerWeight(a, figures);
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

/** Connections and weight (0 if they are the cap) of a slot below MAX_BACKENDS. Loses r1. */
const figures: Figures = (a, { slot, count, weight }) => {
  loadLive(a, { slot, count, weight, size: TCP_LIVE.size });
  // No bound is one of 2^32 - 1. Below 0, and so with its highest bit set, is what has reached it.
  a.mov(r1, slot);
  a.alu('mul', r1, TCP_LIVE.size);
  a.alu('add', r1, r8);
  a.load(r1, field(r1, TCP_LIVE, 'cap'));
  a.alu32('sub', r1, 1);
  a.alu('sub', r1, count);
  a.alu('shiftRight', r1, 63);
  a.alu('xor', r1, 1);
  a.alu('mul', weight, r1);
};
