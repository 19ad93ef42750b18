/**
 * Whose a backend's reply is, and what it changes: steps 2 to 4 of the way back (program.ts).
 */
import { UPSTREAM } from '../../core/counters.ts';
import { field, memory, r0, r1, r2, r3, r5, r7, r8 } from './memory.ts';
import { countTraffic, findFigures } from './program-figures.ts';
import {
  add,
  type Code,
  copy,
  drop,
  findBackend,
  findListener,
  findSnapshot,
  jumpUnlessSame,
  local,
  lookup,
  readClock,
  receive,
  reverseKey,
  reverseValue,
  sessionKey,
} from './program-frame.ts';
import { jumpIfAlive } from './program-session.ts';
import { BACKEND, FIGURES, REPLY_TIME_BUCKETS, REVERSE, RULES, SESSION, SOURCE_CLIENT } from './records.ts';
import { U64 } from './struct.ts';

/** r7 = the session of a reply whose reverse record is in r7, if both and their backend are as they should be. */
export function findOwner(a: Code): void {
  requireBackend(a);
  requireSession(a);
}

/** What a reply may be, and changes, once its session (r7) is known. */
export function admitReply(a: Code): void {
  limitAmplification(a);
  reply(a);
}

/**
 * r7 = the session of a reply, found without its reverse record: where one listener only has sessions on backends with the reply's port,
 * and they see the clients' own addresses, the packet names the session. Else, and where anything is not as it should be, to
 * `otherwise`. Then r8 and r9 are as findListener leaves them, and the packet is counted as received.
 */
export function findAwaiting(a: Code, otherwise: string): void {
  a.load(r1, local('guess'));
  a.jumpIf(r1, '==', 0, otherwise);
  a.alu('sub', r1, 1);
  a.store(local('listener'), r1);
  findListener(a, local('listener'), otherwise);
  a.load(r1, field(r8, RULES, 'sourceAddress'));
  a.jumpIf(r1, '!=', SOURCE_CLIENT, otherwise);
  lookup(a, 'sessions', sessionKey());
  a.jumpIf(r0, '==', 0, otherwise);
  a.mov(r7, r0);
  a.load(r1, field(r7, SESSION, 'attached'));
  a.jumpIf(r1, '==', 0, otherwise);
  findSnapshot(a, otherwise);
  a.load(r3, field(r7, SESSION, 'ref'));
  a.store(local('ref'), r3);
  findBackend(a, r3, r1);
  a.load(r1, local('ref'));
  a.load(r2, field(r3, BACKEND, 'usable'));
  a.jumpIf(r1, '!=', r2, otherwise);
  jumpUnlessBackends(a, otherwise);
  readClock(a);
  receive(a, UPSTREAM);
  jumpIfAlive(a, 'awaiting session');
  a.jump('late reply');
  a.label('awaiting session');
}

/** Jumps unless the packet is from the backend (r3). Loses r1 and r2. */
function jumpUnlessBackends(a: Code, target: string): void {
  jumpUnlessSame(a, reverseKey('backend'), { other: field(r3, BACKEND, 'address'), target });
  a.load(r1, reverseKey('backendPort'));
  a.load(r2, field(r3, BACKEND, 'port'));
  a.jumpIf(r1, '!=', r2, target);
}

export function unwantedReplies(a: Code): void {
  a.label('late reply');
  drop(a, UPSTREAM, 'late-reply');
  a.label('unknown upstream');
  drop(a, UPSTREAM, 'unknown-upstream');
}

/** The sender is a backend, the one of the reverse record (r7), and usable. */
function requireBackend(a: Code): void {
  findSnapshot(a, 'unknown upstream');
  a.load(r3, field(r7, REVERSE, 'ref'));
  a.store(local('ref'), r3);
  findBackend(a, r3, r1);
  jumpUnlessBackends(a, 'unknown upstream');
  a.load(r1, local('ref'));
  a.load(r2, field(r3, BACKEND, 'usable'));
  a.jumpIf(r1, '!=', r2, 'late reply');
}

/** r7 = the session that the reply is for, whose record (r7) it still is, which is alive and still on that backend. */
function requireSession(a: Code): void {
  copy(a, reverseValue('attachedNs'), { from: field(r7, REVERSE, 'attachedNs') });
  lookup(a, 'sessions', sessionKey());
  a.jumpIf(r0, '==', 0, 'late reply');
  a.mov(r7, r0);
  a.load(r1, field(r7, SESSION, 'attachedNs'));
  a.load(r2, reverseValue('attachedNs'));
  a.jumpIf(r1, '!=', r2, 'late reply');
  a.load(r1, field(r7, SESSION, 'ref'));
  a.load(r2, local('ref'));
  a.jumpIf(r1, '!=', r2, 'late reply');
  jumpIfAlive(a, 'reply is in time');
  a.jump('late reply');
  a.label('reply is in time');
}

function limitAmplification(a: Code): void {
  a.load(r1, field(r8, RULES, 'amplification'));
  a.jumpIf(r1, '==', 0, 'may reply');
  a.load(r2, field(r7, SESSION, 'datagramsDownstream'));
  a.jumpIf(r2, '>', 1, 'may reply');
  a.load(r2, field(r7, SESSION, 'bytesDownstream'));
  a.alu('mul', r1, r2);
  a.load(r2, field(r7, SESSION, 'bytesUpstream'));
  a.load(r3, local('bytes'));
  a.alu('add', r2, r3);
  a.jumpIf(r2, '<=', r1, 'may reply');
  drop(a, UPSTREAM, 'amplification-limit');
  a.label('may reply');
}

/** A reply to the session (r7): counted, also for its backend, and timed if it is the first since the client's last datagram. */
function reply(a: Code): void {
  a.load(r2, local('bytes'));
  add(a, field(r7, SESSION, 'bytesUpstream'), { by: r2 });
  a.load(r2, local('datagrams'));
  add(a, field(r7, SESSION, 'datagramsUpstream'), { by: r2 });
  findFigures(a, local('ref'), 'reply is timed');
  countTraffic(a, 'Upstream');
  a.load(r1, field(r7, SESSION, 'awaitsReply'));
  a.jumpIf(r1, '==', 0, 'reply is timed');
  a.store(field(r7, SESSION, 'awaitsReply'), 0);
  a.load(r5, local('nowNs'));
  a.load(r1, field(r7, SESSION, 'lastSeenNs'));
  a.alu('sub', r5, r1);
  a.jumpIf(r5, 'signed <', 0, 'reply is timed');
  a.atomicAdd(field(r0, FIGURES, 'replyTimeSumNs'), r5);
  a.mov(r1, 1);
  a.alu('shiftRight', r5, 11);
  for (let bucket = 0; bucket < REPLY_TIME_BUCKETS - 1; bucket++) {
    a.jumpIf(r5, '==', 0, 'reply has its bucket');
    a.alu('shiftRight', r5, 1);
    a.alu('add', r0, U64);
  }
  a.label('reply has its bucket');
  a.atomicAdd(memory(r0, FIGURES.at.replyTime, U64), r1);
  a.label('reply is timed');
}
