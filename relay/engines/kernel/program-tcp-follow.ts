/**
 * The state of a connection, as the segments of its two ends say (RFC 9293 section 3.3.2): numbers that were sent and acknowledged, bytes,
 * FIN, RST. `over` and `cut` have ended; what becomes of their segments is said in tcp-maps.ts.
 */
import { r0, r1, r2, r3, r4 } from './memory.ts';
import { add, type Code, loadContext, local } from './program-frame.ts';
import { admit } from './program-tcp-admit.ts';
import { endConnection, forgetConnection } from './program-tcp-end.ts';
import {
  ACK,
  connection,
  FIN,
  MOST_WINDOW,
  requireTcpBackend,
  RST,
  SYN,
  tcpCounter,
  tcpKey,
} from './program-tcp-frame.ts';
import { OPEN } from './program-tcp-open.ts';
import { RESET } from './program-tcp-reset.ts';
import { closedCounter, TCP_COUNTERS, TCP_STATE } from './tcp-maps.ts';

/** What the client's segment means for its connection (r7). Goes on if it is for the backend. */
export function followClient(a: Code): void {
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

/** What the backend's segment means for its connection (r7). Goes on if it is for the client. */
export function followBackend(a: Code): void {
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
