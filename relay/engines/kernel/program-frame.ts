/**
 * What the parts of the packet programs agree on: registers, locals, and the shortest pieces of code.
 *
 *     r6   the packet's context (struct __sk_buff)
 *     r7   the session, once it is known; before that whatever a part needs
 *     r8   the listener's rules
 *     r9   the listener's counters, of this CPU
 */
import { BPF_EXIST } from '../../../net/linux/abi.ts';
import {
  DROPS,
  FORWARDED,
  FORWARDED_BYTES,
  PER_DIRECTION,
  RECEIVED,
  RECEIVED_BYTES,
} from '../../core/counters.ts';
import { dropReason, type DropReasonName } from '../../core/drop-reason.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import type { Assembler } from './assembler.ts';
import { HELPER, SKB, TCX_DROP, TCX_NEXT } from './helpers.ts';
import type { MapName } from './maps.ts';
import {
  field,
  Frame,
  type Memory,
  memory,
  part,
  r0,
  r1,
  r10,
  r2,
  r3,
  r4,
  r6,
  r7,
  r8,
  r9,
  type Register,
} from './memory.ts';
import {
  BACKEND,
  LISTENER_KEY,
  PIN_KEY,
  POOL,
  REVERSE,
  REVERSE_KEY,
  RULES,
  SESSION,
  SESSION_KEY,
  SETTINGS,
  SNAPSHOT,
} from './records.ts';
import { ADDRESS, struct, U16, U32, U64 } from './struct.ts';
import { TCP_CONNECTION, TCP_KEY } from './tcp-maps.ts';

export type Code = Assembler<MapName>;

/** Ways out, at the end of each program. */
export const NEXT = 'next';
export const COUNT_DROP = 'count drop';

/** Room for records that are being made, one after the other; the largest is a TCP connection, behind its key. */
const SCRATCH_BYTES = 8 * Math.ceil(TCP_KEY.size / 8) + TCP_CONNECTION.size;

/** A session that may make room, when it was opened, and the relay port that it has. */
export const VICTIM = struct({ session: SESSION_KEY.size, port: U32, openedNs: U64 });

/** Locals of the packet programs. */
const LOCALS = new Frame(
  struct({
    // The three are a SESSION_KEY.
    client: ADDRESS,
    clientPort: U16,
    listener: U16,
    /** Bits of the port that decided whether to look closer. */
    portFlags: U16,
    /** What its record says of whom the packet may be for (program-parse.ts). */
    guess: U16,
    // The two are a LISTENER_KEY.
    contacted: ADDRESS,
    contactedPort: U32,
    /** The backend reference that was chosen. */
    ref: U32,
    // The verifier knows what is in these, since each has eight bytes for itself.
    /** 1 for IPv6. */
    isV6: U64,
    /** 1 while a session that lives gets another backend. */
    isRepin: U64,
    /** Why the packet is no good, as a drop reason + 1, or 0. */
    verdict: U64,
    /** Offset of the UDP or TCP header in the packet. */
    transport: U64,
    /** Bytes of the payload. */
    bytes: U64,
    /** Datagrams in the packet: several where the system passes a batch as one. */
    datagrams: U64,
    nowNs: U64,
    /** Address of the pool's snapshot. */
    snapshot: U64,
    /** Address of the client's pin, or 0. */
    pin: U64,
    // Where r6, r8 and r9 are kept while they serve for something else.
    context: U64,
    rules: U64,
    counters: U64,
    /** TCP: the bits of the header's flags. */
    tcpFlags: U64,
    sequence: U32,
    acknowledged: U32,
    /** TCP: bits of what the connection is counted in (tcp-maps.ts). */
    counted: U64,
    // The two are a PIN_KEY.
    pinAddress: ADDRESS,
    pinListener: U32,
    /** Key of arrays. */
    index: U32,
    /** A session or pin that may make room. */
    victim: VICTIM.size,
    scratch: SCRATCH_BYTES,
  }),
);

export const local = (name: Parameters<typeof LOCALS.at>[0]): Memory => LOCALS.at(name);

export const sessionKey = (): Memory => ({ ...local('client'), bytes: SESSION_KEY.size });
export const listenerKey = (): Memory => ({ ...local('contacted'), bytes: LISTENER_KEY.size });
export const pinKey = (): Memory => ({ ...local('pinAddress'), bytes: PIN_KEY.size });

/** A field of the reverse key in the scratch. */
export const reverseKey = (name: keyof typeof REVERSE_KEY.at): Memory =>
  part(local('scratch'), REVERSE_KEY.at[name], REVERSE_KEY.bytes[name]);

const REVERSE_VALUE_AT = 8 * Math.ceil(REVERSE_KEY.size / 8);

/** A field of the value of a reverse record, behind its key in the scratch. */
export const reverseValue = (name: keyof typeof REVERSE.at): Memory =>
  part(local('scratch'), REVERSE_VALUE_AT + REVERSE.at[name], REVERSE.bytes[name]);

/** Room for the key of another session, behind the reverse record in the scratch. */
export const otherSession = (): Memory =>
  part(local('scratch'), REVERSE_VALUE_AT + REVERSE.size, SESSION_KEY.size);

/** Stores the reverse record of the session (r7) under the key in the scratch; r0 = 0, or what forbade it. */
export function writeReverse(a: Code, flags: number): void {
  copy(a, reverseValue('session'), { from: sessionKey() });
  a.load(r1, field(r7, SESSION, 'ref'));
  a.store(reverseValue('ref'), r1);
  copy(a, reverseValue('attachedNs'), { from: field(r7, SESSION, 'attachedNs') });
  update(a, 'reverse', { key: local('scratch'), value: reverseValue('session'), flags });
}

/** to = from, in the widest steps that the stack's alignment of 8 allows. Loses `via`. */
export function copy(a: Code, to: Memory, { from, via = r1 }: { from: Memory; via?: Register }): void {
  for (let at = 0; at < from.bytes;) {
    const left = from.bytes - at;
    const step =
      left >= 8 && (to.offset + at) % 8 === 0 && (from.offset + at) % 8 === 0 ? 8 : left >= 4 ? 4 : 2;
    a.load(via, part(from, at, step));
    a.store(part(to, at, step), via);
    at += step;
  }
}

/** Jumps unless two addresses are equal. Loses r1 and r2. */
export function jumpUnlessSame(
  a: Code,
  one: Memory,
  { other, target }: { other: Memory; target: string },
): void {
  for (let at = 0; at < ADDRESS; at += 8) {
    a.load(r1, part(one, at, 8));
    a.load(r2, part(other, at, 8));
    a.jumpIf(r1, '!=', r2, target);
  }
}

/** to = 1 for IPv6, else 0. The verifier must not learn from a jump what the local is, or it goes two ways from there. */
export function loadIsV6(a: Code, to: Register): void {
  a.load(to, local('isV6'));
  a.alu('and', to, 1);
}

/** Loses r1. */
export function jumpIfV6(a: Code, target: string): void {
  loadIsV6(a, r1);
  a.jumpIf(r1, '!=', 0, target);
}

/** Jumps if an address on the stack is unspecified, multicast or broadcast. Loses r1 and r2. */
export function jumpUnlessUnicast(a: Code, address: Memory, target: string): void {
  const [v6, isUnicast] = [a.unique('address is IPv6'), a.unique('address is unicast')];
  jumpIfV6(a, v6);
  a.load(r1, part(address, 12, 1));
  a.jumpIf(r1, '==', 0, target);
  a.jumpIf(r1, '>=', 224, target);
  a.jump(isUnicast);
  a.label(v6);
  a.load(r1, part(address, 0, 1));
  a.jumpIf(r1, '==', 0xff, target);
  a.load(r1, part(address, 0, 8));
  a.load(r2, part(address, 8, 8));
  a.alu('or', r1, r2);
  a.jumpIf(r1, '==', 0, target);
  a.label(isUnicast);
}

/** r0 = the element of a hash or array, or 0. */
export function lookup(a: Code, map: MapName, key: Memory): void {
  a.addressOf(r2, key);
  a.loadMap(r1, map);
  a.call(HELPER.mapLookup);
}

/** r0 = the element of an array at the index that `index` holds, or a jump. */
export function lookupAt(
  a: Code,
  map: MapName,
  { index, otherwise }: { index: Register | number; otherwise: string },
): void {
  a.store(local('index'), index);
  lookup(a, map, local('index'));
  a.jumpIf(r0, '==', 0, otherwise);
}

/** Stores an element of a hash; r0 = 0, or what forbade it. */
export function update(
  a: Code,
  map: MapName,
  { key, value, flags }: { key: Memory; value: Memory; flags: number },
): void {
  a.addressOf(r2, key);
  a.addressOf(r3, value);
  a.mov(r4, flags);
  a.loadMap(r1, map);
  a.call(HELPER.mapUpdate);
}

/** memory += register or number, not atomically: of this CPU's counters, and of what one CPU writes. */
export function add(a: Code, to: Memory, { by, via = r1 }: { by: Register | number; via?: Register }): void {
  a.load(via, to);
  a.alu('add', via, by);
  a.store(to, via);
}

/** Appends what r2 points to; a full queue forgets its oldest. */
export function push(a: Code, queue: 'pin_order'): void {
  a.mov(r3, BPF_EXIST);
  a.loadMap(r1, queue);
  a.call(HELPER.mapPush);
}

/** r0 = 0, and local victim = the queue's oldest element. */
export function pop(a: Code, queue: 'pin_order'): void {
  a.addressOf(r2, local('victim'));
  a.loadMap(r1, queue);
  a.call(HELPER.mapPop);
}

/**
 * Does `round` up to `most` times, until it goes to `stop`; `next` is its end. The verifier follows a round until the next one is
 * nothing new, whatever `most` is. A round is a subprogram without a stack of its own: locals are the program's, r1 is the number of the
 * round from 0, r9 is taken, r0 to r8 are free, and what a register had outside must come by a local. Loses r0 to r5.
 */
export function loop(
  a: Code,
  { name, most }: { readonly name: string; readonly most: number },
  round: (ways: { readonly next: string; readonly stop: string }) => void,
): void {
  const ways = { next: `${name}: next round`, stop: `${name}: stop` };
  a.mov(r1, most);
  a.loadSubprogram(r2, name);
  a.mov(r3, r10);
  a.mov(r4, 0);
  a.call(HELPER.loop);
  a.subprogram(name, () => {
    a.mov(r9, r2);
    a.inFrame(r9, () => round(ways));
    a.label(ways.next);
    a.mov(r0, 0);
    a.exit();
    a.label(ways.stop);
    a.mov(r0, 1);
    a.exit();
  });
}

/** A counter of the listener. */
export const counter = (index: number): Memory => memory(r9, index * U64, U64);

/** local nowNs = the time. */
export function readClock(a: Code): void {
  const isFixed = a.unique('clock is fixed');
  a.loadMapValue(r1, 'settings', SETTINGS.at.fixedClockNs);
  a.load(r0, memory(r1, 0, U64));
  a.jumpIf(r0, '!=', 0, isFixed);
  a.call(HELPER.ktimeGetNs);
  a.label(isFixed);
  a.store(local('nowNs'), r0);
}

/** Finds rules (r8) and counters (r9) of the listener whose index `listener` holds. */
export function findListener(a: Code, listener: Memory, otherwise = NEXT): void {
  a.load(r1, listener);
  lookupAt(a, 'rules', { index: r1, otherwise });
  a.mov(r8, r0);
  lookup(a, 'counters', local('index'));
  a.jumpIf(r0, '==', 0, otherwise);
  a.mov(r9, r0);
}

/** Counts the packet as received, and drops it if parsing found it no good. */
export function receive(a: Code, direction: number): void {
  const base = direction * PER_DIRECTION;
  const isGood = a.unique('packet is good');
  a.load(r2, local('datagrams'));
  add(a, counter(base + RECEIVED), { by: r2 });
  a.load(r2, local('bytes'));
  add(a, counter(base + RECEIVED_BYTES), { by: r2 });
  a.load(r1, local('verdict'));
  a.jumpIf(r1, '==', 0, isGood);
  for (const name of ['malformed', 'fragment'] as const) {
    const other = a.unique(`not ${name}`);
    a.jumpIf(r1, '!=', dropReason(name) + 1, other);
    drop(a, direction, name);
    a.label(other);
  }
  a.jump(NEXT);
  a.label(isGood);
}

export function forwarded(a: Code, direction: number): void {
  const base = direction * PER_DIRECTION;
  a.load(r2, local('datagrams'));
  add(a, counter(base + FORWARDED), { by: r2 });
  a.load(r2, local('bytes'));
  add(a, counter(base + FORWARDED_BYTES), { by: r2 });
}

/** Counts and drops the packet. */
export function drop(a: Code, direction: number, reason: DropReasonName): void {
  a.mov(r1, (direction * PER_DIRECTION + DROPS + dropReason(reason)) * U64);
  a.jump(COUNT_DROP);
}

/** The ways out; stands once, at the end of a packet program. */
export function waysOut(a: Code): void {
  a.label(COUNT_DROP);
  a.alu('add', r9, r1);
  a.load(r2, local('datagrams'));
  add(a, memory(r9, 0, U64), { by: r2 });
  a.mov(r0, TCX_DROP);
  a.exit();
  a.label(NEXT);
  a.mov(r0, TCX_NEXT);
  a.exit();
}

/** r0 = address of the listener's pool's snapshot that is in force, also kept as a local; a jump when there is none. */
export function findSnapshot(a: Code, otherwise: string, pool: Memory = field(r8, RULES, 'pool')): void {
  a.load(r1, pool);
  lookupAt(a, 'pools', { index: r1, otherwise });
  a.load(r1, field(r0, POOL, 'half'));
  a.load(r2, pool);
  a.alu('shiftLeft', r2, 1);
  a.alu('add', r1, r2);
  lookupAt(a, 'snapshots', { index: r1, otherwise });
  a.store(local('index'), 0);
  a.mov(r1, r0);
  a.addressOf(r2, local('index'));
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, otherwise);
  a.store(local('snapshot'), r0);
}

/** ref = the address of the backend in the slot that the reference names, in the snapshot that is kept as a local. */
export function findBackend(a: Code, ref: Register, via: Register): void {
  a.load(via, local('snapshot'));
  a.alu('and', ref, MAX_BACKENDS - 1);
  a.alu('mul', ref, BACKEND.size);
  a.alu('add', via, ref);
  a.mov(ref, via);
  a.alu('add', ref, SNAPSHOT.at.backends);
}

/** Goes on in the program at this index, if there is one; else here. */
export function tailCall(a: Code, programs: 'tcp_programs' | 'tcp_errors', index: number): void {
  a.mov(r1, r6);
  a.loadMap(r2, programs);
  a.mov(r3, index);
  a.call(HELPER.tailCall);
}

/** to = a u32 of the packet's context. */
export function loadContext(a: Code, to: Register, name: keyof typeof SKB.at): void {
  a.load(to, field(r6, SKB, name));
}
