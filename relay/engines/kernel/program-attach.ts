/**
 * Makes the replies of a session's backend find their way: the reverse record, by the backend and how it sees the client.
 *
 * With sourceAddress `client` the backend sees the client's own address and port. The same client may speak to the same
 * backend through another listener, or directly; its latest datagram decides whose the replies are. Whoever takes the record
 * over marks the session that had it as not attached, so that its next datagram takes it back.
 */
import { DOWNSTREAM } from '../../core/counters.ts';
import { BPF_ANY } from '../../../net/linux/abi.ts';
import { V4_MAPPED } from './headers.ts';
import { HELPER } from './helpers.ts';
import { field, part, r0, r1, r2, r3, r4, r7, r8 } from './memory.ts';
import {
  type Code,
  copy,
  drop,
  findBackend,
  loadIsV6,
  local,
  lookup,
  lookupAt,
  NEXT,
  otherSession,
  reverseKey,
  reverseValue,
  writeReverse,
} from './program-frame.ts';
import { takeRelayPort } from './program-relay.ts';
import { BACKEND, PORT, REVERSE, RULES, SESSION, SEVERAL_LISTENERS, SOURCE_CLIENT } from './records.ts';
import { ADDRESS } from './struct.ts';

/** Gives the session (r7), whose backend is in the snapshot, its reverse record. Keeps r6 to r9. */
export function attach(a: Code): void {
  noteBackend(a);
  copy(a, field(r7, SESSION, 'attachedNs'), { from: local('nowNs') });
  a.load(r1, field(r8, RULES, 'sourceAddress'));
  a.jumpIf(r1, '==', SOURCE_CLIENT, 'seen as it is');
  takeRelayPort(a);
  a.jump('attached');
  a.label('seen as it is');
  for (const [to, from] of [
    ['seen', 'client'],
    ['seenPort', 'clientPort'],
  ] as const) {
    copy(a, field(r7, SESSION, to), { from: local(from) });
  }
  for (const name of ['backend', 'seen', 'backendPort', 'seenPort'] as const)
    copy(a, reverseKey(name), { from: field(r7, SESSION, name) });
  lookup(a, 'reverse', local('scratch'));
  a.jumpIf(r0, '==', 0, 'write reverse record');
  takeOver(a);
  a.label('write reverse record');
  // In this order: a direct datagram on another CPU first deletes the record, then unmarks the session.
  a.store(field(r7, SESSION, 'attached'), 1);
  writeReverse(a, BPF_ANY);
  a.jumpIf(r0, '==', 0, 'reverse record is written');
  a.store(field(r7, SESSION, 'attached'), 0);
  drop(a, DOWNSTREAM, 'no-upstream-socket');
  a.label('reverse record is written');
  noteWhomPortServes(a);
  a.label('attached');
}

/** PORT.repliesTo of the backend's port: this listener, unless it has served another. */
function noteWhomPortServes(a: Code): void {
  a.load(r1, field(r7, SESSION, 'backendPort'));
  lookupAt(a, 'ports', { index: r1, otherwise: 'attached' });
  a.load(r1, field(r0, PORT, 'repliesTo'));
  a.load(r2, local('listener'));
  a.alu('add', r2, 1);
  a.jumpIf(r1, '==', r2, 'attached');
  a.jumpIf(r1, '==', 0, 'port serves one');
  a.mov(r2, SEVERAL_LISTENERS);
  a.label('port serves one');
  a.store(field(r0, PORT, 'repliesTo'), r2);
}

/** Copies the backend's address and port into the session, if the client can reach it by its own kind of address. */
function noteBackend(a: Code): void {
  a.load(r3, field(r7, SESSION, 'ref'));
  findBackend(a, r3, r1);
  a.load(r1, part(field(r3, BACKEND, 'address'), 0, 8));
  a.load(r2, part(field(r3, BACKEND, 'address'), 8, 4));
  a.mov(r4, 1);
  a.jumpIf(r1, '!=', 0, 'family is known');
  a.jumpIf32(r2, '!=', V4_MAPPED, 'family is known');
  a.mov(r4, 0);
  a.label('family is known');
  loadIsV6(a, r1);
  a.jumpIf(r1, '==', r4, 'family is the same');
  drop(a, DOWNSTREAM, 'address-family');
  a.label('family is the same');
  copy(a, field(r7, SESSION, 'backend'), { from: field(r3, BACKEND, 'address') });
  copy(a, field(r7, SESSION, 'backendPort'), { from: field(r3, BACKEND, 'port') });
}

/** The record that is there (r0) was another session's, or rests, or is this session's own. */
function takeOver(a: Code): void {
  noteOwner(a);
  unmark(a, 'record is taken over');
  a.label('record is taken over');
}

/** For `unmark`: whose the record (r0) is. */
function noteOwner(a: Code): void {
  copy(a, otherSession(), { from: field(r0, REVERSE, 'session') });
  copy(a, reverseValue('ref'), { from: field(r0, REVERSE, 'ref') });
}

/**
 * The session with the key `otherSession`, if it still is on that backend, has no reverse record from now on. Not by attachedNs:
 * whoever deletes a record that the session wrote anew meanwhile must unmark that one too.
 */
function unmark(a: Code, done: string): void {
  lookup(a, 'sessions', otherSession());
  a.jumpIf(r0, '==', 0, done);
  a.load(r1, field(r0, SESSION, 'ref'));
  a.load(r2, reverseValue('ref'));
  a.jumpIf(r1, '!=', r2, done);
  a.store(field(r0, SESSION, 'attached'), 0);
}

/**
 * A datagram to a backend's own address, from a client that may have used the relay from the same port: it now speaks to the
 * backend directly, so the replies are not the relay's any more. Ends at NEXT.
 */
export function releaseDirect(a: Code): void {
  for (const [to, from] of [
    ['backend', 'contacted'],
    ['seen', 'client'],
  ] as const) {
    copy(a, reverseKey(to), { from: part(local(from), 0, ADDRESS) });
  }
  a.load(r1, local('contactedPort'));
  a.store(reverseKey('backendPort'), r1);
  copy(a, reverseKey('seenPort'), { from: local('clientPort') });
  lookup(a, 'reverse', local('scratch'));
  a.jumpIf(r0, '==', 0, NEXT);
  noteOwner(a);
  a.addressOf(r2, local('scratch'));
  a.loadMap(r1, 'reverse');
  a.call(HELPER.mapDelete);
  a.jumpIf(r0, '!=', 0, NEXT);
  unmark(a, NEXT);
  a.jump(NEXT);
}
