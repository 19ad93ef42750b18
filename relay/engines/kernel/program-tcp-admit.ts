/**
 * A connection is accepted when its client has answered the backend: a SYN may be spoofed, an answer to the backend's number is not. The
 * limits are counted here, exactly; program-tcp-open.ts has looked at them before, for those that would be refused anyway.
 */
import { BPF_NOEXIST } from '../../../net/linux/abi.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import { field, type Memory, part, r0, r1, r2, r5 } from './memory.ts';
import { add, type Code, copy, local, lookup, lookupAt, pinKey, update } from './program-frame.ts';
import { endConnection, uncount } from './program-tcp-end.ts';
import { connection, room, rule, tcpCounter, tcpKey, tcpKeyPart } from './program-tcp-frame.ts';
import { RESET } from './program-tcp-reset.ts';
import { U64 } from './struct.ts';
import {
  closedCounter,
  COUNTED,
  TCP_COUNTERS,
  TCP_LISTENER_STATE,
  TCP_LIVE,
  TCP_SOURCE,
  TCP_STATE,
} from './tcp-maps.ts';

/** The client has answered the backend of the connection (r7): it is accepted, and within the limits it is open. */
export function admit(a: Code): void {
  const count = (to: Memory, bit: number): void => {
    a.mov(r1, 1);
    a.fetchAdd(to, r1);
    a.load(r2, local('counted'));
    a.alu('or', r2, bit);
    a.store(local('counted'), r2);
  };
  a.store(local('counted'), 0);
  a.load(r1, connection('listener'));
  lookupAt(a, 'tcp_state', { index: r1, otherwise: 'drop' });
  count(field(r0, TCP_LISTENER_STATE, 'open'), COUNTED.listener);
  a.load(r2, rule('maxConnections'));
  a.jumpIf(r1, '>=', r2, 'listener has its cap');
  countSource(a, count);
  findLive(a, 'drop');
  a.mov(r5, r0);
  count(field(r5, TCP_LIVE, 'open'), COUNTED.backend);
  a.load(r2, field(r5, TCP_LIVE, 'cap'));
  a.jumpIf(r2, '==', 0, 'is within its limits');
  a.jumpIf(r1, '>=', r2, 'backend has its cap');

  a.label('is within its limits');
  a.load(r1, local('counted'));
  a.store(connection('counted'), r1);
  a.mov(r0, TCP_STATE.answered);
  a.mov(r1, TCP_STATE.open);
  a.compareExchange(connection('state'), r1);
  a.jumpIf32(r0, '==', TCP_STATE.answered, 'is open');
  uncount(a, tcpKey(), local('counted'));
  a.jump('admitted');
  for (const [label, reason] of [
    ['listener has its cap', 'connection-limit'],
    ['source has its cap', 'source-connection-limit'],
    ['backend has its cap', 'backend-connection-limit'],
  ] as const) {
    a.label(label);
    const counter = closedCounter(reason);
    endConnection(a, tcpKey(), { open: counter, opening: counter, to: 'cut' });
    a.jump('is refused');
  }
  a.label('is refused');
  uncount(a, tcpKey(), local('counted'));
  a.jump(RESET);
  a.label('is open');
  add(a, tcpCounter(TCP_COUNTERS.accepted), { by: 1 });
  a.label('admitted');
}

/** Counts the connection at its client IP, where that is bounded. */
function countSource(a: Code, count: (to: Memory, bit: number) => void): void {
  a.load(r1, rule('connectionsPerSource'));
  a.jumpIf(r1, '==', 0, 'source is counted');
  copy(a, local('pinAddress'), { from: tcpKeyPart('client') });
  a.load(r1, connection('listener'));
  a.store(local('pinListener'), r1);
  lookup(a, 'tcp_sources', pinKey());
  a.jumpIf(r0, '!=', 0, 'source is known');
  a.store(part(room(TCP_SOURCE.size), 0, U64), 0);
  update(a, 'tcp_sources', { key: pinKey(), value: room(TCP_SOURCE.size), flags: BPF_NOEXIST });
  lookup(a, 'tcp_sources', pinKey());
  a.jumpIf(r0, '==', 0, 'source has its cap');
  a.label('source is known');
  count(field(r0, TCP_SOURCE, 'open'), COUNTED.source);
  a.load(r2, rule('connectionsPerSource'));
  a.jumpIf(r1, '>=', r2, 'source has its cap');
  a.label('source is counted');
}

/** r0 = the TCP_LIVE of the backend that the connection's (r7) reference names. */
export function findLive(a: Code, otherwise: string): void {
  a.load(r1, rule('pool'));
  lookupAt(a, 'tcp_live', { index: r1, otherwise });
  a.load(r1, connection('ref'));
  a.alu('and', r1, MAX_BACKENDS - 1);
  a.alu('mul', r1, TCP_LIVE.size);
  a.alu('add', r0, r1);
}
