/**
 * What the engine wants done to connections and client IPs is done by this program, for the reasons that program-steward.ts
 * gives, and in the same way: a list of requests in the map `tcp_requests`, and a test run for each of them.
 */
import { HELPER } from './helpers.ts';
import { field, type Memory, memory, part, r0, r1, r2, r3, r4, r6, r7, r8, r9 } from './memory.ts';
import { type Code, copy, local, lookup, lookupAt, NEXT } from './program-frame.ts';
import { takeRequest } from './program-request.ts';
import {
  endConnection,
  endConnectionSubprograms,
  forgetConnection,
  forgetConnectionSubprogram,
} from './program-tcp-end.ts';
import { connection, tcpKey } from './program-tcp-frame.ts';
import { PIN_KEY } from './records.ts';
import {
  closedCounter,
  MAX_TCP_REQUESTS,
  TCP_COUNTER_COUNT,
  TCP_REQUEST,
  TCP_REQUESTS,
  TCP_RULES,
  TCP_SOURCE,
  TCP_STATE,
  TCP_STEWARD,
  TRANSITORY_NS,
} from './tcp-maps.ts';

const DONE = 'done';

/** r6 the request, r7 the connection, r8 its state, r9 the time. */
export function tcpSteward(a: Code): void {
  const most = MAX_TCP_REQUESTS;
  takeRequest(a, r6, { map: 'tcp_requests', list: TCP_REQUESTS, request: TCP_REQUEST, most });
  a.store(request('done'), 0);
  a.load(r1, request('operation'));
  a.jumpIf(r1, '==', TCP_STEWARD.endSource, 'end source');
  copy(a, tcpKey(), { from: request('key') });
  lookup(a, 'tcp_connections', tcpKey());
  a.jumpIf(r0, '==', 0, NEXT);
  a.mov(r7, r0);
  a.load(r8, connection('state'));
  a.load(r1, request('operation'));
  a.jumpIf(r1, '==', TCP_STEWARD.cut, 'cut');
  expire(a);
  cut(a);
  endSource(a);
  a.label(DONE);
  a.store(request('done'), 1);
  a.label(NEXT);
  a.mov(r0, 0);
  a.exit();
  endConnectionSubprograms(a);
  forgetConnectionSubprogram(a);
}

const request = (name: keyof typeof TCP_REQUEST.at): Memory => field(r6, TCP_REQUEST, name);

/** Half-open, closing and ended connections after TRANSITORY_NS, open ones after the listener's idle timeout. */
function expire(a: Code): void {
  a.load(r1, connection('lastSeenNs'));
  a.alu('sub', r9, r1);
  a.jumpIf(r9, 'signed <', 0, NEXT);
  a.loadWide(r2, TRANSITORY_NS);
  a.jumpIf(r8, '!=', TCP_STATE.open, 'is transitory');
  a.load(r3, connection('clientFin'));
  a.load(r4, connection('backendFin'));
  a.alu('and', r3, r4);
  a.jumpIf(r3, '!=', 0, 'is transitory');
  a.load(r1, connection('listener'));
  lookupAt(a, 'tcp_rules', { index: r1, otherwise: NEXT });
  a.load(r1, field(r0, TCP_RULES, 'idleTimeoutNs'));
  a.jumpIf(r9, '<', r1, NEXT);
  endConnection(a, tcpKey(), { open: closedCounter('idle-timeout'), opening: 0, to: 'cut' });
  a.jumpIf(r0, '==', 0, NEXT);
  stamp(a);
  a.jump(DONE);

  a.label('is transitory');
  a.jumpIf(r9, '<', r2, NEXT);
  // A backend that has answered a client who has not: nobody that a socket would have heard of.
  a.jumpIf(r8, '==', TCP_STATE.answered, 'forget quietly');
  endConnection(a, tcpKey(), {
    open: closedCounter('completed'),
    opening: closedCounter('connect-timeout'),
    to: 'over',
  });
  a.jump('forget');
  a.label('forget quietly');
  endConnection(a, tcpKey(), { open: 0, opening: 0, to: 'over' });
  a.label('forget');
  forgetConnection(a, tcpKey());
  a.jump(NEXT);
}

/** It now lingers from here on. */
function stamp(a: Code): void {
  a.load(r1, local('nowNs'));
  a.store(connection('lastSeenNs'), r1);
}

function cut(a: Code): void {
  a.label('cut');
  a.jumpIf(r8, '>=', TCP_STATE.over, NEXT);
  a.load(r1, request('reason'));
  a.jumpIf(r1, '>=', TCP_COUNTER_COUNT, NEXT);
  endConnection(a, tcpKey(), { open: request('reason'), opening: 0, to: 'cut' });
  a.jumpIf(r0, '==', 0, NEXT);
  stamp(a);
  a.jumpIf(r8, '==', TCP_STATE.open, DONE);
  forgetConnection(a, tcpKey());
  a.jump(NEXT);
}

function endSource(a: Code): void {
  const key = (to: typeof r2): void => a.addressOf(to, part(request('key'), 0, PIN_KEY.size));
  a.label('end source');
  key(r2);
  a.loadMap(r1, 'tcp_sources');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, NEXT);
  a.load(r1, memory(r0, TCP_SOURCE.at.open, TCP_SOURCE.bytes.open));
  a.jumpIf(r1, '!=', 0, NEXT);
  key(r2);
  a.loadMap(r1, 'tcp_sources');
  a.call(HELPER.mapDelete);
  a.jump(NEXT);
}
