/**
 * ICMP errors about segments of relayed connections, a router's "too big" above all, without which no end learns how much the path
 * takes. They quote the segment as the relay had passed it on, to the one in whose name it did, and are turned into what the
 * sender of the segment would have got without a relay between:
 *
 *  1. an error, whole, to the source of what it quotes: a TCP segment, not a later fragment, with its ports at the least
 *  2. the connection: of what was sent on to the client, by both ends of its side; of what was sent on to the backend, by the
 *     reverse record
 *  3. the quotation becomes the segment as its sender had sent it: addresses, ports, and the checksums that are quoted
 *  4. the error goes to that sender, from the one that the sender had sent to: routers and backends stay hidden
 *  5. the ICMP checksum, by the difference
 *
 *     hook and sourceAddress   quoted                      becomes
 *     ingress                  listener -> client          backend -> client, or relay port
 *     ingress, relay           relay port -> backend       client -> listener
 *     egress, client           client -> backend           client -> listener
 *
 * Called by the programs for UDP. Registers: r7 the connection, r8 its rules.
 */
import { DOWNSTREAM } from '../../core/counters.ts';
import type { Hook } from './attach.ts';
import { IPV4, IPV6, TCP } from './headers.ts';
import { HELPER } from './helpers.ts';
import { type Memory, memory, part, r0, r1, r2, r3, r4, r5, r6, r7, type Register } from './memory.ts';
import { type Code, copy, jumpIfV6, loadContext, local, lookup, NEXT } from './program-frame.ts';
import { redirect, sendOut } from './program-relay.ts';
import {
  connection,
  findTcpListener,
  reversePart,
  room,
  rule,
  tcpKey,
  tcpKeyPart,
  tcpWaysOut,
} from './program-tcp-frame.ts';
import {
  errorAt,
  oldDestination,
  oldSource,
  quotedAt,
  quotesSum,
  readError,
  segmentAt,
} from './program-tcp-quote.ts';
import { SOURCE_CLIENT } from './records.ts';
import { ADDRESS, U16, U32 } from './struct.ts';
import { TCP_REVERSE_KEY } from './tcp-maps.ts';

/** Of an ICMP header: behind type and code. */
const ICMP_CHECKSUM = 2;

// What becomes of the quotation: the key of the connection, whose client is the segment's sender there. Differences of checksums:
const outerChange = (): Memory => local('context');
const quotedChange = (): Memory => local('rules');
/** The interface that the error leaves by where no route is asked. */
const fallbackInterface = (): Memory => local('counted');

const newSource = (): Memory => tcpKeyPart('client');
const newDestination = (): Memory => tcpKeyPart('contacted');

/** Ports of the quoted segment, in the order in which they stand there: as they are, and as they become. */
const PORT_PAIRS = [
  ['seenPort', 'clientPort'],
  ['backendPort', 'contactedPort'],
] as const;

export interface TcpErrorOptions {
  readonly hook: Hook;
  readonly linkHeaderBytes: number;
}

export function tcpError(a: Code, { hook, linkHeaderBytes }: TcpErrorOptions): void {
  a.mov(r6, r1);
  readError(a, linkHeaderBytes);
  if (hook === 'ingress') findSentToClient(a);
  findSentToBackend(a, hook);
  a.label('translate');
  noteChanges(a);
  mendSums(a, linkHeaderBytes);
  writeAddresses(a, linkHeaderBytes);
  writePorts(a);
  a.load(r1, rule('sourceAddress'));
  a.jumpIf(r1, '==', SOURCE_CLIENT, NEXT);
  // The scratch is sendOut's from here on.
  copy(a, local('client'), { from: newSource() });
  const fallback = (to: Register): void => a.load(to, fallbackInterface());
  sendOut(a, { linkHeaderBytes, direction: DOWNSTREAM, destination: local('client'), fallback }, NEXT);
  redirect(a);
  tcpWaysOut(a);
}

/** r7 = the connection whose listener sent the segment to its client, and `translate`; else goes on. */
function findSentToClient(a: Code): void {
  lookup(a, 'tcp_connections', tcpKey());
  a.jumpIf(r0, '==', 0, 'not sent to a client');
  a.mov(r7, r0);
  findTcpListener(a, connection('listener'));
  copy(a, newSource(), { from: connection('backend') });
  copy(a, newDestination(), { from: connection('seen') });
  copy(a, tcpKeyPart('clientPort'), { from: connection('backendPort') });
  copy(a, tcpKeyPart('contactedPort'), { from: connection('seenPort') });
  loadContext(a, r1, 'interface');
  a.store(fallbackInterface(), r1);
  a.jump('translate');
  a.label('not sent to a client');
}

/** r7 = the connection whose client's segment was sent on to its backend; else jumps to NEXT. */
function findSentToBackend(a: Code, hook: Hook): void {
  lookup(a, 'tcp_reverse', room(TCP_REVERSE_KEY.size));
  a.jumpIf(r0, '==', 0, NEXT);
  copy(a, tcpKey(), { from: memory(r0, 0, tcpKey().bytes) });
  lookup(a, 'tcp_connections', tcpKey());
  a.jumpIf(r0, '==', 0, NEXT);
  a.mov(r7, r0);
  findTcpListener(a, connection('listener'));
  a.load(r1, rule('sourceAddress'));
  // Those to the client itself are rewritten where they leave towards it, those to the relay where they come in.
  a.jumpIf(r1, hook === 'ingress' ? '==' : '!=', SOURCE_CLIENT, NEXT);
  a.load(r1, connection('interface'));
  a.store(fallbackInterface(), r1);
}

/** outerChange and quotedChange: of the addresses in both headers, as a checksum takes them. */
function noteChanges(a: Code): void {
  for (const [change, pairs] of [
    [
      outerChange(),
      [
        [local('client'), newDestination()],
        [local('contacted'), newSource()],
      ],
    ],
    [
      quotedChange(),
      [
        [oldSource(), newSource()],
        [oldDestination(), newDestination()],
      ],
    ],
  ] as const) {
    a.mov(r0, 0);
    for (const [from, to] of pairs) {
      a.mov(r5, r0);
      a.addressOf(r1, from);
      a.mov(r2, ADDRESS);
      a.addressOf(r3, to);
      a.mov(r4, ADDRESS);
      a.call(HELPER.csumDiff);
    }
    a.store(change, r0);
  }
}

/**
 * All checksums. What is quoted counts in the sum over the error, and its own checksums make up for its own changes there:
 *
 *     the change of the error's sum      checksum is quoted           is not
 *     IPv4                               less quoted addresses        ports
 *     IPv6, with a pseudo-header         outer addresses              outer and quoted addresses, ports
 */
function mendSums(a: Code, linkHeaderBytes: number): void {
  const ofError: Place = { header: errorAt(), field: ICMP_CHECKSUM };
  const ofSegment: Place = { header: segmentAt(), field: TCP.at.checksum };
  a.load(r1, quotesSum());
  a.jumpIf(r1, '==', 0, 'only ports are quoted');
  mendByChange(a, ofSegment, { change: quotedChange() });
  mendByPorts(a, ofSegment);
  jumpIfV6(a, 'outer addresses');
  mendByChange(a, ofError, { change: quotedChange(), isLess: true });
  a.jump('IPv4 headers');

  a.label('only ports are quoted');
  mendByPorts(a, ofError);
  jumpIfV6(a, 'quoted addresses');
  a.label('IPv4 headers');
  mendByChange(a, { header: quotedAt(), field: IPV4.at.checksum }, { change: quotedChange() });
  mendByChange(a, { header: linkHeaderBytes, field: IPV4.at.checksum }, { change: outerChange() });
  a.jump('sums are mended');

  a.label('quoted addresses');
  mendByChange(a, ofError, { change: quotedChange() });
  a.label('outer addresses');
  mendByChange(a, ofError, { change: outerChange() });
  a.label('sums are mended');
}

/** A field of the header whose offset a local holds, or is known. */
interface Place {
  readonly header: Memory | number;
  readonly field: number;
}

/** r2 = the offset. */
function loadOffset(a: Code, { header, field }: Place): void {
  if (typeof header === 'number') {
    a.mov(r2, header + field);
    return;
  }
  a.load(r2, header);
  a.alu('add', r2, field);
}

/** The checksum there changes with what it is over, or with the opposite of that. */
function mendByChange(
  a: Code,
  place: Place,
  { change, isLess = false }: { change: Memory; isLess?: boolean },
): void {
  a.mov(r1, r6);
  loadOffset(a, place);
  a.mov(r3, 0);
  a.load(r4, change);
  if (isLess) a.alu32('xor', r4, 0xffff_ffff);
  a.mov(r5, 0);
  // Fails for no packet that is in one piece, as this one is.
  a.call(HELPER.l4CsumReplace);
}

function mendByPorts(a: Code, place: Place): void {
  for (const [from, to] of PORT_PAIRS) {
    a.mov(r1, r6);
    loadOffset(a, place);
    a.load(r3, reversePart(from));
    a.load(r4, tcpKeyPart(to));
    for (const port of [r3, r4]) a.swapBytes(port, 16);
    a.mov(r5, U16);
    a.call(HELPER.l4CsumReplace);
  }
}

function writeAddresses(a: Code, linkHeaderBytes: number): void {
  jumpIfV6(a, 'write IPv6');
  writeHeaders(a, IPV4, { linkHeaderBytes, skip: ADDRESS - U32 });
  a.jump('addresses are written');
  a.label('write IPv6');
  writeHeaders(a, IPV6, { linkHeaderBytes, skip: 0 });
  a.label('addresses are written');
}

/** @param skip bytes of an address that the header does not have */
function writeHeaders(
  a: Code,
  { at }: typeof IPV4 | typeof IPV6,
  { linkHeaderBytes, skip }: { linkHeaderBytes: number; skip: number },
): void {
  const bytes = ADDRESS - skip;
  for (const [header, source, destination] of [
    [linkHeaderBytes, newDestination(), newSource()],
    [quotedAt(), newSource(), newDestination()],
  ] as const) {
    write(a, { header, field: at.source }, part(source, skip, bytes));
    write(a, { header, field: at.destination }, part(destination, skip, bytes));
  }
}

function writePorts(a: Code): void {
  for (const [i, [, port]] of PORT_PAIRS.entries()) {
    a.load(r1, tcpKeyPart(port));
    a.swapBytes(r1, 16);
    a.store(local('index'), r1);
    write(a, { header: segmentAt(), field: i * U16 }, part(local('index'), 0, U16));
  }
}

function write(a: Code, place: Place, bytes: Memory): void {
  a.mov(r1, r6);
  loadOffset(a, place);
  a.addressOf(r3, bytes);
  a.mov(r4, bytes.bytes);
  a.mov(r5, 0);
  a.call(HELPER.skbStoreBytes);
}
