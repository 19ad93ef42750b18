/**
 * A client's SYN without a connection: the decisions of relay/tcp/admission.ts, in the same order.
 *
 *  1. the client IP's rate; then the connections that are open at the listener, and of the client IP
 *  2. a backend (program-tcp-choose.ts) of the client's family
 *  3. the connection; a full table first gives up the oldest that is only opening, or has ended
 *  4. the reverse record
 *
 * Counted as accepted is a connection when its client has answered the backend (program-tcp-admit.ts), as a socket would hand it over
 * then. Whoever is refused gets RST.
 */
import { BPF_ANY, BPF_NOEXIST } from '../../../net/linux/abi.ts';
import type { CloseReason } from '../../core/close-reason.ts';
import { HELPER } from './helpers.ts';
import { field, memory, part, r0, r1, r2, r3, r4, r5, r7 } from './memory.ts';
import {
  add,
  type Code,
  copy,
  findBackend,
  findSnapshot,
  jumpUnlessUnicast,
  loadContext,
  loadIsV6,
  local,
  lookup,
  lookupAt,
  loop,
  NEXT,
  pinKey,
  update,
} from './program-frame.ts';
import { findLive } from './program-tcp-admit.ts';
import { chooseTcp } from './program-tcp-choose.ts';
import { changeRecords, endConnection, forgetConnection, pushSpare } from './program-tcp-end.ts';
import {
  connection,
  newConnection,
  otherKey,
  reversePart,
  room,
  rule,
  spare,
  tcpCounter,
  tcpKey,
  tcpKeyPart,
} from './program-tcp-frame.ts';
import { takeTcpRelayPort } from './program-tcp-relay.ts';
import { RESET } from './program-tcp-reset.ts';
import { BACKEND, SETTINGS, SOURCE_CLIENT } from './records.ts';
import { U32, U64 } from './struct.ts';
import {
  closedCounter,
  FIRST_CONNECTION_ID,
  TCP_CONNECTION,
  TCP_COUNTERS,
  TCP_GAUGES,
  TCP_LISTENER_STATE,
  TCP_LIVE,
  TCP_RATE,
  TCP_REVERSE_KEY,
  TCP_SOURCE,
  TCP_SPARE,
  TCP_STATE,
} from './tcp-maps.ts';

export const OPEN = 'open connection';
const COUNT_REFUSAL = 'count refusal';

/** Candidates that are looked at to make room for one connection. */
const EVICTIONS = 64;

/** @param opened where the new connection (r7) goes on */
export function openConnection(a: Code, opened: string): void {
  a.label(OPEN);
  a.loadMapValue(r1, 'settings', SETTINGS.at.draining);
  a.load(r1, memory(r1, 0, U32));
  // The address is free then, and may be another program's.
  a.jumpIf(r1, '!=', 0, NEXT);
  noteClient(a);
  takeSourceToken(a);
  requireRoom(a);
  findSnapshot(a, 'no backend', rule('pool'));
  chooseTcp(a, { none: 'no backend', full: 'backends are full' });
  takeBackend(a);
  a.store(local('isRepin'), 0);
  a.label('store connection');
  storeConnection(a);
  enterTcpBackend(a);
  storeReverse(a);
  copy(a, spare('key'), { from: tcpKey() });
  a.store(spare('reserved'), 0);
  copy(a, spare('id'), { from: connection('id') });
  pushSpare(a, room(TCP_SPARE.size));
  a.jump(opened);
  evict(a);

  a.label('no backend');
  refuse(a, 'no-backend');
  a.label('backends are full');
  refuse(a, 'backend-connection-limit');
  a.label('no room');
  refuse(a, 'connection-limit');
  a.label(COUNT_REFUSAL);
  add(a, tcpCounter(TCP_COUNTERS.accepted), { by: 1, via: r2 });
  a.jump(RESET);
}

/** Counts a connection that is not let in, and answers with RST. */
function refuse(a: Code, reason: CloseReason): void {
  add(a, tcpCounter(closedCounter(reason)), { by: 1 });
  a.jump(COUNT_REFUSAL);
}

/** The client's address where the choice looks for it; a source that can't be answered is dropped. */
function noteClient(a: Code): void {
  copy(a, local('client'), { from: tcpKeyPart('client') });
  copy(a, local('pinAddress'), { from: tcpKeyPart('client') });
  a.load(r1, local('listener'));
  a.store(local('pinListener'), r1);
  a.load(r1, tcpKeyPart('clientPort'));
  a.jumpIf(r1, '==', 0, 'drop');
  jumpUnlessUnicast(a, local('client'), 'drop');
}

/** The client IP's rate, kept as the time when its tokens are all back (generic cell rate algorithm). */
function takeSourceToken(a: Code): void {
  a.load(r1, rule('sourceTokenNs'));
  a.jumpIf(r1, '==', 0, 'source has tokens');
  lookup(a, 'tcp_rates', pinKey());
  a.mov(r5, r0);
  a.load(r3, local('nowNs'));
  a.mov(r2, r3);
  a.jumpIf(r5, '==', 0, 'take token');
  a.load(r2, field(r5, TCP_RATE, 'tokensFullNs'));
  a.jumpIf(r2, '>', r3, 'tokens are missing');
  a.mov(r2, r3);
  a.label('tokens are missing');
  a.mov(r4, r2);
  a.alu('sub', r4, r3);
  a.load(r3, rule('sourceBurstNs'));
  a.jumpIf(r4, '<=', r3, 'take token');
  refuse(a, 'source-rate-limit');
  a.label('take token');
  a.load(r1, rule('sourceTokenNs'));
  a.alu('add', r2, r1);
  a.jumpIf(r5, '==', 0, 'new source');
  a.store(field(r5, TCP_RATE, 'tokensFullNs'), r2);
  a.jump('source has tokens');
  a.label('new source');
  a.store(part(room(TCP_RATE.size), 0, U64), r2);
  update(a, 'tcp_rates', { key: pinKey(), value: room(TCP_RATE.size), flags: BPF_ANY });
  a.label('source has tokens');
}

/** Early, for those that would be refused anyway. */
function requireRoom(a: Code): void {
  a.load(r1, part(local('listener'), 0, 2));
  lookupAt(a, 'tcp_state', { index: r1, otherwise: 'drop' });
  a.load(r1, field(r0, TCP_LISTENER_STATE, 'open'));
  a.load(r2, rule('maxConnections'));
  a.jumpIf(r1, '>=', r2, 'no room');
  a.load(r1, rule('connectionsPerSource'));
  a.jumpIf(r1, '==', 0, 'source has room');
  lookup(a, 'tcp_sources', pinKey());
  a.jumpIf(r0, '==', 0, 'source has room');
  a.load(r1, field(r0, TCP_SOURCE, 'open'));
  a.load(r2, rule('connectionsPerSource'));
  a.jumpIf(r1, '<', r2, 'source has room');
  refuse(a, 'source-connection-limit');
  a.label('source has room');
}

/** The slot (r0): its backend as local ref, and its address in the new connection's record. Nobody is translated between families. */
function takeBackend(a: Code): void {
  findBackend(a, r0, r1);
  a.load(r1, field(r0, BACKEND, 'usable'));
  a.jumpIf(r1, '==', 0, 'no backend');
  a.store(local('ref'), r1);
  a.mov(r7, r0);
  a.load(r1, part(field(r7, BACKEND, 'address'), 0, 8));
  a.load(r2, part(field(r7, BACKEND, 'address'), 8, 4));
  a.mov(r3, 1);
  a.jumpIf(r1, '!=', 0, 'family is known');
  a.jumpIf32(r2, '!=', 0xffff_0000, 'family is known');
  a.mov(r3, 0);
  a.label('family is known');
  loadIsV6(a, r1);
  a.jumpIf(r1, '==', r3, 'family is the same');
  a.label('can’t connect');
  refuse(a, 'connect-failed');
  a.label('family is the same');
  copy(a, local('contacted'), { from: field(r7, BACKEND, 'address') });
  a.load(r1, field(r7, BACKEND, 'port'));
  a.store(local('contactedPort'), r1);
}

/** r7 = the new connection. The locals `contacted` and `contactedPort` have the backend's address. */
function storeConnection(a: Code): void {
  for (let at = 0; at < TCP_CONNECTION.size; at += 8) a.store(part(room(TCP_CONNECTION.size), at, 8), 0);
  a.load(r1, local('ref'));
  a.store(newConnection('ref'), r1);
  a.store(newConnection('state'), TCP_STATE.opening);
  a.load(r1, part(local('listener'), 0, 2));
  a.store(newConnection('listener'), r1);
  a.loadMapValue(r1, 'tcp_gauges', TCP_GAUGES.at.nextId);
  a.mov(r2, 1);
  a.fetchAdd(memory(r1, 0, U64), r2);
  a.loadWide(r1, BigInt(FIRST_CONNECTION_ID));
  a.alu('add', r2, r1);
  a.store(newConnection('id'), r2);
  a.load(r1, local('nowNs'));
  a.store(newConnection('lastSeenNs'), r1);
  a.store(newConnection('openedNs'), r1);
  a.load(r1, local('sequence'));
  a.store(newConnection('clientAcked'), r1);
  a.alu32('add', r1, 1);
  a.store(newConnection('clientNext'), r1);
  loadContext(a, r1, 'interface');
  a.store(newConnection('interface'), r1);
  copy(a, newConnection('backend'), { from: local('contacted') });
  a.load(r1, local('contactedPort'));
  a.store(newConnection('backendPort'), r1);
  update(a, 'tcp_connections', { key: tcpKey(), value: room(TCP_CONNECTION.size), flags: BPF_NOEXIST });
  a.mov(r7, r0);
  lookup(a, 'tcp_connections', tcpKey());
  a.jumpIf(r7, '==', 0, 'connection is stored');
  // Opened on another CPU at this moment, by the same SYN.
  a.jumpIf(r0, '!=', 0, 'drop');
  a.load(r1, local('isRepin'));
  a.jumpIf(r1, '!=', 0, 'no room');
  a.mov(r1, 1);
  a.store(local('isRepin'), r1);
  a.jump('evict');
  a.label('connection is stored');
  a.mov(r7, r0);
  a.jumpIf(r7, '==', 0, 'no room');
  changeRecords(a, 1);
}

/** Makes room by the oldest connection that is still opening, or has ended. Loses r7. */
function evict(a: Code): void {
  const isFound = local('index');
  a.label('evict');
  a.store(isFound, 0);
  loop(a, { name: 'look for a spare connection', most: EVICTIONS }, ({ next, stop }) => {
    a.addressOf(r2, room(TCP_SPARE.size));
    a.loadMap(r1, 'tcp_spare');
    a.call(HELPER.mapPop);
    a.jumpIf(r0, '!=', 0, stop);
    findSpare(a, next);
    a.store(isFound, 1);
    a.jump(stop);
  });
  a.load(r1, isFound);
  a.jumpIf(r1, '==', 0, 'no room');
  findSpare(a, 'no room');
  endConnection(a, spare('key'), { open: 0, opening: 0, to: 'over' });
  a.load(r1, connection('state'));
  a.jumpIf(r1, '<', TCP_STATE.over, 'no room');
  forgetConnection(a, spare('key'));
  a.jump('store connection');
}

/** r7 = the connection that the element of the queue names, if it still is that one, and not open. */
function findSpare(a: Code, otherwise: string): void {
  lookup(a, 'tcp_connections', spare('key'));
  a.jumpIf(r0, '==', 0, otherwise);
  a.mov(r7, r0);
  a.load(r1, connection('state'));
  a.jumpIf(r1, '==', TCP_STATE.open, otherwise);
  a.load(r1, connection('id'));
  a.load(r2, spare('id'));
  a.jumpIf(r1, '!=', r2, otherwise);
}

/**
 * Stores the connection's reverse record, or refuses the client. With sourceAddress `client` its address and port may lead another
 * connection to the same backend, through another listener, and to a backend the two would be one.
 */
function storeReverse(a: Code): void {
  a.load(r1, rule('sourceAddress'));
  a.jumpIf(r1, '==', SOURCE_CLIENT, 'seen as it is');
  takeTcpRelayPort(a, 'no room for the reverse');
  a.jump('reverse is stored');
  a.label('seen as it is');
  copy(a, connection('seen'), { from: tcpKeyPart('client') });
  copy(a, connection('seenPort'), { from: tcpKeyPart('clientPort') });
  for (const name of ['backend', 'seen', 'backendPort', 'seenPort'] as const)
    copy(a, reversePart(name), { from: connection(name) });
  const key = room(TCP_REVERSE_KEY.size);
  update(a, 'tcp_reverse', { key, value: tcpKey(), flags: BPF_NOEXIST });
  a.jumpIf(r0, '==', 0, 'reverse is stored');
  lookup(a, 'tcp_reverse', key);
  a.jumpIf(r0, '==', 0, 'no room for the reverse');
  copy(a, otherKey(), { from: memory(r0, 0, otherKey().bytes) });
  lookup(a, 'tcp_connections', otherKey());
  a.jumpIf(r0, '==', 0, 'take reverse');
  a.load(r1, field(r0, TCP_CONNECTION, 'state'));
  a.jumpIf(r1, '>=', TCP_STATE.over, 'other has ended');
  a.label('no room for the reverse');
  endConnection(a, tcpKey(), { open: 0, opening: 0, to: 'over' });
  forgetConnection(a, tcpKey());
  a.jump('can’t connect');
  a.label('other has ended');
  forgetConnection(a, otherKey());
  a.label('take reverse');
  update(a, 'tcp_reverse', { key, value: tcpKey(), flags: BPF_ANY });
  a.jumpIf(r0, '!=', 0, 'no room for the reverse');
  a.label('reverse is stored');
}

/** The backend has one connection more. Counts of another incarnation are forgotten. */
function enterTcpBackend(a: Code): void {
  findLive(a, 'backend is entered');
  a.mov(r5, r0);
  a.load(r1, connection('ref'));
  for (const attempt of ['first', 'second'] as const) {
    a.load(r0, memory(r5, 0, U64));
    a.mov(r2, r0);
    a.alu('shiftRight', r2, 32);
    a.jumpIf(r2, '==', r1, 'count with the others');
    if (attempt === 'second') break;
    a.mov(r3, r0);
    a.mov(r2, r1);
    a.alu('shiftLeft', r2, 32);
    a.alu('or', r2, 1);
    a.compareExchange(memory(r5, 0, U64), r2);
    a.jumpIf(r0, '==', r3, 'backend is entered');
  }
  a.jump('backend is entered');
  a.label('count with the others');
  a.mov(r1, 1);
  a.atomicAdd(field(r5, TCP_LIVE, 'connections'), r1);
  a.label('backend is entered');
}
