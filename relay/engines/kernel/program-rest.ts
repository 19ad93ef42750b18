/**
 * What becomes of a reverse record when its session leaves it: it rests for the quarantine, so that late replies are known as such,
 * and then is forgotten.
 *
 * The record is not touched when it is left. It has the time of its attachment in common with its session, so that without that
 * session, or with a later one in its place, it is nobody's; and a queue (`rests`) says since when:
 *
 *     over                     rested
 *       v                         v
 *       [ T0  T1  T2  T3  T4  T5 ]        T: left at, and which record
 *
 * So the end of a session costs no look at a record that no cache has, a client that comes back meanwhile takes its record over
 * without a word to the queue, and whoever waits for rests to end looks at the first one.
 */
import { HELPER } from './helpers.ts';
import { field, Frame, type Memory, memory, part, r0, r1, r2, r3, r4, r6, r7, r8, r9 } from './memory.ts';
import { type Code, copy, local, lookupAt, NEXT } from './program-frame.ts';
import { REST, REST_ENDS, REVERSE, REVERSE_KEY, SESSION, SESSION_KEY, SETTINGS } from './records.ts';
import { struct, U32, U64 } from './struct.ts';

const LEAVE_REVERSE = 'leave reverse record';

/** Of the key in the scratch, up to a multiple of 8. */
const REST_KEY_BYTES = 8 * Math.ceil(REVERSE_KEY.size / 8);

const LOCALS = new Frame(struct({ session: SESSION_KEY.size, index: U32 }));

const ends = (name: keyof typeof REST_ENDS.at): Memory => field(r1, REST_ENDS, name);

/**
 * A session that was attached at the time in r4 left the reverse record with the key that r1 points to, 8 bytes aligned, at the time
 * in r2. Loses r1 to r5.
 */
export function leaveReverse(a: Code, { mayRest }: { readonly mayRest: boolean }): void {
  a.mov(r3, mayRest ? 1 : 0);
  callLeaveReverse(a);
}

/** The same, with whether it may rest in r3. */
export function callLeaveReverse(a: Code): void {
  a.callSubprogram(LEAVE_REVERSE);
}

/** The body of `leaveReverse`: r6 key, r7 time, r8 time of the attachment. */
export function restSubprogram(a: Code): void {
  a.label(LEAVE_REVERSE);
  a.mov(r6, r1);
  a.mov(r7, r2);
  a.mov(r8, r4);
  a.jumpIf(r3, '==', 0, 'forget reverse record');
  a.loadMapValue(r1, 'rest_ends');
  a.load(r2, ends('rested'));
  a.load(r3, ends('over'));
  a.alu('sub', r2, r3);
  a.loadMapValue(r3, 'settings', SETTINGS.at.maxResting);
  a.load(r3, memory(r3, 0, U32));
  a.jumpIf(r2, '>=', r3, 'forget reverse record');
  a.mov(r2, 1);
  a.fetchAdd(ends('rested'), r2);
  const index = LOCALS.at('index');
  toPlace(a);
  a.store(index, r2);
  a.addressOf(r2, index);
  a.loadMap(r1, 'rests');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, 'reverse record is left');
  copy(a, field(r0, REST, 'key'), { from: memory(r6, 0, REST.bytes.key) });
  a.store(field(r0, REST, 'attachedNs'), r8);
  // Last, and atomically: then the rest counts, and all of it is there.
  a.fetchAdd(field(r0, REST, 'leftNs'), r7);
  a.jump('reverse record is left');

  a.label('forget reverse record');
  forget(a, { session: LOCALS.at('session'), done: 'reverse record is left' });
  a.label('reverse record is left');
  a.mov(r0, 0);
  a.exit();
}

/**
 * Ends the first rest and goes on to `done`, or to NEXT if the quarantine was not over at the time in r9. Loses r6 to r9.
 */
export function endFirstRest(a: Code, done: string): void {
  a.loadMapValue(r1, 'rest_ends');
  a.load(r2, ends('over'));
  a.load(r3, ends('rested'));
  a.jumpIf(r2, '>=', r3, NEXT);
  toPlace(a);
  lookupAt(a, 'rests', { index: r2, otherwise: NEXT });
  a.mov(r7, r0);
  a.load(r2, field(r7, REST, 'leftNs'));
  a.jumpIf(r2, '==', 0, NEXT);
  a.mov(r1, r9);
  a.alu('sub', r1, r2);
  a.loadMapValue(r2, 'settings', SETTINGS.at.quarantineNs);
  a.load(r2, memory(r2, 0, U64));
  a.jumpIf(r1, 'signed <', r2, NEXT);
  a.load(r8, field(r7, REST, 'attachedNs'));
  copy(a, part(local('scratch'), 0, REST.bytes.key), { from: field(r7, REST, 'key') });
  a.store(field(r7, REST, 'leftNs'), 0);
  a.loadMapValue(r1, 'rest_ends');
  a.mov(r2, 1);
  a.atomicAdd(ends('over'), r2);
  a.addressOf(r6, local('scratch'));
  forget(a, { session: part(local('scratch'), REST_KEY_BYTES, SESSION_KEY.size), done });
}

/** r2 = the place in `rests` of that number. Loses r1 and r3. */
function toPlace(a: Code): void {
  a.loadMapValue(r1, 'settings', SETTINGS.at.restPlaces);
  a.load(r3, memory(r1, 0, U32));
  a.alu('mod', r2, r3);
}

/**
 * Deletes the record with the key that r6 points to if it is of the attachment at the time in r8. It stays where the session that it
 * names has it: the client is back since its session was deleted, on another CPU, or speaks through another listener. Should that
 * session take it between the look and the deletion, then it has none, and its next datagram takes another one. Loses r9.
 */
function forget(a: Code, { session, done }: { readonly session: Memory; readonly done: string }): void {
  const isNobodys = a.unique('record has no session');
  a.mov(r2, r6);
  a.loadMap(r1, 'reverse');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, done);
  a.load(r1, field(r0, REVERSE, 'attachedNs'));
  a.jumpIf(r1, '!=', r8, done);
  copy(a, session, { from: field(r0, REVERSE, 'session') });
  a.load(r9, field(r0, REVERSE, 'ref'));
  findOwner(a, session, isNobodys);
  a.load(r1, field(r0, SESSION, 'attached'));
  a.jumpIf(r1, '!=', 0, done);
  a.label(isNobodys);
  a.mov(r2, r6);
  a.loadMap(r1, 'reverse');
  a.call(HELPER.mapDelete);
  a.jumpIf(r0, '!=', 0, done);
  findOwner(a, session, done);
  a.store(field(r0, SESSION, 'attached'), 0);
}

/** r0 = the session with that key, if it is seen as the record with the key (r6) and the reference (r9) says; else a jump. */
function findOwner(a: Code, session: Memory, none: string): void {
  a.addressOf(r2, session);
  a.loadMap(r1, 'sessions');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, none);
  a.load(r1, field(r0, SESSION, 'ref'));
  a.jumpIf(r1, '!=', r9, none);
  a.load(r1, field(r0, SESSION, 'seenPort'));
  a.load(r2, field(r6, REVERSE_KEY, 'seenPort'));
  a.jumpIf(r1, '!=', r2, none);
}
