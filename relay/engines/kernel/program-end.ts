/**
 * How a session ends, whoever ends it: the packet path that finds it idle or needs its room, or the steward. Whoever
 * deletes the record does the bookkeeping, so it is done once.
 *
 *  1. what is needed of the record is copied, and the record deleted;
 *  2. its backend, listener and client IP have one live session less;
 *  3. its reverse record is left (program-rest.ts).
 *
 * Subprograms, with registers and a stack frame of their own.
 */
import { LIVE_SESSIONS } from '../../core/counters.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import { HELPER } from './helpers.ts';
import type { MapName } from './maps.ts';
import {
  field,
  Frame,
  type Memory,
  memory,
  part,
  r0,
  r1,
  r2,
  r3,
  r4,
  r6,
  r7,
  r8,
  r9,
  type Register,
} from './memory.ts';
import { type Code, copy } from './program-frame.ts';
import { changeGauge } from './program-gauge.ts';
import { halfOpenSubprogram, leaveHalfOpen } from './program-half-open.ts';
import { callLeaveReverse, restSubprogram } from './program-rest.ts';
import { LIVE, PIN, PIN_KEY, REVERSE_KEY, RULES, SESSION, SESSION_KEY } from './records.ts';
import { struct, U16, U32, U64 } from './struct.ts';

const END_SESSION = 'end session';

const LOCALS = new Frame(
  struct({
    pinAddress: PIN_KEY.bytes.address,
    pinListener: U32,
    index: U32,
    reverse: REVERSE_KEY.size,
    ref: U32,
    attachedNs: U64,
    /** Of a session that is half-open; else 0. */
    place: U32,
    attached: U16,
    mayRest: U16,
  }),
);
const local = (name: Parameters<typeof LOCALS.at>[0]): Memory => LOCALS.at(name);

export interface EndOptions {
  /** Index of the listener's counter that the end is counted in, or -1. */
  readonly counter: number;
  /** Whether the reverse record rests. */
  readonly mayRest: boolean;
}

/**
 * Ends the session with the key that r1 points to, at the time in r2. r0 = 1, or 0 when somebody else was faster. Loses r1
 * to r5.
 */
export function endSession(a: Code, { counter, mayRest }: EndOptions): void {
  a.mov(r3, counter);
  a.mov(r4, mayRest ? 1 : 0);
  a.callSubprogram(END_SESSION);
}

/** The bodies; stand once in each program that ends sessions. */
export function endSubprograms(a: Code): void {
  endSessionBody(a);
  restSubprogram(a);
  halfOpenSubprogram(a);
}

/** r6 key, r7 time, r8 counter, r9 the session and then the listener's index. */
function endSessionBody(a: Code): void {
  a.label(END_SESSION);
  a.mov(r6, r1);
  a.mov(r7, r2);
  a.mov(r8, r3);
  a.store(local('mayRest'), r4);
  lookup(a, 'sessions', r6);
  a.jumpIf(r0, '==', 0, 'session was gone');
  a.mov(r9, r0);
  copySession(a);
  a.mov(r2, r6);
  a.loadMap(r1, 'sessions');
  a.call(HELPER.mapDelete);
  a.jumpIf(r0, '!=', 0, 'session was gone');

  changeGauge(a, 'sessions', -1);
  a.load(r9, local('pinListener'));
  leaveBackend(a);
  countEnd(a);
  leavePin(a);
  a.load(r1, local('place'));
  leaveHalfOpen(a);
  a.load(r1, local('attached'));
  a.jumpIf(r1, '==', 0, 'session has ended');
  a.addressOf(r1, local('reverse'));
  a.mov(r2, r7);
  a.load(r3, local('mayRest'));
  a.load(r4, local('attachedNs'));
  callLeaveReverse(a);
  a.label('session has ended');
  a.mov(r0, 1);
  a.exit();
  a.label('session was gone');
  a.mov(r0, 0);
  a.exit();
}

/** The record may be another session's as soon as it is deleted. */
function copySession(a: Code): void {
  copy(a, local('pinAddress'), { from: field(r6, SESSION_KEY, 'address') });
  a.load(r1, field(r6, SESSION_KEY, 'listener'));
  a.store(local('pinListener'), r1);
  for (const name of ['ref', 'attached', 'attachedNs', 'place'] as const) {
    a.load(r1, field(r9, SESSION, name));
    a.store(local(name), r1);
  }
  a.load(r1, field(r9, SESSION, 'datagramsDownstream'));
  a.jumpIf(r1, '<=', 1, 'ends half-open');
  a.store(local('place'), 0);
  a.label('ends half-open');
  const parts = {
    backend: 'backend',
    seen: 'seen',
    backendPort: 'backendPort',
    seenPort: 'seenPort',
  } as const;
  for (const [to, from] of Object.entries(parts) as [keyof typeof parts, keyof typeof parts][]) {
    const there = part(local('reverse'), REVERSE_KEY.at[to], REVERSE_KEY.bytes[to]);
    copy(a, there, { from: field(r9, SESSION, from) });
  }
}

/** The backend has one session less, unless another incarnation is counted by now. */
function leaveBackend(a: Code): void {
  lookupIndex(a, 'rules', { index: r9, otherwise: 'backend is left' });
  a.load(r1, field(r0, RULES, 'pool'));
  lookupIndex(a, 'live', { index: r1, otherwise: 'backend is left' });
  a.load(r1, local('ref'));
  a.mov(r2, r1);
  a.alu('and', r2, MAX_BACKENDS - 1);
  a.alu('mul', r2, LIVE.size);
  a.alu('add', r0, r2);
  a.load(r2, field(r0, LIVE, 'ref'));
  a.jumpIf(r1, '!=', r2, 'backend is left');
  a.mov(r2, -1);
  a.atomicAdd(field(r0, LIVE, 'sessions'), r2);
  a.label('backend is left');
}

/** Atomic, since the packet path of this CPU may interrupt the steward. */
function countEnd(a: Code): void {
  lookupIndex(a, 'counters', { index: r9, otherwise: 'end is counted' });
  a.mov(r2, -1);
  a.atomicAdd(memory(r0, LIVE_SESSIONS * U64, U64), r2);
  a.jumpIf(r8, 'signed <', 0, 'end is counted');
  a.jumpIf(r8, '>=', LIVE_SESSIONS, 'end is counted');
  a.alu('shiftLeft', r8, 3);
  a.alu('add', r0, r8);
  a.mov(r2, 1);
  a.atomicAdd(memory(r0, 0, U64), r2);
  a.label('end is counted');
}

function leavePin(a: Code): void {
  a.addressOf(r2, local('pinAddress'));
  a.loadMap(r1, 'pins');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, 'pin is left');
  a.store(field(r0, PIN, 'lastUsedNs'), r7);
  a.load(r1, field(r0, PIN, 'live'));
  a.jumpIf(r1, '==', 0, 'pin is left');
  a.mov(r1, -1);
  a.atomicAdd(field(r0, PIN, 'live'), r1);
  a.label('pin is left');
}

/** r0 = the element with the key that the register points to, or 0. */
function lookup(a: Code, map: MapName, key: Register): void {
  a.mov(r2, key);
  a.loadMap(r1, map);
  a.call(HELPER.mapLookup);
}

function lookupIndex(
  a: Code,
  map: MapName,
  { index, otherwise }: { index: Register; otherwise: string },
): void {
  a.store(local('index'), index);
  a.addressOf(r2, local('index'));
  a.loadMap(r1, map);
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, otherwise);
}
