/**
 * A client without a session: the same decisions as core/router.ts, in the same order.
 *
 *  1. the source can be answered, the relay takes new sessions, and some backend could take this one;
 *  2. the client IP's limits, which its pin keeps, and the listener's allow one more;
 *  3. the backend: that of the group's pin or of the client's own, if it is usable, else the listener's algorithm;
 *  4. the session; a full table first gives up the half-open one that is silent longest;
 *  5. the pin; a full table first gives up one without sessions;
 *  6. the bookkeeping.
 *
 * A session whose backend is gone comes in at 3, and leaves with another backend.
 */
import { BPF_NOEXIST } from '../../../net/linux/abi.ts';
import { DOWNSTREAM, LIVE_SESSIONS, SESSIONS_OPENED, SESSIONS_REPINNED } from '../../core/counters.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import { field, type Memory, memory, part, r0, r1, r2, r3, r4, r5, r7, r8 } from './memory.ts';
import { admitListener, admitSource, refuseBadSource } from './program-admit.ts';
import { choose } from './program-choose.ts';
import { changeGauge } from './program-gauge.ts';
import { leaveReverse } from './program-rest.ts';
import {
  add,
  type Code,
  copy,
  counter,
  drop,
  findBackend,
  findSnapshot,
  loadContext,
  local,
  lookup,
  lookupAt,
  pinKey,
  reverseKey,
  sessionKey,
  update,
} from './program-frame.ts';
import { writeGroup } from './program-group.ts';
import { enterHalfOpen, evictHalfOpen } from './program-half-open.ts';
import { findPin, followPins, insertPin } from './program-pin.ts';
import { BACKEND, LIVE, PIN, RULES, SESSION, SETTINGS, SNAPSHOT } from './records.ts';
import { U32, U64 } from './struct.ts';

export const OPEN = 'open';
export const REPIN = 'repin';

/** A field of the session that is made in the scratch. */
const newSession = (name: keyof typeof SESSION.at): Memory =>
  part(local('scratch'), SESSION.at[name], SESSION.bytes[name]);

export interface OpenOptions {
  /** Where a session that another CPU opened meanwhile goes on, with its address in r7. */
  readonly existing: string;
  /** Where a session goes on that has a backend but no reverse record, with its address in r7. */
  readonly unattached: string;
}

export function open(a: Code, options: OpenOptions): void {
  a.label(OPEN);
  refuseBadSource(a);
  a.loadMapValue(r1, 'settings', SETTINGS.at.draining);
  a.load(r1, memory(r1, 0, U32));
  a.jumpIf(r1, '==', 0, 'takes new sessions');
  drop(a, DOWNSTREAM, 'draining');
  a.label('takes new sessions');
  findPin(a);
  findSnapshot(a, 'no backend');
  requireAnybody(a);
  admitSource(a);
  admitListener(a);
  a.store(local('isRepin'), 0);
  chooseBackend(a);
  a.load(r1, local('isRepin'));
  a.jumpIf(r1, '!=', 0, 'move session');
  insertSession(a, options);
  insertPin(a);
  writeGroup(a);
  a.load(r1, local('ref'));
  a.store(field(r7, SESSION, 'ref'), r1);
  account(a);
  a.jump(options.unattached);
  repin(a, options);
}

/** Somebody is ready, or the client's pin names one who drains; else a jump. Before the limits: it takes nothing of a rate. */
function requireAnybody(a: Code): void {
  a.load(r1, local('snapshot'));
  a.load(r1, field(r1, SNAPSHOT, 'readyCount'));
  a.jumpIf(r1, '!=', 0, 'somebody is there');
  followPins(a, 'somebody is there');
  a.jump('no backend');
  a.label('somebody is there');
}

/** local ref = the backend for the client. Needs the locals `snapshot` and `pin`; loses r7. */
function chooseBackend(a: Code): void {
  a.label('choose');
  followPins(a, 'backend is chosen');
  // The pin is looked up once more, so that it is not for each state of it that the verifier follows the choice.
  a.store(local('pin'), 0);
  choose(a, 'no backend');
  a.mov(r7, r0);
  lookup(a, 'pins', pinKey());
  a.store(local('pin'), r0);
  a.mov(r0, r7);
  findBackend(a, r0, r1);
  a.load(r1, field(r0, BACKEND, 'usable'));
  a.store(local('ref'), r1);
  a.jumpIf(r1, '!=', 0, 'backend is chosen');
  a.label('no backend');
  drop(a, DOWNSTREAM, 'no-backend');
  a.label('backend is chosen');
}

/** r7 = the new session. */
function insertSession(a: Code, { existing }: OpenOptions): void {
  for (let at = 0; at < SESSION.size; at += 8) a.store(part(local('scratch'), at, 8), 0);
  a.load(r1, local('ref'));
  a.store(newSession('ref'), r1);
  a.load(r1, local('nowNs'));
  a.store(newSession('lastSeenNs'), r1);
  a.store(newSession('openedNs'), r1);
  a.store(newSession('awaitsReply'), 1);
  copy(a, newSession('bytesDownstream'), { from: local('bytes') });
  copy(a, newSession('datagramsDownstream'), { from: local('datagrams') });
  copy(a, newSession('local'), { from: local('contacted') });
  a.load(r1, local('contactedPort'));
  a.store(newSession('localPort'), r1);
  loadContext(a, r1, 'interface');
  a.store(newSession('interface'), r1);
  storeSession(a);
  a.jumpIf(r0, '==', 0, 'session is stored');
  lookup(a, 'sessions', sessionKey());
  a.mov(r7, r0);
  a.jumpIf(r7, '!=', 0, existing);
  evictHalfOpen(a, 'no room for a session');
  storeSession(a);
  a.jumpIf(r0, '==', 0, 'session is stored');
  a.label('no room for a session');
  drop(a, DOWNSTREAM, 'session-table-full');
  a.label('session is stored');
  lookup(a, 'sessions', sessionKey());
  a.jumpIf(r0, '==', 0, 'no room for a session');
  a.mov(r7, r0);
}

function storeSession(a: Code): void {
  update(a, 'sessions', { key: sessionKey(), value: local('scratch'), flags: BPF_NOEXIST });
}

/** What the opening of the session (r7) means for its pin, backend and listener. */
function account(a: Code): void {
  a.load(r2, local('pin'));
  a.load(r1, local('ref'));
  a.store(field(r2, PIN, 'ref'), r1);
  a.load(r1, local('nowNs'));
  a.store(field(r2, PIN, 'lastUsedNs'), r1);
  a.mov(r1, 1);
  a.atomicAdd(field(r2, PIN, 'live'), r1);
  enterBackend(a);
  add(a, counter(SESSIONS_OPENED), { by: 1 });
  add(a, counter(LIVE_SESSIONS), { by: 1 });
  changeGauge(a, 'sessions', 1);
  enterHalfOpen(a);
}

/** The backend has one session more. Counts of another incarnation are forgotten. */
function enterBackend(a: Code): void {
  const [entered, together] = [a.unique('backend is entered'), a.unique('count with the others')];
  a.load(r1, field(r8, RULES, 'pool'));
  lookupAt(a, 'live', { index: r1, otherwise: entered });
  a.load(r1, local('ref'));
  a.mov(r2, r1);
  a.alu('and', r2, MAX_BACKENDS - 1);
  a.alu('mul', r2, LIVE.size);
  a.alu('add', r0, r2);
  a.mov(r5, r0);
  for (const attempt of ['first', 'second'] as const) {
    a.load(r0, memory(r5, 0, U64));
    a.mov(r2, r0);
    a.alu('shiftRight', r2, 32);
    a.jumpIf(r2, '==', r1, together);
    if (attempt === 'second') break;
    a.mov(r3, r0);
    a.mov(r2, r1);
    a.alu('shiftLeft', r2, 32);
    a.alu('or', r2, 1);
    a.compareExchange(memory(r5, 0, U64), r2);
    a.jumpIf(r0, '==', r3, entered);
  }
  a.jump(entered);
  a.label(together);
  a.mov(r1, 1);
  a.atomicAdd(field(r5, LIVE, 'sessions'), r1);
  a.label(entered);
}

/** The session (r7) moves to the backend that its pin, or else the algorithm, says. */
function repin(a: Code, { unattached }: OpenOptions): void {
  a.label(REPIN);
  a.store(local('isRepin'), 1);
  findPin(a);
  findSnapshot(a, 'no backend');
  a.jump('choose');

  a.label('move session');
  lookup(a, 'sessions', sessionKey());
  a.jumpIf(r0, '==', 0, 'no backend');
  a.mov(r7, r0);
  a.load(r1, field(r7, SESSION, 'attached'));
  a.jumpIf(r1, '==', 0, 'old backend is left');
  a.store(field(r7, SESSION, 'attached'), 0);
  for (const name of ['backend', 'seen', 'backendPort', 'seenPort'] as const)
    copy(a, reverseKey(name), { from: field(r7, SESSION, name) });
  a.addressOf(r1, local('scratch'));
  a.load(r2, local('nowNs'));
  a.load(r4, field(r7, SESSION, 'attachedNs'));
  leaveReverse(a, { mayRest: true });
  a.label('old backend is left');
  writeGroup(a);
  a.load(r1, local('ref'));
  a.store(field(r7, SESSION, 'ref'), r1);
  a.load(r2, local('pin'));
  a.jumpIf(r2, '==', 0, 'has no pin');
  a.store(field(r2, PIN, 'ref'), r1);
  a.label('has no pin');
  enterBackend(a);
  add(a, counter(SESSIONS_REPINNED), { by: 1 });
  a.jump(unattached);
}
