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
import {
  DOWNSTREAM,
  LIVE_SESSIONS,
  SESSIONS_EVICTED,
  SESSIONS_OPENED,
  SESSIONS_REPINNED,
} from '../../core/counters.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import { HELPER } from './helpers.ts';
import {
  BACKEND,
  HALF_OPEN,
  LISTENER_STATE,
  LIVE,
  PIN,
  PIN_KEY,
  RULES,
  SESSION,
  SETTINGS,
  SNAPSHOT,
} from './maps.ts';
import { field, type Memory, memory, part, r0, r1, r2, r3, r4, r5, r7, r8 } from './memory.ts';
import { choose } from './program-choose.ts';
import { changeGauge, endSession, leaveReverse } from './program-end.ts';
import { followGroup, writeGroup } from './program-group.ts';
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
  nextRound,
  pinKey,
  push,
  reverseKey,
  sessionKey,
  startRounds,
} from './program-frame.ts';
import { U32, U64 } from './struct.ts';

/** Half-open candidates that are looked at to make room for one session. */
const EVICTIONS = 64;
/** Pins that are looked at to make room for one. */
const PIN_EVICTIONS = 32;
/** Attempts to take a token of the listener while other CPUs take theirs. */
const TOKEN_ATTEMPTS = 4;

export const OPEN = 'open';
export const REPIN = 'repin';

const scratch =
  (record: { at: Readonly<Record<string, number>>; bytes: Readonly<Record<string, number>> }) =>
  (name: string): Memory =>
    part(local('scratch'), record.at[name]!, record.bytes[name]!);
const session = scratch(SESSION) as (name: keyof typeof SESSION.at) => Memory;
const pin = scratch(PIN) as (name: keyof typeof PIN.at) => Memory;
const victim = (name: keyof typeof HALF_OPEN.at): Memory =>
  part(local('victim'), HALF_OPEN.at[name], HALF_OPEN.bytes[name]);

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

/** Unspecified, multicast and broadcast addresses, and port 0. */
function refuseBadSource(a: Code): void {
  const address = (at: number, bytes: number): Memory => part(local('client'), at, bytes);
  a.load(r1, local('clientPort'));
  a.jumpIf(r1, '==', 0, 'bad source');
  a.load(r1, local('isV6'));
  a.jumpIf(r1, '!=', 0, 'source is IPv6');
  a.load(r1, address(12, 1));
  a.jumpIf(r1, '==', 0, 'bad source');
  a.jumpIf(r1, '<', 224, 'good source');
  a.label('bad source');
  drop(a, DOWNSTREAM, 'bad-source');
  a.label('source is IPv6');
  a.load(r1, address(0, 1));
  a.jumpIf(r1, '==', 0xff, 'bad source');
  a.load(r1, address(0, 8));
  a.load(r2, address(8, 8));
  a.alu('or', r1, r2);
  a.jumpIf(r1, '==', 0, 'bad source');
  a.label('good source');
}

/** local pin = address of the client IP's pin, or 0. */
function findPin(a: Code): void {
  copy(a, local('pinAddress'), { from: local('client') });
  a.load(r1, local('listener'));
  a.store(local('pinListener'), r1);
  lookup(a, 'pins', pinKey());
  a.store(local('pin'), r0);
}

/** The limits of the client IP. Tokens are kept as the time when they are all back (generic cell rate algorithm). */
function admitSource(a: Code): void {
  a.load(r0, local('pin'));
  a.jumpIf(r0, '==', 0, 'source is admitted');
  a.store(local('pin'), r0);
  a.load(r1, field(r8, RULES, 'sessionsPerSource'));
  a.jumpIf(r1, '==', 0, 'source has room');
  a.load(r2, field(r0, PIN, 'live'));
  a.jumpIf(r2, '<', r1, 'source has room');
  drop(a, DOWNSTREAM, 'source-session-limit');
  a.label('source has room');
  a.load(r1, field(r8, RULES, 'sourceTokenNs'));
  a.jumpIf(r1, '==', 0, 'source is admitted');
  a.load(r2, field(r0, PIN, 'tokensFullNs'));
  takeToken(a, 'sourceBurstNs', 'source is too fast');
  a.store(field(r0, PIN, 'tokensFullNs'), r2);
  a.jump('source is admitted');
  a.label('source is too fast');
  drop(a, DOWNSTREAM, 'source-rate-limit');
  a.label('source is admitted');
}

/** r2 (when the tokens are all back) moves on by one token of r1 ns, or a jump. Loses r3 and r4. */
function takeToken(a: Code, burst: 'sourceBurstNs' | 'listenerBurstNs', otherwise: string): void {
  const [isLater, granted] = [a.unique('tokens are missing'), a.unique('token is granted')];
  a.load(r3, local('nowNs'));
  a.jumpIf(r2, '>', r3, isLater);
  a.mov(r2, r3);
  a.label(isLater);
  a.mov(r4, r2);
  a.alu('sub', r4, r3);
  a.load(r3, field(r8, RULES, burst));
  a.jumpIf(r4, '<=', r3, granted);
  a.jump(otherwise);
  a.label(granted);
  a.alu('add', r2, r1);
}

/** The listener's rate, which all CPUs share. */
function admitListener(a: Code): void {
  a.load(r1, field(r8, RULES, 'listenerTokenNs'));
  a.jumpIf(r1, '==', 0, 'listener has tokens');
  a.load(r1, local('listener'));
  lookupAt(a, 'listener_state', { index: r1, otherwise: 'listener is too fast' });
  a.mov(r5, r0);
  a.load(r1, field(r8, RULES, 'listenerTokenNs'));
  for (let attempt = 0; attempt < TOKEN_ATTEMPTS; attempt++) {
    a.load(r2, field(r5, LISTENER_STATE, 'tokensFullNs'));
    a.mov(r0, r2);
    a.mov(r7, r2);
    takeToken(a, 'listenerBurstNs', 'listener is too fast');
    a.compareExchange(field(r5, LISTENER_STATE, 'tokensFullNs'), r2);
    a.jumpIf(r0, '==', r7, 'listener has tokens');
  }
  a.label('listener is too fast');
  drop(a, DOWNSTREAM, 'listener-rate-limit');
  a.label('listener has tokens');
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

/** Goes to `chosen` with local ref = the backend that a pin names, if it is usable. */
function followPins(a: Code, chosen: string): void {
  const done = a.unique('no pin to follow');
  followGroup(a, chosen);
  a.load(r1, local('pin'));
  a.jumpIf(r1, '==', 0, done);
  a.load(r2, field(r1, PIN, 'ref'));
  a.jumpIf(r2, '==', 0, done);
  a.store(local('ref'), r2);
  findBackend(a, r2, r3);
  a.load(r1, field(r2, BACKEND, 'usable'));
  a.load(r2, local('ref'));
  a.jumpIf(r1, '==', r2, chosen);
  a.label(done);
}

/** local ref = the backend for the client. Needs the locals `snapshot` and `pin`; loses r7. */
function chooseBackend(a: Code): void {
  a.label('choose');
  followPins(a, 'backend is chosen');
  choose(a, 'no backend');
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
  a.store(session('ref'), r1);
  a.load(r1, local('nowNs'));
  a.store(session('lastSeenNs'), r1);
  a.store(session('openedNs'), r1);
  copy(a, session('bytesDownstream'), { from: local('bytes') });
  copy(a, session('datagramsDownstream'), { from: local('datagrams') });
  copy(a, session('local'), { from: local('contacted') });
  a.load(r1, local('contactedPort'));
  a.store(session('localPort'), r1);
  loadContext(a, r1, 'interface');
  a.store(session('interface'), r1);
  storeSession(a);
  a.jumpIf(r0, '==', 0, 'session is stored');
  lookup(a, 'sessions', sessionKey());
  a.mov(r7, r0);
  a.jumpIf(r7, '!=', 0, existing);
  evictHalfOpen(a);
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
  a.addressOf(r2, sessionKey());
  a.addressOf(r3, local('scratch'));
  a.mov(r4, BPF_NOEXIST);
  a.loadMap(r1, 'sessions');
  a.call(HELPER.mapUpdate);
}

/** Ends the oldest session that its client has sent one datagram to and no more, or jumps. */
function evictHalfOpen(a: Code): void {
  startRounds(a, EVICTIONS, 'no room for a session');
  nextRound(a, 'next half-open', 'no room for a session');
  pop(a, 'half_open');
  a.jumpIf(r0, '!=', 0, 'no room for a session');
  lookup(a, 'sessions', victim('session'));
  a.jumpIf(r0, '==', 0, 'next half-open');
  a.load(r1, field(r0, SESSION, 'datagramsDownstream'));
  a.jumpIf(r1, '>', 1, 'next half-open');
  // The same client may have opened another session since.
  a.load(r1, field(r0, SESSION, 'openedNs'));
  a.load(r2, victim('openedNs'));
  a.jumpIf(r1, '!=', r2, 'next half-open');
  a.addressOf(r1, victim('session'));
  a.load(r2, local('nowNs'));
  endSession(a, { counter: SESSIONS_EVICTED, mayRest: false });
  a.jumpIf(r0, '==', 0, 'next half-open');
}

/** r0 = 0, and local victim = the queue's oldest element. */
function pop(a: Code, queue: 'half_open' | 'pin_order'): void {
  a.addressOf(r2, local('victim'));
  a.loadMap(r1, queue);
  a.call(HELPER.mapPop);
}

/** local pin = the client IP's pin, which is made if there is none. */
function insertPin(a: Code): void {
  a.load(r1, local('pin'));
  a.jumpIf(r1, '!=', 0, 'has a pin');
  for (let at = 0; at < PIN.size; at += 8) a.store(part(local('scratch'), at, 8), 0);
  a.load(r1, local('ref'));
  a.store(pin('ref'), r1);
  a.load(r1, local('nowNs'));
  a.store(pin('lastUsedNs'), r1);
  a.load(r2, field(r8, RULES, 'sourceTokenNs'));
  a.alu('add', r1, r2);
  a.store(pin('tokensFullNs'), r1);
  storePin(a);
  a.jumpIf(r0, '==', 0, 'pin is new');
  lookup(a, 'pins', pinKey());
  a.jumpIf(r0, '!=', 0, 'pin is there');
  a.store(local('context'), r7);
  evictPin(a);
  storePin(a);
  a.load(r7, local('context'));
  a.jumpIf(r0, '==', 0, 'pin is new');
  a.label('no room for a pin');
  a.addressOf(r2, sessionKey());
  a.loadMap(r1, 'sessions');
  a.call(HELPER.mapDelete);
  drop(a, DOWNSTREAM, 'pin-table-full');

  a.label('pin is new');
  changeGauge(a, 'pins', 1);
  a.addressOf(r2, pinKey());
  push(a, 'pin_order');
  lookup(a, 'pins', pinKey());
  a.jumpIf(r0, '==', 0, 'no room for a pin');
  a.label('pin is there');
  a.store(local('pin'), r0);
  a.label('has a pin');
}

function storePin(a: Code): void {
  a.addressOf(r2, pinKey());
  a.addressOf(r3, local('scratch'));
  a.mov(r4, BPF_NOEXIST);
  a.loadMap(r1, 'pins');
  a.call(HELPER.mapUpdate);
}

/**
 * Forgets a pin without sessions, or jumps: of the oldest PIN_EVICTIONS one that was never past half-open, else of as many
 * more any. Those that stay go to the end of the queue. Loses r7.
 */
function evictPin(a: Code): void {
  const candidate = part(local('victim'), 0, PIN_KEY.size);
  startRounds(a, 2 * PIN_EVICTIONS, 'no room for a pin');
  nextRound(a, 'next pin', 'no room for a pin');
  a.mov(r7, r1);
  pop(a, 'pin_order');
  a.jumpIf(r0, '!=', 0, 'no room for a pin');
  lookup(a, 'pins', candidate);
  a.jumpIf(r0, '==', 0, 'next pin');
  a.load(r1, field(r0, PIN, 'live'));
  a.jumpIf(r1, '!=', 0, 'pin stays');
  a.jumpIf(r7, '<', PIN_EVICTIONS, 'pin goes');
  a.load(r1, field(r0, PIN, 'confirmed'));
  a.jumpIf(r1, '==', 0, 'pin goes');
  a.label('pin stays');
  a.addressOf(r2, candidate);
  push(a, 'pin_order');
  a.jump('next pin');
  a.label('pin goes');
  a.addressOf(r2, candidate);
  a.loadMap(r1, 'pins');
  a.call(HELPER.mapDelete);
  a.jumpIf(r0, '!=', 0, 'next pin');
  changeGauge(a, 'pins', -1);
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

  copy(a, victim('session'), { from: sessionKey() });
  a.store(victim('reserved'), 0);
  copy(a, victim('openedNs'), { from: local('nowNs') });
  a.addressOf(r2, local('victim'));
  push(a, 'half_open');
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
