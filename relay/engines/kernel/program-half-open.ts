/**
 * The half-open sessions in the order of their age, so that a full table can give up the oldest one in a step or two, however many
 * sessions were established or ended since. They stand in a ring (`half_open`), each in the place of its opening:
 *
 *     looked                                      openings
 *       v                                             v
 *       [ H  dead dead dead dead  H   H  dead dead  H ]          H: half-open; dead: established since, or ended
 *            run: 4 ......back: 4       run: 2..back: 2
 *
 * An entry dies with the second datagram of its client, or with its session. What is dead beside each other is one run, which
 * knows its length at both ends; so whoever dies joins the runs on both sides (boundary tags, Knuth, The Art of Computer
 * Programming, vol. 1, 2.5), and whoever looks for the oldest passes a run as one. What a run says stays true, for what is dead stays so;
 * CPUs that join at the same time may leave one run as two. A place counts only with its own number: the ring comes round.
 *
 * `leave` is a subprogram, with registers and a stack frame of its own.
 */
import { SESSIONS_EVICTED } from '../../core/counters.ts';
import { HELPER } from './helpers.ts';
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
  r5,
  r6,
  r7,
  r8,
  r9,
  type Register,
} from './memory.ts';
import { endSession } from './program-end.ts';
import { type Code, copy, local, lookup, loop, sessionKey } from './program-frame.ts';
import { HALF_OPEN, HALF_OPEN_ENDS, SESSION, SESSION_KEY, SETTINGS } from './records.ts';
import { struct, U32 } from './struct.ts';

const LEAVE = 'leave the half-open';

/** Entries or runs that are looked at to make room for one session: the first or second one serves, unless CPUs are at odds. */
const EVICTIONS = 32;

const LOCALS = new Frame(struct({ index: U32, place: U32 }));

const ends = (name: keyof typeof HALF_OPEN_ENDS.at): Memory => field(r1, HALF_OPEN_ENDS, name);

/** The session (r7) that was opened by one datagram comes to the end of the ring. Loses r1 to r5. */
export function enterHalfOpen(a: Code): void {
  const index = local('index');
  a.load(r1, local('datagrams'));
  a.jumpIf(r1, '>', 1, 'is half-open no more');
  a.loadMapValue(r1, 'half_open_ends');
  a.mov(r2, 1);
  a.fetchAdd(ends('openings'), r2);
  a.alu32('add', r2, 1);
  a.store(field(r7, SESSION, 'place'), r2);
  loadMask(a, r1);
  a.alu32('and', r2, r1);
  a.store(index, r2);
  lookup(a, 'half_open', index);
  a.jumpIf(r0, '==', 0, 'is half-open no more');
  // Its number comes last: until then the place is nobody's.
  a.store(field(r0, HALF_OPEN, 'place'), 0);
  a.store(field(r0, HALF_OPEN, 'run'), 0);
  a.store(field(r0, HALF_OPEN, 'back'), 0);
  copy(a, field(r0, HALF_OPEN, 'session'), { from: sessionKey() });
  a.load(r2, field(r7, SESSION, 'place'));
  a.store(field(r0, HALF_OPEN, 'place'), r2);
  a.label('is half-open no more');
}

/** The session with the place in r1 is not half-open any more. Loses r0 to r5. */
export function leaveHalfOpen(a: Code): void {
  a.callSubprogram(LEAVE);
}

/** The body of `leaveHalfOpen`: r6 the place, r7 its entry, r8 and r9 what is dead before and behind it. */
export function halfOpenSubprogram(a: Code): void {
  const place = field(r0, HALF_OPEN, 'place');
  a.label(LEAVE);
  a.alu32('mov', r6, r1);
  a.jumpIf(r6, '==', 0, 'has left');
  entryAt(a, r6, 'has left');
  a.mov(r7, r0);
  a.load(r1, field(r7, HALF_OPEN, 'run'));
  a.jumpIf(r1, '!=', 0, 'has left');

  for (const [run, by, tag] of [
    [r8, -1, 'back'],
    [r9, 1, 'run'],
  ] as const) {
    const known = a.unique('run is known');
    a.mov(run, 0);
    a.alu32('mov', r1, r6);
    a.alu32('add', r1, by);
    entryAt(a, r1, known);
    // 0 where that one is half-open.
    a.load(run, field(r0, HALF_OPEN, tag));
    a.label(known);
  }
  for (const [run, tag] of [
    [r8, 'back'],
    [r9, 'run'],
  ] as const) {
    a.alu32('mov', r1, run);
    a.alu32('add', r1, 1);
    a.store(field(r7, HALF_OPEN, tag), r1);
  }

  for (const [run, operation, tag] of [
    [r8, 'sub', 'run'],
    [r9, 'add', 'back'],
  ] as const) {
    const joined = a.unique('run is joined');
    a.jumpIf(run, '==', 0, joined);
    a.alu32('mov', r1, r6);
    a.alu32(operation, r1, run);
    entryAt(a, r1, joined);
    a.alu32('mov', r1, r8);
    a.alu32('add', r1, r9);
    a.alu32('add', r1, 1);
    a.store(field(r0, HALF_OPEN, tag), r1);
    a.label(joined);
  }
  a.label('has left');
  a.mov(r0, 0);
  a.exit();

  /** r0 = the entry at the place in the register, if it is still that one's. Loses r1 to r5. */
  function entryAt(a: Code, at: Register, otherwise: string): void {
    const wanted = LOCALS.at('place');
    a.store(wanted, at);
    a.mov(r2, at);
    loadMask(a, r1);
    a.alu32('and', r2, r1);
    a.store(LOCALS.at('index'), r2);
    a.addressOf(r2, LOCALS.at('index'));
    a.loadMap(r1, 'half_open');
    a.call(HELPER.mapLookup);
    a.jumpIf(r0, '==', 0, otherwise);
    a.load(r1, place);
    a.load(r2, wanted);
    a.jumpIf(r1, '!=', r2, otherwise);
  }
}

/** Ends the oldest half-open session, or jumps. Loses the locals `victim`, `context`, `counters` and `rules`. */
export function evictHalfOpen(a: Code, none: string): void {
  const victim = part(local('victim'), 0, SESSION_KEY.size);
  const isFound = local('rules');
  a.store(isFound, 0);
  loop(a, { name: 'look for the oldest half-open', most: EVICTIONS }, ({ next, stop }) => {
    findOldest(a, victim, { next, stop });
    a.store(isFound, 1);
    a.jump(stop);
  });
  a.load(r1, isFound);
  a.jumpIf(r1, '==', 0, none);
  a.addressOf(r1, victim);
  a.load(r2, local('nowNs'));
  // Whoever else ended it has made room too.
  endSession(a, { counter: SESSIONS_EVICTED, mayRest: false });
}

/** One round of the search. */
function findOldest(
  a: Code,
  victim: Memory,
  { next, stop }: { readonly next: string; readonly stop: string },
): void {
  const [looked, place] = [local('context'), local('counters')];
  a.loadMapValue(r1, 'half_open_ends');
  a.load(r3, ends('looked'));
  a.load(r2, ends('openings'));
  a.jumpIf(r3, '>=', r2, stop);
  a.store(looked, r3);
  loadMask(a, r5);
  a.alu('sub', r2, r3);
  a.alu('sub', r2, 1);
  a.jumpIf(r2, '<=', r5, 'oldest is there');
  // What the ring has come round over is forgotten.
  a.alu('sub', r2, r5);
  a.mov(r7, r2);
  a.jump('pass');

  a.label('oldest is there');
  a.alu32('mov', r1, r3);
  a.alu32('add', r1, 1);
  a.store(place, r1);
  a.alu32('and', r1, r5);
  a.store(local('index'), r1);
  lookup(a, 'half_open', local('index'));
  a.jumpIf(r0, '==', 0, stop);
  a.mov(r7, 1);
  a.load(r1, field(r0, HALF_OPEN, 'place'));
  a.load(r2, place);
  a.jumpIf(r1, '!=', r2, 'pass');
  copy(a, victim, { from: field(r0, HALF_OPEN, 'session') });
  a.load(r7, field(r0, HALF_OPEN, 'run'));
  a.jumpIf(r7, '==', 0, 'oldest is found');
  a.label('pass');
  advance(a, { from: looked, by: r7 });
  a.jump(next);

  a.label('oldest is found');
  a.mov(r7, 1);
  advance(a, { from: looked, by: r7 });
  // Another CPU was faster.
  a.load(r1, looked);
  a.jumpIf(r0, '!=', r1, next);
  lookup(a, 'sessions', victim);
  a.jumpIf(r0, '==', 0, next);
  a.load(r1, field(r0, SESSION, 'datagramsDownstream'));
  a.jumpIf(r1, '>', 1, next);
  // The same client may have opened another session since.
  a.load(r1, field(r0, SESSION, 'place'));
  a.load(r2, place);
  a.jumpIf(r1, '!=', r2, next);
}

/** Looked at are `by` places more, unless another CPU has moved on from there: r0 = where it was. Loses r1 and r2. */
function advance(a: Code, { from, by }: { from: Memory; by: Register }): void {
  a.load(r0, from);
  a.mov(r2, r0);
  a.alu('add', r2, by);
  a.loadMapValue(r1, 'half_open_ends');
  a.compareExchange(ends('looked'), r2);
}

/** to = the number of places less 1. */
function loadMask(a: Code, to: Register): void {
  a.loadMapValue(to, 'settings', SETTINGS.at.halfOpenMask);
  a.load(to, memory(to, 0, U32));
}
