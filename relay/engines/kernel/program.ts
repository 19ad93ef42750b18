/**
 * The eBPF programs of the kernel engine, and the path of each packet through them:
 *
 *  client -> backend, on ingress                     backend -> client, on egress
 *   1. its headers are read; what has nothing to       1. its headers are read; what does not come from a backend's
 *      do with the relay is passed on                     port is passed on
 *   2. its listener, by address and port               2. its reverse record, by both addresses and ports; without one it
 *   3. its session, by listener, client IP and port;      is passed on
 *      one that was idle for too long ends here        3. the record is in use, its session alive and on that backend
 *   4. the session's backend is usable; else, or       4. a half-open session is not answered with more than the
 *      without a session, program-open.ts                 limit allows
 *   5. the session has its reverse record              5. the source is rewritten to the address that the client
 *      (program-attach.ts)                                contacted
 *   6. the destination is rewritten to the backend
 *
 * Each packet that has a listener is counted as received, and as forwarded or under one drop reason. What is forwarded goes
 * on to the next program and the routing stack as if it had arrived, or been sent, like that. What is not UDP goes to the
 * program for TCP (program-tcp.ts).
 */
import { DOWNSTREAM, SESSIONS_EXPIRED, UPSTREAM } from '../../core/counters.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import { Assembler, type Assembled } from './assembler.ts';
import {
  BACKEND,
  FIGURES,
  INTER_ARRIVAL_BUCKETS,
  type MapName,
  mapSpecs,
  PIN,
  PORT_ANY,
  PORT_ANY_V4,
  PORT_BACKEND,
  PORT_LISTENER,
  PORT_RELAY,
  REPLY_TIME_BUCKETS,
  REVERSE,
  RULES,
  SESSION,
  SOURCE_CLIENT,
} from './maps.ts';
import { field, memory, part, r0, r1, r2, r3, r4, r5, r6, r7, r8, type Register } from './memory.ts';
import { attach, releaseDirect } from './program-attach.ts';
import { endSession, endSubprograms } from './program-end.ts';
import {
  add,
  type Code,
  copy,
  drop,
  findBackend,
  findListener,
  findSnapshot,
  forwarded,
  jumpUnlessSame,
  loadContext,
  local,
  lookup,
  lookupAt,
  NEXT,
  pinKey,
  readClock,
  receive,
  reverseKey,
  sessionKey,
  waysOut,
} from './program-frame.ts';
import { hideErrors } from './program-icmp.ts';
import { findContacted } from './program-listener.ts';
import { open, OPEN, REPIN } from './program-open.ts';
import { needOwnLinkAddress, parse } from './program-parse.ts';
import { dropUnawaited, keyOfReply, redirect, requireRelayAddress, sendOut } from './program-relay.ts';
import { rewrite } from './program-rewrite.ts';
import { steward } from './program-steward.ts';
import { callTcp, tcpEgress, tcpIngress } from './program-tcp.ts';
import { tcpSteward } from './program-tcp-steward.ts';
import { U32, U64 } from './struct.ts';

/** Where a program runs: at the hooks of an interface, or on request (program-steward.ts). Those for TCP are called by the others. */
export type ProgramName = 'ingress' | 'egress' | 'steward' | 'tcp_ingress' | 'tcp_egress' | 'tcp_steward';

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
  tcp_steward: tcpSteward,
};

export function assembleProgram({ hook, linkHeaderBytes }: ProgramOptions): Assembled<MapName> {
  const a: Code = new Assembler(Object.keys(mapSpecs({ maxSessions: 1, maxPools: 1 })) as MapName[]);
  PROGRAMS[hook](a, linkHeaderBytes);
  return a.finish();
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

/** The checks and figures of a reply, whose reverse record is in r7. Then r7 is its session. */
function admitReply(a: Code): void {
  requireBackend(a);
  requireSession(a);
  limitAmplification(a);
  reply(a);
}

function unwantedReplies(a: Code): void {
  a.label('late reply');
  drop(a, UPSTREAM, 'late-reply');
  a.label('unknown upstream');
  drop(a, UPSTREAM, 'unknown-upstream');
}

/** r7 = the client's session, if it is alive; else goes to OPEN. */
function findSession(a: Code): void {
  lookup(a, 'sessions', sessionKey());
  a.jumpIf(r0, '==', 0, OPEN);
  a.mov(r7, r0);
  jumpIfAlive(a, 'session');
  a.addressOf(r1, sessionKey());
  a.load(r2, local('nowNs'));
  endSession(a, { counter: SESSIONS_EXPIRED, mayRest: true });
}

/** Jumps if the session's (r7) client was heard within the listener's (r8) idle timeout. */
function jumpIfAlive(a: Code, target: string): void {
  a.load(r1, local('nowNs'));
  a.load(r2, field(r7, SESSION, 'lastSeenNs'));
  a.alu('sub', r1, r2);
  a.load(r2, field(r8, RULES, 'idleTimeoutNs'));
  a.jumpIf(r1, 'signed <', r2, target);
}

/** A datagram from the client of the session (r7). */
function touch(a: Code): void {
  a.load(r1, field(r7, SESSION, 'datagramsDownstream'));
  a.jumpIf(r1, '!=', 1, 'past half-open');
  confirmPin(a);
  a.label('past half-open');
  noteInterval(a);
  loadContext(a, r1, 'interface');
  a.store(field(r7, SESSION, 'interface'), r1);
  a.load(r1, local('nowNs'));
  a.store(field(r7, SESSION, 'lastSeenNs'), r1);
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

/** The client has sent twice: no spoofed source. */
function confirmPin(a: Code): void {
  copy(a, local('pinAddress'), { from: local('client') });
  a.load(r1, local('listener'));
  a.store(local('pinListener'), r1);
  lookup(a, 'pins', pinKey());
  a.jumpIf(r0, '==', 0, 'past half-open');
  a.store(field(r0, PIN, 'confirmed'), 1);
}

/** The time since the client's last datagram, against the tick: bucket i is up to sqrt(2) * 2^(i - 4) ticks. */
function noteInterval(a: Code): void {
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
  a.label('no gap');
  // sqrt(2) is about 181 / 128; the first bound is that, over 16.
  a.alu('mul', r3, 181);
  a.alu('shiftRight', r3, 7 + 4);
  a.mov(r2, r7);
  for (let bucket = 0; bucket < INTER_ARRIVAL_BUCKETS - 1; bucket++) {
    a.jumpIf(r1, '<', r3, 'interval has its bucket');
    a.alu('shiftLeft', r3, 1);
    a.alu('add', r2, U32);
  }
  a.label('interval has its bucket');
  const count = memory(r2, SESSION.at.interArrival, U32);
  a.load(r1, count);
  a.alu('add', r1, 1);
  a.store(count, r1);
  a.label('interval is noted');
}

/** Goes on if the backend of the session (r7) is the one it was, and usable; else to REPIN. */
function requireUsable(a: Code): void {
  findSnapshot(a, REPIN);
  a.load(r1, field(r7, SESSION, 'ref'));
  a.mov(r2, r1);
  findBackend(a, r2, r3);
  a.load(r2, field(r2, BACKEND, 'usable'));
  a.jumpIf(r1, '!=', r2, REPIN);
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
    source: reverseKey('backend'),
    sourcePort: reverseKey('backendPort'),
    destination: reverseKey('seen'),
    destinationPort: reverseKey('seenPort'),
  });
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

/** The sender is a backend, the one of the reverse record (r7), and usable. */
function requireBackend(a: Code): void {
  findSnapshot(a, 'unknown upstream');
  a.load(r3, field(r7, REVERSE, 'ref'));
  a.store(local('ref'), r3);
  findBackend(a, r3, r1);
  jumpUnlessSame(a, reverseKey('backend'), {
    other: field(r3, BACKEND, 'address'),
    target: 'unknown upstream',
  });
  a.load(r1, reverseKey('backendPort'));
  a.load(r2, field(r3, BACKEND, 'port'));
  a.jumpIf(r1, '!=', r2, 'unknown upstream');
  a.load(r1, local('ref'));
  a.load(r2, field(r3, BACKEND, 'usable'));
  a.jumpIf(r1, '!=', r2, 'late reply');
  a.load(r1, field(r7, REVERSE, 'leftNs'));
  a.jumpIf(r1, '!=', 0, 'late reply');
}

/** r7 = the session that the reply is for, which is alive and still on that backend. */
function requireSession(a: Code): void {
  lookup(a, 'sessions', sessionKey());
  a.jumpIf(r0, '==', 0, 'late reply');
  a.mov(r7, r0);
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

/** A reply to the session (r7): counted, and timed if it is the first since the client's last datagram. */
function reply(a: Code): void {
  a.load(r2, local('bytes'));
  add(a, field(r7, SESSION, 'bytesUpstream'), { by: r2 });
  a.load(r2, local('datagrams'));
  add(a, field(r7, SESSION, 'datagramsUpstream'), { by: r2 });
  a.load(r3, field(r7, SESSION, 'lastReplyNs'));
  a.load(r4, field(r7, SESSION, 'lastSeenNs'));
  a.load(r5, local('nowNs'));
  a.store(field(r7, SESSION, 'lastReplyNs'), r5);
  a.jumpIf(r3, '>', r4, 'reply is timed');
  a.alu('sub', r5, r4);
  a.jumpIf(r5, 'signed <', 0, 'reply is timed');
  a.store(part(local('victim'), 0, U64), r5);
  a.load(r1, field(r8, RULES, 'pool'));
  a.alu('mul', r1, MAX_BACKENDS);
  a.load(r2, local('ref'));
  a.alu('and', r2, MAX_BACKENDS - 1);
  a.alu('add', r1, r2);
  lookupAt(a, 'figures', { index: r1, otherwise: 'reply is timed' });
  a.load(r5, part(local('victim'), 0, U64));
  a.atomicAdd(field(r0, FIGURES, 'replyTimeSumNs'), r5);
  a.mov(r1, 1);
  a.atomicAdd(field(r0, FIGURES, 'replies'), r1);
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
