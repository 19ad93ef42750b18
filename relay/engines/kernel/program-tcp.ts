/**
 * The eBPF programs for TCP listeners, which those for UDP call for every packet of another protocol. Bytes are never looked at:
 * the two ends speak to each other, and only addresses and ports change.
 *
 *  client -> backend, on ingress                      backend -> client, on egress
 *   1. its headers are read; what has nothing to do    1. its headers are read; what does not come from a backend's
 *      with the relay is passed on                        port is passed on
 *   2. its connection, by both ends. Without one: its  2. its reverse record, by both ends, and its connection
 *      listener, and a SYN opens a connection          3. the connection's state follows
 *      (program-tcp-open.ts)                           4. the source is rewritten to the address that the client
 *   3. the connection's backend is usable                 contacted
 *   4. the connection's state follows
 *   5. the destination is rewritten to the backend
 *
 * With sourceAddress `relay` the backend's segments come in on ingress, too, and both addresses are rewritten
 * (program-tcp-relay.ts).
 *
 * What can't be answered by anybody, a segment of a connection that was cut or is not known, gets a RST from the program itself
 * (program-tcp-reset.ts).
 */
import { DOWNSTREAM, UPSTREAM } from '../../core/counters.ts';
import { HELPER } from './helpers.ts';
import {
  PORT_ANY,
  PORT_ANY_V4,
  PORT_BACKEND,
  PORT_LISTENER,
  PORT_RELAY,
  SETTINGS,
  SOURCE_CLIENT,
} from './maps.ts';
import { field, type Memory, memory, part, r0, r1, r2, r3, r4, r6, r7 } from './memory.ts';
import { add, type Code, copy, loadContext, local, lookup, NEXT, readClock } from './program-frame.ts';
import { findContacted } from './program-listener.ts';
import { needOwnLinkAddress, parse } from './program-parse.ts';
import { rewrite } from './program-rewrite.ts';
import {
  endConnection,
  endConnectionSubprograms,
  forgetConnection,
  forgetConnectionSubprogram,
} from './program-tcp-end.ts';
import {
  ACK,
  connection,
  dropBad,
  FIN,
  findTcpListener,
  MOST_WINDOW,
  otherKey,
  requireTcpBackend,
  reversePart,
  room,
  RST,
  rule,
  SYN,
  tcpCounter,
  tcpKey,
  tcpKeyPart,
  tcpWaysOut,
} from './program-tcp-frame.ts';
import { admit, OPEN, openConnection } from './program-tcp-open.ts';
import { findReplied, passToBackend, passToClient } from './program-tcp-relay.ts';
import { RESET, resetReply, type ResetOptions } from './program-tcp-reset.ts';
import { ADDRESS, U32 } from './struct.ts';
import {
  closedCounter,
  TCP_CONNECTION,
  TCP_COUNTERS,
  TCP_REVERSE_KEY,
  TCP_STATE,
  tcpProgramIndex,
} from './tcp-maps.ts';

/** In the programs for UDP: goes on in the one for TCP, if there is one; else comes back, and goes on to NEXT. */
export function callTcp(a: Code, { hook, linkHeaderBytes }: ResetOptions): void {
  a.mov(r1, r6);
  a.loadMap(r2, 'tcp_programs');
  a.mov(r3, tcpProgramIndex(hook, linkHeaderBytes));
  a.call(HELPER.tailCall);
  a.jump(NEXT);
}

export function tcpIngress(a: Code, linkHeaderBytes: number): void {
  a.mov(r6, r1);
  needOwnLinkAddress(a);
  parse(a, {
    transport: 'tcp',
    linkHeaderBytes,
    port: 'destination',
    wanted: PORT_LISTENER | PORT_ANY | PORT_ANY_V4 | PORT_BACKEND | PORT_RELAY,
    source: tcpKeyPart('client'),
    sourcePort: tcpKeyPart('clientPort'),
    destination: tcpKeyPart('contacted'),
    destinationPort: tcpKeyPart('contactedPort'),
  });
  a.load(r1, local('portFlags'));
  a.jumpIf(r1, 'has', PORT_RELAY, 'to a relay port');
  a.label('from a client');
  lookup(a, 'tcp_connections', tcpKey());
  a.mov(r7, r0);
  a.jumpIf(r7, '==', 0, 'no connection');
  findTcpListener(a, connection('listener'));
  dropBad(a);
  readClock(a);
  followClient(a);
  a.label('to the backend');
  rewrite(a, {
    transport: 'tcp',
    linkHeaderBytes,
    direction: DOWNSTREAM,
    side: 'destination',
    from: tcpKeyPart('contacted'),
    fromPort: tcpKeyPart('contactedPort'),
    to: connection('backend'),
    toPort: connection('backendPort'),
  });
  passToBackend(a, linkHeaderBytes);

  a.label('no connection');
  findTarget(a);
  openConnection(a, 'to the backend');
  a.label('not a listener');
  releaseDirect(a);

  a.label('to a relay port');
  findReplied(a, 'from a client');
  findTcpListener(a, connection('listener'));
  dropBad(a);
  readClock(a);
  followBackend(a);
  passToClient(a, linkHeaderBytes);
  resetReply(a, { hook: 'ingress', linkHeaderBytes });
  tcpWaysOut(a);
  endConnectionSubprograms(a);
  forgetConnectionSubprogram(a);
}

/** The listener of a segment without a connection; only a SYN goes on. */
function findTarget(a: Code): void {
  copy(a, local('client'), { from: tcpKeyPart('client') });
  copy(a, local('contacted'), { from: tcpKeyPart('contacted') });
  a.load(r1, tcpKeyPart('contactedPort'));
  a.store(local('contactedPort'), r1);
  findContacted(a, 'tcp_listeners');
  findTcpListener(a, part(local('listener'), 0, 2));
  dropBad(a);
  readClock(a);
  a.load(r1, local('tcpFlags'));
  a.alu('and', r1, SYN | ACK | RST);
  a.jumpIf(r1, '==', SYN, OPEN);
  // While the relay drains the address is free, and what comes there is its new owner's.
  a.loadMapValue(r1, 'settings', SETTINGS.at.draining);
  a.load(r1, memory(r1, 0, U32));
  a.jumpIf(r1, '!=', 0, NEXT);
  a.jump(RESET);
}

/** What the client's segment means for its connection (r7). Goes on if it is for the backend. */
function followClient(a: Code): void {
  a.load(r1, connection('state'));
  a.jumpIf(r1, '>=', TCP_STATE.over, 'has ended');
  requireTcpBackend(a, 'backend is gone');
  a.load(r2, local('tcpFlags'));
  a.jumpIf(r2, 'has', RST, 'client resets');
  a.jumpIf(r2, 'has', SYN, 'client repeats');
  acknowledge(a, 'backend');
  advance(a, 'client');
  finish(a);
  a.jump('passed on');

  a.label('client resets');
  a.load(r1, connection('state'));
  a.jumpIf(r1, '<', TCP_STATE.open, 'client gives up');
  requireBelievable(a, 'client', 'passed on');
  a.label('client gives up');
  endConnection(a, tcpKey(), { open: closedCounter('client-reset'), opening: 0, to: 'over' });
  a.jump('passed on');

  a.label('client repeats');
  a.load(r1, connection('state'));
  a.jumpIf(r1, '==', TCP_STATE.open, 'passed on');
  a.load(r1, local('sequence'));
  a.store(connection('clientAcked'), r1);
  a.alu32('add', r1, 1);
  a.store(connection('clientNext'), r1);
  a.jump('passed on');

  // A SYN opens another connection from the same port. Else both ends know of the end, or are told.
  a.label('has ended');
  a.load(r2, local('tcpFlags'));
  a.alu('and', r2, SYN | ACK | RST);
  a.jumpIf(r2, '==', SYN, 'open anew');
  a.jumpIf(r1, '==', TCP_STATE.cut, RESET);
  a.jump('passed on');
  // What is only opening finds another backend with its next SYN; what is open gets RST, and is ended by the engine.
  a.label('backend is gone');
  a.load(r1, connection('state'));
  a.jumpIf(r1, '>=', TCP_STATE.open, RESET);
  a.load(r2, local('tcpFlags'));
  a.alu('and', r2, SYN | ACK | RST);
  a.jumpIf(r2, '!=', SYN, RESET);
  endConnection(a, tcpKey(), { open: 0, opening: 0, to: 'over' });
  a.label('open anew');
  forgetConnection(a, tcpKey());
  a.jump(OPEN);

  a.label('passed on');
  loadContext(a, r1, 'interface');
  a.store(connection('interface'), r1);
  touch(a);
}

export function tcpEgress(a: Code, linkHeaderBytes: number): void {
  a.mov(r6, r1);
  parse(a, {
    transport: 'tcp',
    linkHeaderBytes,
    port: 'source',
    wanted: PORT_BACKEND,
    source: reversePart('backend'),
    sourcePort: reversePart('backendPort'),
    destination: reversePart('seen'),
    destinationPort: reversePart('seenPort'),
  });
  lookup(a, 'tcp_reverse', room(TCP_REVERSE_KEY.size));
  a.jumpIf(r0, '==', 0, NEXT);
  copy(a, tcpKey(), { from: memory(r0, 0, tcpKey().bytes) });
  lookup(a, 'tcp_connections', tcpKey());
  a.mov(r7, r0);
  a.jumpIf(r7, '==', 0, NEXT);
  findTcpListener(a, connection('listener'));
  // With sourceAddress `relay` they are rewritten where they come in.
  a.load(r1, rule('sourceAddress'));
  a.jumpIf(r1, '!=', SOURCE_CLIENT, NEXT);
  dropBad(a);
  readClock(a);
  followBackend(a);
  rewrite(a, {
    transport: 'tcp',
    linkHeaderBytes,
    direction: UPSTREAM,
    side: 'source',
    from: reversePart('backend'),
    fromPort: reversePart('backendPort'),
    to: tcpKeyPart('contacted'),
    toPort: tcpKeyPart('contactedPort'),
  });
  a.jump(NEXT);
  resetReply(a, { hook: 'egress', linkHeaderBytes });
  tcpWaysOut(a);
  endConnectionSubprograms(a);
}

/** What the backend's segment means for its connection (r7). Goes on if it is for the client. */
function followBackend(a: Code): void {
  const passedOn = a.unique('passed on');
  a.load(r1, connection('state'));
  a.jumpIf(r1, '==', TCP_STATE.cut, RESET);
  a.jumpIf(r1, '==', TCP_STATE.over, passedOn);
  a.load(r2, local('tcpFlags'));
  a.jumpIf(r2, 'has', RST, 'backend resets');
  a.jumpIf(r2, 'has', SYN, 'backend answers');
  acknowledge(a, 'client');
  advance(a, 'backend');
  finish(a);
  a.jump(passedOn);

  a.label('backend answers');
  a.jumpIf(r1, '!=', TCP_STATE.opening, passedOn);
  a.load(r1, local('acknowledged'));
  a.store(connection('clientAcked'), r1);
  a.load(r1, local('sequence'));
  a.store(connection('backendAcked'), r1);
  a.alu32('add', r1, 1);
  a.load(r2, local('bytes'));
  a.alu32('add', r1, r2);
  a.store(connection('backendNext'), r1);
  a.mov(r0, TCP_STATE.opening);
  a.mov(r1, TCP_STATE.answered);
  a.compareExchange(connection('state'), r1);
  a.jump(passedOn);

  a.label('backend resets');
  a.jumpIf(r1, '<', TCP_STATE.open, 'backend refuses');
  requireBelievable(a, 'backend', passedOn);
  a.jump('reset is believed');
  a.label('backend refuses');
  a.load(r1, local('acknowledged'));
  a.load(r2, connection('clientNext'));
  a.jumpIf32(r1, '!=', r2, passedOn);
  a.label('reset is believed');
  endConnection(a, tcpKey(), {
    open: closedCounter('backend-reset'),
    opening: closedCounter('connect-failed'),
    to: 'over',
  });
  a.label(passedOn);
  touch(a);
}

type End = 'client' | 'backend';

const ENDS = {
  client: {
    next: 'clientNext',
    acked: 'clientAcked',
    fin: 'clientFin',
    bytes: 'bytesDownstream',
    counter: TCP_COUNTERS.downstreamBytes,
  },
  backend: {
    next: 'backendNext',
    acked: 'backendAcked',
    fin: 'backendFin',
    bytes: 'bytesUpstream',
    counter: TCP_COUNTERS.upstreamBytes,
  },
} as const;

/** The segment acknowledges what `of` has sent; the first time, that opens the connection. */
function acknowledge(a: Code, of: End): void {
  const { acked, next } = ENDS[of];
  const [acknowledges, done] = [a.unique('acknowledges'), a.unique('acknowledged')];
  a.load(r2, local('tcpFlags'));
  a.jumpIf(r2, 'has', ACK, acknowledges);
  a.jump(done);
  a.label(acknowledges);
  a.load(r1, local('acknowledged'));
  a.load(r2, connection(acked));
  a.mov(r3, r1);
  a.alu32('sub', r3, r2);
  a.jumpIf32(r3, '==', 0, done);
  a.load(r4, connection(next));
  a.alu32('sub', r4, r2);
  a.jumpIf32(r3, '>', r4, done);
  a.store(connection(acked), r1);
  if (of === 'backend') {
    a.load(r1, connection('state'));
    a.jumpIf(r1, '!=', TCP_STATE.answered, done);
    admit(a);
  }
  a.label(done);
}

/** Counts the bytes that `from` has not sent before, and notes its FIN. */
function advance(a: Code, from: End): void {
  const { next, fin, bytes, counter } = ENDS[from];
  const done = a.unique('advanced');
  a.load(r4, local('tcpFlags'));
  a.alu('and', r4, FIN);
  a.load(r1, local('sequence'));
  a.load(r2, local('bytes'));
  a.alu32('add', r1, r2);
  a.alu32('add', r1, r4);
  a.load(r2, connection(next));
  a.mov(r3, r1);
  a.alu32('sub', r3, r2);
  a.jumpIf32(r3, '==', 0, done);
  a.jumpIf32(r3, '>', MOST_WINDOW, done);
  a.store(connection(next), r1);
  a.alu('sub', r3, r4);
  add(a, connection(bytes), { by: r3 });
  add(a, tcpCounter(counter), { by: r3 });
  a.jumpIf(r4, '==', 0, done);
  a.store(connection(fin), 1);
  a.label(done);
}

/** Ends the connection once both ends have said all, and each knows of the other. */
function finish(a: Code): void {
  const isNot = a.unique('not finished');
  for (const { fin } of Object.values(ENDS)) {
    a.load(r1, connection(fin));
    a.jumpIf(r1, '==', 0, isNot);
  }
  for (const { next, acked } of Object.values(ENDS)) {
    a.load(r1, connection(next));
    a.load(r2, connection(acked));
    a.jumpIf32(r1, '!=', r2, isNot);
  }
  endConnection(a, tcpKey(), { open: closedCounter('completed'), opening: 0, to: 'over' });
  a.label(isNot);
}

/** Jumps unless the RST's number is one that `from` could give: between what was acknowledged and what was sent. */
function requireBelievable(a: Code, from: End, otherwise: string): void {
  a.load(r1, local('sequence'));
  a.load(r2, connection(ENDS[from].acked));
  a.alu32('sub', r1, r2);
  a.load(r3, connection(ENDS[from].next));
  a.alu32('sub', r3, r2);
  a.jumpIf32(r1, '>', r3, otherwise);
}

function touch(a: Code): void {
  a.load(r1, local('nowNs'));
  a.store(connection('lastSeenNs'), r1);
}

/**
 * A segment to a backend's own address, from a client that may have used the relay from the same port. If that connection is not
 * open, it gives way: the client speaks to the backend directly.
 */
function releaseDirect(a: Code): void {
  const pairs: readonly (readonly [Memory, Memory])[] = [
    [reversePart('backend'), part(tcpKeyPart('contacted'), 0, ADDRESS)],
    [reversePart('seen'), part(tcpKeyPart('client'), 0, ADDRESS)],
    [reversePart('backendPort'), tcpKeyPart('contactedPort')],
    [reversePart('seenPort'), tcpKeyPart('clientPort')],
  ];
  a.load(r1, local('tcpFlags'));
  a.jumpIf(r1, 'has', RST, NEXT);
  for (const [to, from] of pairs) copy(a, to, { from });
  lookup(a, 'tcp_reverse', room(TCP_REVERSE_KEY.size));
  a.jumpIf(r0, '==', 0, NEXT);
  copy(a, otherKey(), { from: memory(r0, 0, otherKey().bytes) });
  lookup(a, 'tcp_connections', otherKey());
  a.mov(r7, r0);
  a.jumpIf(r7, '==', 0, NEXT);
  a.load(r1, field(r7, TCP_CONNECTION, 'state'));
  a.jumpIf(r1, '==', TCP_STATE.open, NEXT);
  endConnection(a, otherKey(), { open: 0, opening: 0, to: 'over' });
  forgetConnection(a, otherKey());
  a.jump(NEXT);
}
