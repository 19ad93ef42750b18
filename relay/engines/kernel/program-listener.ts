/** Which listener a packet is for, by the address and port that it contacts. */
import { V4_MAPPED } from './headers.ts';
import { AF_INET, AF_INET6, FIB, FIB_FORWARDING_DISABLED, FIB_NOT_FORWARDED, HELPER } from './helpers.ts';
import { field, part, r0, r1, r2, r3, r4, r6, r7 } from './memory.ts';
import {
  type Code,
  copy,
  jumpIfV6,
  jumpUnlessSame,
  jumpUnlessUnicast,
  listenerKey,
  loadContext,
  local,
  lookup,
  lookupAt,
} from './program-frame.ts';
import { LISTENER, PORT_ANY, PORT_ANY_V4, PORT_LISTENER, RULES } from './records.ts';
import { ADDRESS, U32 } from './struct.ts';

/**
 * local listener = index of the listener that was contacted: by its own address, or by any of this host's. Else goes to
 * 'not a listener'.
 */
export function findContacted(a: Code, listeners: 'listeners' | 'tcp_listeners'): void {
  a.load(r1, local('portFlags'));
  a.jumpIf(r1, 'has', PORT_LISTENER | PORT_ANY | PORT_ANY_V4, 'has a listener’s port');
  a.jump('not a listener');
  a.label('has a listener’s port');
  refuseNobody(a);
  if (listeners === 'listeners') tryFirst(a);
  lookup(a, listeners, listenerKey());
  a.jumpIf(r0, '!=', 0, 'listener');
  for (const [flag, word, label] of [
    [PORT_ANY_V4, V4_MAPPED, 'not 0.0.0.0'],
    [PORT_ANY, 0, 'not a listener'],
  ] as const) {
    a.load(r1, local('portFlags'));
    a.jumpIf(r1, 'has', flag, `try ${flag}`);
    a.jump(label);
    a.label(`try ${flag}`);
    if (flag === PORT_ANY_V4) {
      jumpIfV6(a, label);
    }
    const any = part(local('scratch'), 0, ADDRESS + U32);
    a.store(part(any, 0, 8), 0);
    a.store(part(any, 8, 4), word);
    a.store(part(any, 12, 4), 0);
    copy(a, part(any, ADDRESS, U32), { from: local('contactedPort') });
    lookup(a, listeners, any);
    a.jumpIf(r0, '==', 0, label);
    a.load(r7, field(r0, LISTENER, 'index'));
    a.jump('any address');
    if (flag === PORT_ANY_V4) a.label(label);
  }
  a.label('any address');
  requireOwnAddress(a);
  a.store(local('listener'), r7);
  a.jump('listener is known');
  a.label('listener');
  a.load(r1, field(r0, LISTENER, 'index'));
  a.store(local('listener'), r1);
  a.label('listener is known');
}

/** An address that no host has is not one of this host's, though a listener on all of them may have the port. */
function refuseNobody(a: Code): void {
  a.load(r1, local('portFlags'));
  a.jumpIf(r1, 'has', PORT_ANY | PORT_ANY_V4, 'may be on any address');
  a.jump('somebody is contacted');
  a.label('may be on any address');
  jumpUnlessUnicast(a, local('contacted'), 'not a listener');
  a.label('somebody is contacted');
}

/** The listener that the port's record names is the one, where its address is the contacted one: that saves a look into a hash. */
function tryFirst(a: Code): void {
  const isNot = 'another listener';
  a.load(r7, local('guess'));
  lookupAt(a, 'rules', { index: r7, otherwise: isNot });
  jumpUnlessSame(a, local('contacted'), { other: field(r0, RULES, 'local'), target: isNot });
  a.load(r1, local('contactedPort'));
  a.load(r2, field(r0, RULES, 'localPort'));
  a.jumpIf(r1, '!=', r2, isNot);
  a.store(local('listener'), r7);
  a.jump('listener is known');
  a.label(isNot);
}

/** Jumps unless the contacted address is one of this host's. Keeps r7. */
function requireOwnAddress(a: Code): void {
  const fib = (name: keyof typeof FIB.at) => part(local('scratch'), FIB.at[name], FIB.bytes[name]);
  for (let at = 0; at < FIB.size; at += 8) a.store(part(local('scratch'), at, 8), 0);
  loadContext(a, r1, 'interface');
  a.store(fib('interface'), r1);
  jumpIfV6(a, 'route IPv6');
  a.store(fib('family'), AF_INET);
  for (const [to, from] of [
    ['source', 'client'],
    ['destination', 'contacted'],
  ] as const) {
    copy(a, part(fib(to), 0, U32), { from: part(local(from), 12, U32) });
  }
  a.jump('ask the routes');
  a.label('route IPv6');
  a.store(fib('family'), AF_INET6);
  copy(a, fib('source'), { from: local('client') });
  copy(a, fib('destination'), { from: local('contacted') });
  a.label('ask the routes');
  a.mov(r1, r6);
  a.addressOf(r2, local('scratch'));
  a.mov(r3, FIB.size);
  a.mov(r4, 0);
  a.call(HELPER.fibLookup);
  a.jumpIf(r0, '==', FIB_NOT_FORWARDED, 'own address');
  a.jumpIf(r0, '!=', FIB_FORWARDING_DISABLED, 'not a listener');
  a.label('own address');
}
