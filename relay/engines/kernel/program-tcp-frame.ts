/**
 * What the parts of the TCP programs agree on, beside program-frame.ts. Registers:
 *
 *     r6   the packet's context
 *     r7   the connection, once it is known
 *     r8   the listener's rules
 *     r9   the listener's counters, of this CPU
 *
 * The scratch has the connection's key at its begin, and behind it room for one record at a time.
 */
import { field, type Memory, memory, part, r0, r1, r2, r3, r7, r8, r9 } from './memory.ts';
import { TCX_DROP, TCX_NEXT } from './helpers.ts';
import {
  add,
  type Code,
  COUNT_DROP,
  drop,
  findBackend,
  findSnapshot,
  local,
  lookup,
  lookupAt,
  NEXT,
} from './program-frame.ts';
import { BACKEND } from './records.ts';
import { DOWNSTREAM } from '../../core/counters.ts';
import { U16, U64 } from './struct.ts';
import { TCP_CONNECTION, TCP_COUNTERS, TCP_KEY, TCP_REVERSE_KEY, TCP_RULES, TCP_SPARE } from './tcp-maps.ts';

/** Bits of a TCP header's flags (RFC 9293 section 3.1). */
export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const ACK = 16;

/** More than a window can have (RFC 7323 section 2.3): numbers further off than this are no news. */
export const MOST_WINDOW = 2 ** 30;

const ROOM_AT = 8 * Math.ceil(TCP_KEY.size / 8);
/** Behind a reverse key in the room, for the key of another connection. */
const OTHER_AT = ROOM_AT + 8 * Math.ceil(TCP_REVERSE_KEY.size / 8);
const VICTIM_AT = OTHER_AT + 8 * Math.ceil(TCP_KEY.size / 8);

export const tcpKey = (): Memory => part(local('scratch'), 0, TCP_KEY.size);
export const tcpKeyPart = (name: keyof typeof TCP_KEY.at): Memory =>
  part(tcpKey(), TCP_KEY.at[name], TCP_KEY.bytes[name]);

/** Room for a new connection, a reverse key or an element of the queue. */
export const room = (bytes: number): Memory => part(local('scratch'), ROOM_AT, bytes);
export const newConnection = (name: keyof typeof TCP_CONNECTION.at): Memory =>
  part(room(TCP_CONNECTION.size), TCP_CONNECTION.at[name], TCP_CONNECTION.bytes[name]);
export const reversePart = (name: keyof typeof TCP_REVERSE_KEY.at): Memory =>
  part(room(TCP_REVERSE_KEY.size), TCP_REVERSE_KEY.at[name], TCP_REVERSE_KEY.bytes[name]);
export const spare = (name: keyof typeof TCP_SPARE.at): Memory =>
  part(room(TCP_SPARE.size), TCP_SPARE.at[name], TCP_SPARE.bytes[name]);
/** The key of another connection, which stays beside a reverse key. */
export const otherKey = (): Memory => part(local('scratch'), OTHER_AT, TCP_KEY.size);
/** And of one more. */
export const victimKey = (): Memory => part(local('scratch'), VICTIM_AT, TCP_KEY.size);

/** A field of the connection (r7). */
export const connection = (name: keyof typeof TCP_CONNECTION.at): Memory => field(r7, TCP_CONNECTION, name);
/** A field of the listener's rules (r8). */
export const rule = (name: keyof typeof TCP_RULES.at): Memory => field(r8, TCP_RULES, name);
/** A counter of the listener, by its index. */
export const tcpCounter = (index: number): Memory => memory(r9, index * U64, U64);

/** Finds rules (r8) and counters (r9) of the listener whose index `listener` holds, which the local of that name then has too. */
export function findTcpListener(a: Code, listener: Memory): void {
  a.load(r1, listener);
  a.store(part(local('listener'), 0, U16), r1);
  lookupAt(a, 'tcp_rules', { index: r1, otherwise: NEXT });
  a.mov(r8, r0);
  lookup(a, 'tcp_counters', local('index'));
  a.jumpIf(r0, '==', 0, NEXT);
  a.mov(r9, r0);
}

/** Drops what parsing found no good: fragments, and lengths that contradict each other. */
export function dropBad(a: Code): void {
  const isGood = a.unique('segment is good');
  a.load(r1, local('verdict'));
  a.jumpIf(r1, '==', 0, isGood);
  drop(a, DOWNSTREAM, 'malformed');
  a.label(isGood);
}

/** Goes on if the connection's (r7) backend is the one it was, and usable. */
export function requireTcpBackend(a: Code, otherwise: string): void {
  findSnapshot(a, otherwise, rule('pool'));
  a.load(r1, connection('ref'));
  a.mov(r2, r1);
  findBackend(a, r2, r3);
  a.load(r2, field(r2, BACKEND, 'usable'));
  a.jumpIf(r1, '!=', r2, otherwise);
}

/** The ways out; stands once, at the end of a packet program. `drop` comes here, and takes no reason with it. */
export function tcpWaysOut(a: Code): void {
  a.label(COUNT_DROP);
  add(a, tcpCounter(TCP_COUNTERS.dropped), { by: 1 });
  a.label('drop');
  a.mov(r0, TCX_DROP);
  a.exit();
  a.label(NEXT);
  a.mov(r0, TCX_NEXT);
  a.exit();
}
