/**
 * sourceAddress `relay` for TCP, as program-relay.ts has it for UDP: backends see the relay's own address, and a port of it for
 * each connection.
 *
 *  1. a relay port for a new connection: free towards that backend, from a place that the client's address and port name. When
 *     the ports are used up, of the connections in sight that only open or have ended, the one that was silent longest gives
 *     up its own;
 *  2. the backend's segments come in on ingress, to a relay port: source and destination are both rewritten;
 *  3. what goes out goes past the routing stack.
 *
 * What has ended keeps its port as long as its record, and so beyond the minute in which the backend's system remembers the
 * connection (TIME-WAIT), as long as there are ports enough.
 */
import { BPF_NOEXIST } from '../../../net/linux/abi.ts';
import { DOWNSTREAM, UPSTREAM } from '../../core/counters.ts';
import { field, type Memory, memory, part, r0, r1, r2, r7 } from './memory.ts';
import { type Code, copy, jumpIfV6, loadContext, local, lookup, NEXT, update } from './program-frame.ts';
import { redirect, sendOut } from './program-relay.ts';
import { type Ring, searchRing } from './program-ring.ts';
import { rewrite } from './program-rewrite.ts';
import { endConnection, forgetConnection } from './program-tcp-end.ts';
import {
  connection,
  otherKey,
  reversePart,
  room,
  rule,
  tcpKey,
  tcpKeyPart,
  victimKey,
} from './program-tcp-frame.ts';
import { SOURCE_CLIENT } from './records.ts';
import { struct, U32, U64 } from './struct.ts';
import { TCP_CONNECTION, TCP_REVERSE_KEY, TCP_STATE } from './tcp-maps.ts';

/** What is kept of the connection that is to give up its port. */
const VICTIM = struct({ lastSeenNs: U64, port: U32, reserved: U32 });
const victim = (name: keyof typeof VICTIM.at): Memory =>
  part(local('victim'), VICTIM.at[name], VICTIM.bytes[name]);

/** Gives the connection (r7), whose backend is in it, a relay port and its reverse record; or a jump. Keeps r6 to r9. */
export function takeTcpRelayPort(a: Code, otherwise: string): void {
  const key = room(TCP_REVERSE_KEY.size);
  noteRelayAddress(a, otherwise);
  for (const name of ['backend', 'seen', 'backendPort'] as const)
    copy(a, reversePart(name), { from: connection(name) });
  copy(a, local('clientPort'), { from: tcpKeyPart('clientPort') });
  a.store(victim('lastSeenNs'), -1);
  const take = (): void => update(a, 'tcp_reverse', { key, value: tcpKey(), flags: BPF_NOEXIST });
  const ring: Ring = {
    first: rule('firstRelayPort'),
    ports: rule('relayPorts'),
    to: reversePart('seenPort'),
    take,
    considerOwner: (next) => considerOwner(a, next),
  };
  searchRing(a, ring, 'has a relay port');
  evictOwner(a, otherwise);
  take();
  a.jumpIf(r0, '!=', 0, otherwise);
  a.label('has a relay port');
  copy(a, connection('seenPort'), { from: reversePart('seenPort') });
}

/** The connection's `seen` = the relay's address of the client's family, or a jump where the relay has none towards backends. */
function noteRelayAddress(a: Code, otherwise: string): void {
  jumpIfV6(a, 'relay IPv6');
  copy(a, connection('seen'), { from: rule('relayV4') });
  a.jump('relay address is noted');
  a.label('relay IPv6');
  copy(a, connection('seen'), { from: rule('relayV6') });
  a.label('relay address is noted');
  a.load(r1, part(connection('seen'), 0, 8));
  a.load(r2, part(connection('seen'), 8, 8));
  a.alu('or', r1, r2);
  a.jumpIf(r1, '==', 0, otherwise);
}

/** Whether the connection that has this relay port may give it up, and was silent longer than the others in sight: the victim then. */
function considerOwner(a: Code, next: string): void {
  lookup(a, 'tcp_reverse', room(TCP_REVERSE_KEY.size));
  a.jumpIf(r0, '==', 0, next);
  copy(a, otherKey(), { from: memory(r0, 0, otherKey().bytes) });
  lookup(a, 'tcp_connections', otherKey());
  a.jumpIf(r0, '==', 0, next);
  a.load(r1, field(r0, TCP_CONNECTION, 'state'));
  a.jumpIf(r1, '==', TCP_STATE.open, next);
  a.load(r1, field(r0, TCP_CONNECTION, 'lastSeenNs'));
  a.load(r2, victim('lastSeenNs'));
  a.jumpIf(r1, '>=', r2, next);
  a.store(victim('lastSeenNs'), r1);
  copy(a, victim('port'), { from: reversePart('seenPort') });
  copy(a, victimKey(), { from: otherKey() });
}

/** Ends and forgets the victim; its port is in the reverse key then. Or a jump, when there is none. */
function evictOwner(a: Code, otherwise: string): void {
  a.load(r1, victim('lastSeenNs'));
  a.jumpIf(r1, '==', -1, otherwise);
  lookup(a, 'tcp_connections', victimKey());
  a.jumpIf(r0, '==', 0, otherwise);
  a.load(r1, field(r0, TCP_CONNECTION, 'state'));
  a.jumpIf(r1, '==', TCP_STATE.open, otherwise);
  a.store(local('context'), r7);
  a.mov(r7, r0);
  endConnection(a, victimKey(), { open: 0, opening: 0, to: 'over' });
  forgetConnection(a, victimKey());
  a.load(r7, local('context'));
  copy(a, reversePart('seenPort'), { from: part(victim('port'), 0, 2) });
}

/** The segment, rewritten to the backend, goes on; with sourceAddress `relay` with the relay's source, and past the routing stack. */
export function passToBackend(a: Code, linkHeaderBytes: number): void {
  a.load(r1, rule('sourceAddress'));
  a.jumpIf(r1, '==', SOURCE_CLIENT, NEXT);
  rewrite(a, {
    transport: 'tcp',
    linkHeaderBytes,
    direction: DOWNSTREAM,
    side: 'source',
    from: tcpKeyPart('client'),
    fromPort: tcpKeyPart('clientPort'),
    to: connection('seen'),
    toPort: connection('seenPort'),
  });
  const fallback = (to: typeof r2): void => loadContext(a, to, 'interface');
  const destination = connection('backend');
  sendOut(a, { linkHeaderBytes, direction: DOWNSTREAM, destination, fallback }, NEXT);
  redirect(a);
}

/** r7 = the connection of a segment to a relay port, and its key; or a jump, when the port is nobody's towards that address. */
export function findReplied(a: Code, otherwise: string): void {
  for (const [to, from] of [
    ['backend', 'client'],
    ['seen', 'contacted'],
    ['backendPort', 'clientPort'],
    ['seenPort', 'contactedPort'],
  ] as const)
    copy(a, reversePart(to), { from: tcpKeyPart(from) });
  lookup(a, 'tcp_reverse', room(TCP_REVERSE_KEY.size));
  a.jumpIf(r0, '==', 0, otherwise);
  copy(a, tcpKey(), { from: memory(r0, 0, tcpKey().bytes) });
  lookup(a, 'tcp_connections', tcpKey());
  a.mov(r7, r0);
  a.jumpIf(r7, '==', 0, NEXT);
}

/** The backend's segment goes to the client of the connection (r7) that `findReplied` found. Ends the program. */
export function passToClient(a: Code, linkHeaderBytes: number): void {
  for (const [side, from, fromPort, to, toPort] of [
    ['source', 'backend', 'backendPort', 'contacted', 'contactedPort'],
    ['destination', 'seen', 'seenPort', 'client', 'clientPort'],
  ] as const) {
    rewrite(a, {
      transport: 'tcp',
      linkHeaderBytes,
      direction: UPSTREAM,
      side,
      from: reversePart(from),
      fromPort: reversePart(fromPort),
      to: tcpKeyPart(to),
      toPort: tcpKeyPart(toPort),
    });
  }
  // The scratch is sendOut's from here on.
  const destination = part(local('client'), 0, tcpKeyPart('client').bytes);
  copy(a, destination, { from: tcpKeyPart('client') });
  const fallback = (to: typeof r2): void => a.load(to, connection('interface'));
  sendOut(a, { linkHeaderBytes, direction: UPSTREAM, destination, fallback }, NEXT);
  redirect(a);
}
