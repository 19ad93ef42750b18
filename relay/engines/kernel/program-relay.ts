/**
 * sourceAddress `relay`: backends see the relay's own address, and a port of it for each session. What this adds to the
 * packet path:
 *
 *  1. a relay port for a new session: free towards that backend, from a place that the client's address and port name;
 *     when the ports are used up, the oldest half-open session in sight gives up its own;
 *  2. replies come in on ingress, to a relay port: source and destination are both rewritten;
 *  3. what goes out has this host's address as its source, which the routing stack would take for a forgery. So it goes
 *     past it, out of the interface that the routes name, or that it came in on where forwarding is off.
 *
 * On loopback nothing leaves this host, and 3 is left out.
 */
import { BPF_NOEXIST } from '../../../net/linux/abi.ts';
import { DOWNSTREAM, SESSIONS_EVICTED } from '../../core/counters.ts';
import {
  AF_INET,
  AF_INET6,
  FIB,
  FIB_FORWARDING_DISABLED,
  FIB_NO_NEIGHBOUR,
  FIB_SUCCESS,
  HELPER,
  LOOPBACK_INTERFACE,
} from './helpers.ts';
import { field, type Memory, part, r0, r1, r2, r3, r4, r5, r6, r7, r8 } from './memory.ts';
import { endSession } from './program-end.ts';
import {
  type Code,
  copy,
  drop,
  jumpIfV6,
  jumpUnlessSame,
  loadContext,
  local,
  lookup,
  reverseKey,
  reverseValue,
  writeReverse,
  VICTIM,
} from './program-frame.ts';
import { type Ring, searchRing } from './program-ring.ts';
import { lowerHopLimit } from './program-rewrite.ts';
import { ENDPOINT_KEY, REVERSE, RULES, SESSION } from './records.ts';
import { ADDRESS, U32, U64 } from './struct.ts';

const victim = (name: keyof typeof VICTIM.at): Memory =>
  part(local('victim'), VICTIM.at[name], VICTIM.bytes[name]);

/**
 * Gives the session (r7), whose backend is in it, a relay port and its reverse record. Goes on, or drops the packet, also where
 * the relay has no address towards the backend. Keeps r6 to r9.
 */
export function takeRelayPort(a: Code): void {
  jumpIfV6(a, 'relay IPv6');
  copy(a, field(r7, SESSION, 'seen'), { from: field(r8, RULES, 'relayV4') });
  a.jump('relay address is known');
  a.label('relay IPv6');
  copy(a, field(r7, SESSION, 'seen'), { from: field(r8, RULES, 'relayV6') });
  a.label('relay address is known');
  a.load(r1, part(field(r7, SESSION, 'seen'), 0, U64));
  a.load(r2, part(field(r7, SESSION, 'seen'), U64, U64));
  a.alu('or', r1, r2);
  a.jumpIf(r1, '==', 0, 'no upstream socket');
  for (const name of ['backend', 'seen', 'backendPort'] as const)
    copy(a, reverseKey(name), { from: field(r7, SESSION, name) });
  for (let at = 0; at < VICTIM.size; at += 8)
    a.store(part(local('victim'), at, 8), at === VICTIM.at.openedNs ? -1 : 0);
  const ring: Ring = {
    first: field(r8, RULES, 'firstRelayPort'),
    ports: field(r8, RULES, 'relayPorts'),
    to: reverseKey('seenPort'),
    take: () => writeReverse(a, BPF_NOEXIST),
    considerOwner: (next) => considerOwner(a, next),
  };
  searchRing(a, ring, 'has a relay port');
  evictOwner(a);
  a.label('has a relay port');
  copy(a, field(r7, SESSION, 'seenPort'), { from: reverseKey('seenPort') });
  a.store(field(r7, SESSION, 'attached'), 1);
}

/** Whether the session that has this relay port is half-open, and opened before the others in sight: the victim then. */
function considerOwner(a: Code, next: string): void {
  lookup(a, 'reverse', local('scratch'));
  a.jumpIf(r0, '==', 0, next);
  for (const name of ['session', 'attachedNs'] as const)
    copy(a, reverseValue(name), { from: field(r0, REVERSE, name) });
  lookup(a, 'sessions', reverseValue('session'));
  a.jumpIf(r0, '==', 0, 'session of a relay port');
  // Else the record rests.
  a.load(r1, field(r0, SESSION, 'attachedNs'));
  a.load(r2, reverseValue('attachedNs'));
  a.jumpIf(r1, '!=', r2, 'session of a relay port');
  a.load(r1, field(r0, SESSION, 'datagramsDownstream'));
  a.jumpIf(r1, '>', 1, 'session of a relay port');
  a.load(r1, field(r0, SESSION, 'openedNs'));
  a.load(r2, victim('openedNs'));
  a.jumpIf(r1, '>=', r2, 'session of a relay port');
  a.store(victim('openedNs'), r1);
  copy(a, victim('session'), { from: reverseValue('session') });
  a.load(r1, reverseKey('seenPort'));
  a.store(victim('port'), r1);
  a.label('session of a relay port');
}

/** Ends the victim and takes its relay port, or drops the packet. */
function evictOwner(a: Code): void {
  a.load(r1, victim('openedNs'));
  a.jumpIf(r1, '!=', -1, 'has a victim');
  a.label('no upstream socket');
  drop(a, DOWNSTREAM, 'no-upstream-socket');
  a.label('has a victim');
  a.addressOf(r1, victim('session'));
  a.load(r2, local('nowNs'));
  endSession(a, { counter: SESSIONS_EVICTED, mayRest: false });
  a.load(r1, victim('port'));
  a.store(reverseKey('seenPort'), r1);
  writeReverse(a, BPF_NOEXIST);
  a.jumpIf(r0, '!=', 0, 'no upstream socket');
}

/** Goes on if the contacted address is the relay's own towards backends; else to `otherwise`. */
export function requireRelayAddress(a: Code, otherwise: string): void {
  jumpIfV6(a, 'reply is IPv6');
  jumpUnlessSame(a, local('contacted'), { other: field(r8, RULES, 'relayV4'), target: otherwise });
  a.jump('reply is to the relay');
  a.label('reply is IPv6');
  jumpUnlessSame(a, local('contacted'), { other: field(r8, RULES, 'relayV6'), target: otherwise });
  a.label('reply is to the relay');
}

/** The reverse key in the scratch, from a packet to a relay port. */
export function keyOfReply(a: Code): void {
  copy(a, reverseKey('backend'), { from: local('client') });
  copy(a, reverseKey('seen'), { from: local('contacted') });
  copy(a, reverseKey('backendPort'), { from: local('clientPort') });
  a.load(r1, local('contactedPort'));
  a.store(reverseKey('seenPort'), r1);
}

/** A reply that no session waits for: late if a backend of the pool sent it, else a stranger's. */
export function dropUnawaited(a: Code): void {
  const key = (name: keyof typeof ENDPOINT_KEY.at): Memory =>
    part(local('scratch'), ENDPOINT_KEY.at[name], ENDPOINT_KEY.bytes[name]);
  copy(a, key('address'), { from: local('client') });
  copy(a, key('port'), { from: local('clientPort') });
  a.load(r1, field(r8, RULES, 'pool'));
  a.store(key('pool'), r1);
  lookup(a, 'endpoints', part(local('scratch'), 0, ENDPOINT_KEY.size));
  a.jumpIf(r0, '!=', 0, 'late reply');
  a.jump('unknown upstream');
}

export interface SendOptions {
  readonly linkHeaderBytes: number;
  readonly direction: number;
  /** Where the packet goes to: 16 bytes on the stack or at r7. */
  readonly destination: Memory;
  /** The interface to send it out of where forwarding is off; r7 is the session. */
  readonly fallback: (to: typeof r2) => void;
}

/** Sends the packet out past the routing stack; the program ends with it. On loopback goes on to `here`. */
export function sendOut(
  a: Code,
  { linkHeaderBytes, direction, destination, fallback }: SendOptions,
  here: string,
): void {
  const [v6, ask, found, fits] = ['IPv6', 'ask', 'interface is known', 'fits'].map((name) =>
    a.unique(name),
  ) as [string, string, string, string];
  const fib = (name: keyof typeof FIB.at): Memory => part(local('scratch'), FIB.at[name], FIB.bytes[name]);
  loadContext(a, r1, 'interface');
  a.jumpIf(r1, '==', LOOPBACK_INTERFACE, here);
  for (let at = 0; at < FIB.size; at += 8) a.store(part(local('scratch'), at, 8), 0);
  a.store(fib('interface'), r1);
  jumpIfV6(a, v6);
  a.store(fib('family'), AF_INET);
  copy(a, part(fib('destination'), 0, U32), { from: part(destination, 12, U32) });
  a.jump(ask);
  a.label(v6);
  a.store(fib('family'), AF_INET6);
  copy(a, fib('destination'), { from: part(destination, 0, ADDRESS) });
  a.label(ask);
  a.mov(r1, r6);
  a.addressOf(r2, local('scratch'));
  a.mov(r3, FIB.size);
  a.mov(r4, 0);
  a.call(HELPER.fibLookup);
  a.load(r2, fib('interface'));
  a.jumpIf(r0, '==', FIB_SUCCESS, found);
  a.jumpIf(r0, '==', FIB_NO_NEIGHBOUR, found);
  fallback(r2);
  a.jumpIf(r0, '==', FIB_FORWARDING_DISABLED, found);
  drop(a, direction, 'send-failed');

  a.label(found);
  a.store(local('context'), r2);
  a.store(local('index'), 0);
  a.mov(r1, r6);
  a.addressOf(r3, local('index'));
  a.mov(r4, 0);
  a.mov(r5, 0);
  a.call(HELPER.checkMtu);
  a.jumpIf(r0, '==', 0, fits);
  drop(a, direction, 'too-large');
  a.label(fits);
  lowerHopLimit(a, { linkHeaderBytes, direction });
}

/** The end of a packet that `sendOut` found an interface for. */
export function redirect(a: Code): void {
  a.load(r1, local('context'));
  a.mov(r2, 0);
  a.mov(r3, 0);
  a.mov(r4, 0);
  a.call(HELPER.redirectNeigh);
  a.exit();
}
