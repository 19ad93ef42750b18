/**
 * Whether a client may open a session: its address can be answered, and its own and the listener's limits allow one more. The
 * same decisions as core/router.ts.
 */
import { DOWNSTREAM } from '../../core/counters.ts';
import { field, r0, r1, r2, r3, r4, r5, r7, r8 } from './memory.ts';
import { type Code, drop, jumpUnlessUnicast, local, lookupAt } from './program-frame.ts';
import { LISTENER_STATE, PIN, RULES } from './records.ts';

/** Attempts to take a token of the listener while other CPUs take theirs. */
const TOKEN_ATTEMPTS = 4;

/** Unspecified, multicast and broadcast addresses, and port 0. */
export function refuseBadSource(a: Code): void {
  a.load(r1, local('clientPort'));
  a.jumpIf(r1, '==', 0, 'bad source');
  jumpUnlessUnicast(a, local('client'), 'bad source');
  a.jump('good source');
  a.label('bad source');
  drop(a, DOWNSTREAM, 'bad-source');
  a.label('good source');
}

/** The limits of the client IP. Tokens are kept as the time when they are all back (generic cell rate algorithm). */
export function admitSource(a: Code): void {
  a.load(r0, local('pin'));
  a.jumpIf(r0, '==', 0, 'source is admitted');
  a.store(local('pin'), r0);
  a.load(r1, field(r8, RULES, 'sessionsPerSource'));
  a.jumpIf(r1, '==', 0, 'source has room');
  a.load(r2, field(r0, PIN, 'live'));
  a.jumpIf(r2, '<', r1, 'source has room');
  drop(a, DOWNSTREAM, 'source-session-limit');
  a.label('source has room');
  a.load(r1, field(r8, RULES, 'sourceTokenNs'));
  a.jumpIf(r1, '==', 0, 'source is admitted');
  a.load(r2, field(r0, PIN, 'tokensFullNs'));
  takeToken(a, 'sourceBurstNs', 'source is too fast');
  a.store(field(r0, PIN, 'tokensFullNs'), r2);
  a.jump('source is admitted');
  a.label('source is too fast');
  drop(a, DOWNSTREAM, 'source-rate-limit');
  a.label('source is admitted');
}

/** r2 (when the tokens are all back) moves on by one token of r1 ns, or a jump. Loses r3 and r4. */
function takeToken(a: Code, burst: 'sourceBurstNs' | 'listenerBurstNs', otherwise: string): void {
  const [isLater, granted] = [a.unique('tokens are missing'), a.unique('token is granted')];
  a.load(r3, local('nowNs'));
  a.jumpIf(r2, '>', r3, isLater);
  a.mov(r2, r3);
  a.label(isLater);
  a.mov(r4, r2);
  a.alu('sub', r4, r3);
  a.load(r3, field(r8, RULES, burst));
  a.jumpIf(r4, '<=', r3, granted);
  a.jump(otherwise);
  a.label(granted);
  a.alu('add', r2, r1);
}

/** The listener's rate, which all CPUs share. */
export function admitListener(a: Code): void {
  a.load(r1, field(r8, RULES, 'listenerTokenNs'));
  a.jumpIf(r1, '==', 0, 'listener has tokens');
  a.load(r1, local('listener'));
  lookupAt(a, 'listener_state', { index: r1, otherwise: 'listener is too fast' });
  a.mov(r5, r0);
  a.load(r1, field(r8, RULES, 'listenerTokenNs'));
  for (let attempt = 0; attempt < TOKEN_ATTEMPTS; attempt++) {
    a.load(r2, field(r5, LISTENER_STATE, 'tokensFullNs'));
    a.mov(r0, r2);
    a.mov(r7, r2);
    takeToken(a, 'listenerBurstNs', 'listener is too fast');
    a.compareExchange(field(r5, LISTENER_STATE, 'tokensFullNs'), r2);
    a.jumpIf(r0, '==', r7, 'listener has tokens');
  }
  a.label('listener is too fast');
  drop(a, DOWNSTREAM, 'listener-rate-limit');
  a.label('listener has tokens');
}
