/**
 * The session of a client's datagram, once its listener is known: whether it is alive, what the datagram changes in it, and
 * whether its backend is still the one that it was.
 */
import { SESSIONS_EXPIRED } from '../../core/counters.ts';
import { field, memory, r0, r1, r2, r3, r4, r7, r8 } from './memory.ts';
import { endSession } from './program-end.ts';
import { findFigures } from './program-figures.ts';
import {
  add,
  type Code,
  copy,
  findBackend,
  findSnapshot,
  jumpUnlessSame,
  loadContext,
  local,
  lookup,
  sessionKey,
} from './program-frame.ts';
import { leaveHalfOpen } from './program-half-open.ts';
import { OPEN, REPIN } from './program-open.ts';
import { confirmPin } from './program-pin.ts';
import { BACKEND, FIGURES, INTER_ARRIVAL_BUCKETS, RULES, SESSION, SOURCE_RELAY } from './records.ts';
import { U32, U64 } from './struct.ts';

/** r7 = the client's session, if it is alive; else goes to OPEN. */
export function findSession(a: Code): void {
  lookup(a, 'sessions', sessionKey());
  a.jumpIf(r0, '==', 0, OPEN);
  a.mov(r7, r0);
  jumpIfAlive(a, 'session');
  a.addressOf(r1, sessionKey());
  a.load(r2, local('nowNs'));
  endSession(a, { counter: SESSIONS_EXPIRED, mayRest: true });
}

/** Jumps if the session's (r7) client was heard within the listener's (r8) idle timeout. */
export function jumpIfAlive(a: Code, target: string): void {
  a.load(r1, local('nowNs'));
  a.load(r2, field(r7, SESSION, 'lastSeenNs'));
  a.alu('sub', r1, r2);
  a.load(r2, field(r8, RULES, 'idleTimeoutNs'));
  a.jumpIf(r1, 'signed <', r2, target);
}

/** A datagram from the client of the session (r7). */
export function touch(a: Code): void {
  a.load(r1, field(r7, SESSION, 'datagramsDownstream'));
  a.jumpIf(r1, '!=', 1, 'past half-open');
  a.load(r1, field(r7, SESSION, 'place'));
  leaveHalfOpen(a);
  confirmPin(a, 'past half-open');
  a.label('past half-open');
  noteInterval(a);
  a.load(r1, field(r8, RULES, 'sourceAddress'));
  a.jumpIf(r1, '!=', SOURCE_RELAY, 'needs no interface');
  loadContext(a, r1, 'interface');
  a.store(field(r7, SESSION, 'interface'), r1);
  a.label('needs no interface');
  a.load(r1, local('nowNs'));
  a.store(field(r7, SESSION, 'lastSeenNs'), r1);
  a.store(field(r7, SESSION, 'awaitsReply'), 1);
  a.load(r2, local('bytes'));
  add(a, field(r7, SESSION, 'bytesDownstream'), { by: r2 });
  a.load(r2, local('datagrams'));
  add(a, field(r7, SESSION, 'datagramsDownstream'), { by: r2 });
  jumpUnlessSame(a, local('contacted'), { other: field(r7, SESSION, 'local'), target: 'other address' });
  a.jump('same address');
  a.label('other address');
  copy(a, field(r7, SESSION, 'local'), { from: local('contacted') });
  a.label('same address');
}

/**
 * The time since the client's last datagram, against the tick, in the session and in its backend's figures: bucket i is up to
 * sqrt(2) * 2^(i - 4) ticks.
 */
function noteInterval(a: Code): void {
  findFigures(a, field(r7, SESSION, 'ref'), 'interval is noted');
  a.load(r1, local('nowNs'));
  a.load(r2, field(r7, SESSION, 'lastSeenNs'));
  a.alu('sub', r1, r2);
  a.jumpIf(r1, 'signed <', 0, 'interval is noted');
  a.load(r3, field(r8, RULES, 'tickNs'));
  a.mov(r2, r3);
  a.alu('shiftLeft', r2, 1);
  a.jumpIf(r1, '<=', r2, 'no gap');
  a.load(r4, field(r7, SESSION, 'gaps'));
  a.alu('add', r4, 1);
  a.store(field(r7, SESSION, 'gaps'), r4);
  a.mov(r4, 1);
  a.atomicAdd(field(r0, FIGURES, 'gaps'), r4);
  a.label('no gap');
  // sqrt(2) is about 181 / 128; the first bound is that, over 16.
  a.alu('mul', r3, 181);
  a.alu('shiftRight', r3, 7 + 4);
  a.mov(r2, r7);
  for (let bucket = 0; bucket < INTER_ARRIVAL_BUCKETS - 1; bucket++) {
    a.jumpIf(r1, '<', r3, 'interval has its bucket');
    a.alu('shiftLeft', r3, 1);
    a.alu('add', r2, U32);
    a.alu('add', r0, U64);
  }
  a.label('interval has its bucket');
  const count = memory(r2, SESSION.at.interArrival, U32);
  a.load(r1, count);
  a.alu('add', r1, 1);
  a.store(count, r1);
  a.mov(r1, 1);
  a.atomicAdd(memory(r0, FIGURES.at.interArrival, U64), r1);
  a.label('interval is noted');
}

/** Goes on if the backend of the session (r7) is the one it was, and usable; else to REPIN. */
export function requireUsable(a: Code): void {
  findSnapshot(a, REPIN);
  a.load(r1, field(r7, SESSION, 'ref'));
  a.mov(r2, r1);
  findBackend(a, r2, r3);
  a.load(r2, field(r2, BACKEND, 'usable'));
  a.jumpIf(r1, '!=', r2, REPIN);
}
