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
import { field, type Memory, memory, part, r0, r1, r6, r7 } from './memory.ts';
import { type Code, copy, local, lookup, NEXT, readClock, tailCall } from './program-frame.ts';
import { findContacted } from './program-listener.ts';
import { needOwnLinkAddress, parse } from './program-parse.ts';
import { rewrite } from './program-rewrite.ts';
import {
  endConnection,
  endConnectionSubprograms,
  forgetConnection,
  forgetConnectionSubprogram,
} from './program-tcp-end.ts';
import { followBackend, followClient } from './program-tcp-follow.ts';
import {
  ACK,
  connection,
  dropBad,
  findTcpListener,
  otherKey,
  reversePart,
  room,
  RST,
  rule,
  SYN,
  tcpKey,
  tcpKeyPart,
  tcpWaysOut,
} from './program-tcp-frame.ts';
import { OPEN, openConnection } from './program-tcp-open.ts';
import { findReplied, passToBackend, passToClient } from './program-tcp-relay.ts';
import { RESET, resetReply, type ResetOptions } from './program-tcp-reset.ts';
import {
  PORT_ANY,
  PORT_ANY_V4,
  PORT_BACKEND,
  PORT_LISTENER,
  PORT_RELAY,
  SETTINGS,
  SOURCE_CLIENT,
} from './records.ts';
import { ADDRESS, U32 } from './struct.ts';
import { TCP_CONNECTION, TCP_REVERSE_KEY, TCP_STATE, tcpProgramIndex } from './tcp-maps.ts';

/** In the programs for UDP: goes on in the one for TCP, if there is one; else comes back, and goes on to NEXT. */
export function callTcp(a: Code, { hook, linkHeaderBytes }: ResetOptions): void {
  tailCall(a, 'tcp_programs', tcpProgramIndex(hook, linkHeaderBytes));
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
