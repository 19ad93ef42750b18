/**
 * The eBPF programs of the kernel engine, and the path of each packet through them:
 *
 *  client -> backend, on ingress                     backend -> client, on egress
 *   1. its headers are read; what has nothing to       1. its headers are read; what does not come from a backend's
 *      do with the relay is passed on                     port is passed on
 *   2. its listener, by address and port               2. its session, at the listener that its port serves alone; else, or
 *   3. its session, by listener, client IP and port;      where that is not it, by its reverse record, by both addresses
 *      one that was idle for too long ends here           and ports; without one it is passed on
 *   4. the session's backend is usable; else, or       3. the session is alive and on that backend
 *      without a session, program-open.ts              4. a half-open session is not answered with more than the
 *   5. the session has its reverse record                 limit allows
 *      (program-attach.ts)                             5. the source is rewritten to the address that the client
 *   6. the destination is rewritten to the backend        contacted
 *
 * Each packet that has a listener is counted as received, and as forwarded or under one drop reason. What is forwarded goes
 * on to the next program and the routing stack as if it had arrived, or been sent, like that. What is not UDP goes to the
 * program for TCP (program-tcp.ts).
 */
import { DOWNSTREAM, UPSTREAM } from '../../core/counters.ts';
import { assemble } from './assembler.ts';
import type { Assembled } from './linker.ts';
import { type MapName, mapSpecs } from './maps.ts';
import { field, r0, r1, r6, r7, r8, type Register } from './memory.ts';
import { attach, releaseDirect } from './program-attach.ts';
import { endSubprograms } from './program-end.ts';
import { countTraffic, findFigures } from './program-figures.ts';
import {
  type Code,
  copy,
  findListener,
  forwarded,
  loadContext,
  local,
  lookup,
  NEXT,
  readClock,
  receive,
  reverseKey,
  sessionKey,
  waysOut,
} from './program-frame.ts';
import { hideErrors } from './program-icmp.ts';
import { findContacted } from './program-listener.ts';
import { open } from './program-open.ts';
import { needOwnLinkAddress, parse } from './program-parse.ts';
import { dropUnawaited, keyOfReply, redirect, requireRelayAddress, sendOut } from './program-relay.ts';
import { admitReply, findAwaiting, findOwner, unwantedReplies } from './program-reply.ts';
import { rewrite } from './program-rewrite.ts';
import { findSession, requireUsable, touch } from './program-session.ts';
import { steward } from './program-steward.ts';
import { tcpError } from './program-tcp-error.ts';
import { tcpSteward } from './program-tcp-steward.ts';
import { callTcp, tcpEgress, tcpIngress } from './program-tcp.ts';
import {
  PORT_ANY,
  PORT_ANY_V4,
  PORT_BACKEND,
  PORT_LISTENER,
  PORT_RELAY,
  REVERSE,
  RULES,
  SESSION,
  SOURCE_CLIENT,
} from './records.ts';

/** Where a program runs: at the hooks of an interface, or on request (program-steward.ts). Those for TCP are called by the others. */
export type ProgramName =
  | 'ingress'
  | 'egress'
  | 'steward'
  | 'tcp_ingress'
  | 'tcp_egress'
  | 'tcp_ingress_error'
  | 'tcp_egress_error'
  | 'tcp_steward';

export interface ProgramOptions {
  readonly hook: ProgramName;
  /** Bytes before the IP header on this kind of interface: 14 of Ethernet, loopback and veth, or 0. */
  readonly linkHeaderBytes: number;
}

const PROGRAMS: Readonly<Record<ProgramName, (a: Code, linkHeaderBytes: number) => void>> = {
  ingress,
  egress,
  steward,
  tcp_ingress: tcpIngress,
  tcp_egress: tcpEgress,
  tcp_ingress_error: (a, linkHeaderBytes) => tcpError(a, { hook: 'ingress', linkHeaderBytes }),
  tcp_egress_error: (a, linkHeaderBytes) => tcpError(a, { hook: 'egress', linkHeaderBytes }),
  tcp_steward: tcpSteward,
};

export function assembleProgram({ hook, linkHeaderBytes }: ProgramOptions): Assembled<MapName> {
  const maps = Object.keys(mapSpecs({ maxSessions: 1, maxPools: 1 })) as MapName[];
  return assemble(maps, (a: Code) => PROGRAMS[hook](a, linkHeaderBytes));
}

function ingress(a: Code, linkHeaderBytes: number): void {
  a.mov(r6, r1);
  needOwnLinkAddress(a);
  hideErrors(a, { linkHeaderBytes, hook: 'ingress' });
  parse(a, {
    transport: 'udp',
    otherwise: 'another protocol',
    linkHeaderBytes,
    port: 'destination',
    wanted: PORT_LISTENER | PORT_ANY | PORT_ANY_V4 | PORT_BACKEND | PORT_RELAY,
    guess: 'firstListener',
    source: local('client'),
    sourcePort: local('clientPort'),
    destination: local('contacted'),
    destinationPort: local('contactedPort'),
  });
  findContacted(a, 'listeners');
  findListener(a, local('listener'));
  readClock(a);
  receive(a, DOWNSTREAM);
  findSession(a);
  open(a, { existing: 'session', unattached: 'unattached' });

  a.label('session');
  touch(a);
  requireUsable(a);
  a.load(r1, field(r7, SESSION, 'attached'));
  a.jumpIf(r1, '!=', 0, 'attached');
  a.label('unattached');
  attach(a);
  findFigures(a, field(r7, SESSION, 'ref'), 'backend has no figures');
  countTraffic(a, 'Downstream');
  a.label('backend has no figures');

  rewrite(a, {
    linkHeaderBytes,
    direction: DOWNSTREAM,
    side: 'destination',
    from: local('contacted'),
    fromPort: local('contactedPort'),
    to: field(r7, SESSION, 'backend'),
    toPort: field(r7, SESSION, 'backendPort'),
  });
  a.load(r1, field(r8, RULES, 'sourceAddress'));
  a.jumpIf(r1, '!=', SOURCE_CLIENT, 'from the relay');
  a.label('to the backend');
  forwarded(a, DOWNSTREAM);
  a.jump(NEXT);
  sendFromRelay(a, linkHeaderBytes);

  a.label('not a listener');
  a.load(r1, local('portFlags'));
  a.jumpIf(r1, 'has', PORT_RELAY, 'to a relay port');
  a.label('no relay port of this address');
  a.load(r1, local('portFlags'));
  a.jumpIf(r1, 'has', PORT_BACKEND, 'direct');
  a.jump(NEXT);
  a.label('direct');
  releaseDirect(a);
  relayReply(a, linkHeaderBytes);
  unwantedReplies(a);
  a.label('another protocol');
  callTcp(a, { hook: 'ingress', linkHeaderBytes });
  waysOut(a);
  endSubprograms(a);
}

/** sourceAddress `relay`, towards the backend: the source is rewritten too, and the packet sent out. */
function sendFromRelay(a: Code, linkHeaderBytes: number): void {
  a.label('from the relay');
  rewrite(a, {
    linkHeaderBytes,
    direction: DOWNSTREAM,
    side: 'source',
    from: local('client'),
    fromPort: local('clientPort'),
    to: field(r7, SESSION, 'seen'),
    toPort: field(r7, SESSION, 'seenPort'),
  });
  const destination = field(r7, SESSION, 'backend');
  const fallback = (to: Register): void => loadContext(a, to, 'interface');
  sendOut(a, { linkHeaderBytes, direction: DOWNSTREAM, destination, fallback }, 'to the backend');
  forwarded(a, DOWNSTREAM);
  redirect(a);
}

/** A packet to a relay port, on ingress: the way of a reply with sourceAddress `relay`. */
function relayReply(a: Code, linkHeaderBytes: number): void {
  a.label('to a relay port');
  findListener(a, local('listener'));
  requireRelayAddress(a, 'no relay port of this address');
  readClock(a);
  receive(a, UPSTREAM);
  keyOfReply(a);
  lookup(a, 'reverse', local('scratch'));
  a.jumpIf(r0, '!=', 0, 'reply is awaited');
  dropUnawaited(a);
  a.label('reply is awaited');
  a.mov(r7, r0);
  copy(a, sessionKey(), { from: field(r7, REVERSE, 'session') });
  findOwner(a);
  admitReply(a);
  for (const [side, from, fromPort, to, toPort] of [
    ['source', 'backend', 'backendPort', field(r7, SESSION, 'local'), field(r7, SESSION, 'localPort')],
    ['destination', 'seen', 'seenPort', local('client'), local('clientPort')],
  ] as const) {
    rewrite(a, {
      linkHeaderBytes,
      direction: UPSTREAM,
      side,
      from: reverseKey(from),
      fromPort: reverseKey(fromPort),
      to,
      toPort,
    });
  }
  const fallback = (to: Register): void => a.load(to, field(r7, SESSION, 'interface'));
  sendOut(
    a,
    { linkHeaderBytes, direction: UPSTREAM, destination: local('client'), fallback },
    'to the client',
  );
  forwarded(a, UPSTREAM);
  redirect(a);
  a.label('to the client');
  forwarded(a, UPSTREAM);
  a.jump(NEXT);
}

function egress(a: Code, linkHeaderBytes: number): void {
  a.mov(r6, r1);
  hideErrors(a, { linkHeaderBytes, hook: 'egress' });
  parse(a, {
    transport: 'udp',
    otherwise: 'another protocol',
    linkHeaderBytes,
    port: 'source',
    wanted: PORT_BACKEND,
    guess: 'repliesTo',
    source: reverseKey('backend'),
    sourcePort: reverseKey('backendPort'),
    destination: local('client'),
    destinationPort: local('clientPort'),
  });
  findAwaiting(a, 'by reverse record');
  a.jump('reply is owned');

  a.label('by reverse record');
  copy(a, reverseKey('seen'), { from: local('client') });
  copy(a, reverseKey('seenPort'), { from: local('clientPort') });
  lookup(a, 'reverse', local('scratch'));
  a.jumpIf(r0, '==', 0, NEXT);
  a.mov(r7, r0);
  copy(a, sessionKey(), { from: field(r7, REVERSE, 'session') });
  findListener(a, local('listener'));
  // With sourceAddress `relay` replies are rewritten where they come in.
  a.load(r1, field(r8, RULES, 'sourceAddress'));
  a.jumpIf(r1, '!=', SOURCE_CLIENT, NEXT);
  readClock(a);
  receive(a, UPSTREAM);
  findOwner(a);
  a.label('reply is owned');
  admitReply(a);
  rewrite(a, {
    linkHeaderBytes,
    direction: UPSTREAM,
    side: 'source',
    from: reverseKey('backend'),
    fromPort: reverseKey('backendPort'),
    to: field(r7, SESSION, 'local'),
    toPort: field(r7, SESSION, 'localPort'),
  });
  forwarded(a, UPSTREAM);
  a.jump(NEXT);
  unwantedReplies(a);
  a.label('another protocol');
  callTcp(a, { hook: 'egress', linkHeaderBytes });
  waysOut(a);
}
