/**
 * How a connection ends and how it is forgotten, whoever asks for it: the packet path or the steward. Subprograms, with registers
 * and a stack frame of their own:
 *
 *     end       open or opening -> over or cut: whoever changes the state does the bookkeeping, so it is done once
 *     forget    the record and its reverse record go, whatever the state
 *     uncount   an open connection is one less at its listener, client IP and backend
 */
import { BPF_EXIST } from '../../../net/linux/abi.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import { HELPER } from './helpers.ts';
import type { MapName } from './maps.ts';
import {
  field,
  Frame,
  type Memory,
  memory,
  part,
  r0,
  r1,
  r2,
  r3,
  r4,
  r5,
  r6,
  r7,
  r8,
  r9,
  type Register,
} from './memory.ts';
import { type Code, copy } from './program-frame.ts';
import { PIN_KEY } from './records.ts';
import { struct, U32, U64 } from './struct.ts';
import {
  COUNTED,
  TCP_CONNECTION,
  TCP_COUNTER_COUNT,
  TCP_COUNTERS,
  TCP_GAUGES,
  TCP_KEY,
  TCP_LISTENER_STATE,
  TCP_LIVE,
  TCP_REVERSE_KEY,
  TCP_RULES,
  TCP_SOURCE,
  TCP_SPARE,
  TCP_STATE,
} from './tcp-maps.ts';

const END = 'end connection';
const FORGET = 'forget connection';
const UNCOUNT = 'uncount connection';

const LOCALS = new Frame(
  struct({
    reason: U64,
    halfReason: U64,
    state: U64,
    spare: TCP_SPARE.size,
    index: U32,
    reserved: U32,
  }),
);
const local = (name: Parameters<typeof LOCALS.at>[0]): Memory => LOCALS.at(name);
const spare = (name: keyof typeof TCP_SPARE.at): Memory =>
  part(local('spare'), TCP_SPARE.at[name], TCP_SPARE.bytes[name]);

const UNCOUNT_LOCALS = new Frame(struct({ address: PIN_KEY.bytes.address, listener: U32, index: U32 }));

const FORGET_LOCALS = new Frame(struct({ reverse: TCP_REVERSE_KEY.size }));
const reverse = (name: keyof typeof TCP_REVERSE_KEY.at): Memory =>
  part(FORGET_LOCALS.at('reverse'), TCP_REVERSE_KEY.at[name], TCP_REVERSE_KEY.bytes[name]);

export interface TcpEnd {
  /** closedCounter of an open connection. */
  readonly open: number | Memory;
  /** closedCounter of one that was still opening, or 0: it is not counted. */
  readonly opening: number;
  readonly to: 'over' | 'cut';
}

/** Ends the connection (r7) with this key on the stack. r0 = 1, or 0 when it had ended already. Loses r1 to r5. */
export function endConnection(a: Code, key: Memory, { open, opening, to }: TcpEnd): void {
  if (typeof open === 'number') a.mov(r3, open);
  else a.load(r3, open);
  a.mov(r1, r7);
  a.addressOf(r2, key);
  a.mov(r4, opening);
  a.mov(r5, TCP_STATE[to]);
  a.callSubprogram(END);
}

/** Forgets the connection with this key. Loses r1 to r5. */
export function forgetConnection(a: Code, key: Memory): void {
  a.addressOf(r1, key);
  a.callSubprogram(FORGET);
}

/** Takes back what `bits` say that the connection (r7) was counted in. Loses r1 to r5. */
export function uncount(a: Code, key: Memory, bits: Memory): void {
  a.mov(r1, r7);
  a.addressOf(r2, key);
  a.load(r3, bits);
  a.callSubprogram(UNCOUNT);
}

/** A gauge += 1 or -1. Loses r1 and r2. */
export function changeRecords(a: Code, by: 1 | -1): void {
  a.loadMapValue(r1, 'tcp_gauges', TCP_GAUGES.at.records);
  a.mov(r2, by);
  a.atomicAdd(memory(r1, 0, U64), r2);
}

/** The bodies of `end` and `uncount`; stand once in each program that ends connections. */
export function endConnectionSubprograms(a: Code): void {
  endBody(a);
  uncountBody(a);
}

/** r6 the connection, r7 its key, r9 its state before. */
function endBody(a: Code): void {
  const connection = (name: keyof typeof TCP_CONNECTION.at): Memory => field(r6, TCP_CONNECTION, name);
  a.label(END);
  a.mov(r6, r1);
  a.mov(r7, r2);
  a.store(local('reason'), r3);
  a.store(local('halfReason'), r4);
  a.store(local('state'), r5);
  for (const attempt of ['first', 'second'] as const) {
    a.load(r0, connection('state'));
    a.jumpIf(r0, '>=', TCP_STATE.over, 'had ended');
    a.mov(r9, r0);
    a.load(r1, local('state'));
    a.compareExchange(connection('state'), r1);
    a.jumpIf32(r0, '==', r9, 'ends now');
    // Once more, since it may have become open at this moment.
    if (attempt === 'second') break;
  }
  a.label('had ended');
  a.mov(r0, 0);
  a.exit();

  a.label('ends now');
  leaveBackend(a);
  a.jumpIf32(r9, '!=', TCP_STATE.open, 'was opening');
  a.mov(r1, r6);
  a.mov(r2, r7);
  a.load(r3, connection('counted'));
  a.callSubprogram(UNCOUNT);
  a.load(r8, local('reason'));
  a.jump('count the reason');
  a.label('was opening');
  a.load(r8, local('halfReason'));
  a.label('count the reason');
  countReason(a);

  copy(a, spare('key'), { from: memory(r7, 0, TCP_KEY.size) });
  a.store(spare('reserved'), 0);
  copy(a, spare('id'), { from: connection('id') });
  pushSpare(a, local('spare'));
  a.mov(r0, 1);
  a.exit();
}

/** Appends an element; a full queue forgets its oldest. */
export function pushSpare(a: Code, element: Memory): void {
  a.addressOf(r2, element);
  a.mov(r3, BPF_EXIST);
  a.loadMap(r1, 'tcp_spare');
  a.call(HELPER.mapPush);
}

/** r8 = a closedCounter, or 0. Accepted is what was open, or is refused. Atomic, since the packet path may interrupt the steward. */
function countReason(a: Code): void {
  a.jumpIf(r8, '==', 0, 'reason is counted');
  a.load(r1, field(r6, TCP_CONNECTION, 'listener'));
  lookupIndex(a, 'tcp_counters', { index: r1, otherwise: 'reason is counted' });
  a.jumpIf(r8, '>=', TCP_COUNTER_COUNT, 'reason is counted');
  a.mov(r2, 1);
  a.jumpIf32(r9, '==', TCP_STATE.open, 'was accepted');
  a.atomicAdd(memory(r0, TCP_COUNTERS.accepted * U64, U64), r2);
  a.label('was accepted');
  a.alu('shiftLeft', r8, 3);
  a.alu('add', r0, r8);
  a.atomicAdd(memory(r0, 0, U64), r2);
  a.label('reason is counted');
}

/** The backend of the connection (r6) has one less, unless another incarnation is counted by now. */
function leaveBackend(a: Code): void {
  findLive(a, { frame: local('index'), connection: r6, otherwise: 'backend is left' });
  a.load(r2, field(r0, TCP_LIVE, 'ref'));
  a.load(r1, field(r6, TCP_CONNECTION, 'ref'));
  a.jumpIf(r1, '!=', r2, 'backend is left');
  a.mov(r2, -1);
  a.atomicAdd(field(r0, TCP_LIVE, 'connections'), r2);
  a.label('backend is left');
}

/** The body of `forget`; stands once in each program that forgets connections. r6 key. */
export function forgetConnectionSubprogram(a: Code): void {
  a.label(FORGET);
  a.mov(r6, r1);
  a.mov(r2, r6);
  a.loadMap(r1, 'tcp_connections');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, 'is forgotten');
  for (const name of ['backend', 'seen', 'backendPort', 'seenPort'] as const)
    copy(a, reverse(name), { from: field(r0, TCP_CONNECTION, name) });
  a.mov(r2, r6);
  a.loadMap(r1, 'tcp_connections');
  a.call(HELPER.mapDelete);
  a.jumpIf(r0, '!=', 0, 'is forgotten');
  changeRecords(a, -1);
  a.addressOf(r2, FORGET_LOCALS.at('reverse'));
  a.loadMap(r1, 'tcp_reverse');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, 'is forgotten');
  // It may be another connection's by now.
  for (const name of ['contacted', 'client', 'contactedPort', 'clientPort'] as const) {
    const step = TCP_KEY.bytes[name] === 2 ? 2 : 8;
    for (let at = 0; at < TCP_KEY.bytes[name]; at += step) {
      a.load(r1, part(field(r0, TCP_KEY, name), at, step));
      a.load(r2, memory(r6, TCP_KEY.at[name] + at, step));
      a.jumpIf(r1, '!=', r2, 'is forgotten');
    }
  }
  a.addressOf(r2, FORGET_LOCALS.at('reverse'));
  a.loadMap(r1, 'tcp_reverse');
  a.call(HELPER.mapDelete);
  a.label('is forgotten');
  a.mov(r0, 0);
  a.exit();
}

/** r6 the connection, r7 its key, r8 the bits. */
function uncountBody(a: Code): void {
  const index = UNCOUNT_LOCALS.at('index');
  a.label(UNCOUNT);
  a.mov(r6, r1);
  a.mov(r7, r2);
  a.mov(r8, r3);
  a.jumpIf(r8, 'has', COUNTED.listener, 'leave listener');
  a.jump('listener is left');
  a.label('leave listener');
  a.load(r1, field(r6, TCP_CONNECTION, 'listener'));
  lookupIndex(a, 'tcp_state', { index: r1, otherwise: 'listener is left', frame: index });
  a.mov(r2, -1);
  a.atomicAdd(field(r0, TCP_LISTENER_STATE, 'open'), r2);
  a.label('listener is left');

  a.jumpIf(r8, 'has', COUNTED.source, 'leave source');
  a.jump('source is left');
  a.label('leave source');
  copy(a, UNCOUNT_LOCALS.at('address'), { from: field(r7, TCP_KEY, 'client') });
  a.load(r1, field(r6, TCP_CONNECTION, 'listener'));
  a.store(UNCOUNT_LOCALS.at('listener'), r1);
  a.addressOf(r2, UNCOUNT_LOCALS.at('address'));
  a.loadMap(r1, 'tcp_sources');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, 'source is left');
  a.mov(r2, -1);
  a.atomicAdd(field(r0, TCP_SOURCE, 'open'), r2);
  a.label('source is left');

  a.jumpIf(r8, 'has', COUNTED.backend, 'leave backend');
  a.jump('uncounted');
  a.label('leave backend');
  findLive(a, { frame: index, connection: r6, otherwise: 'uncounted' });
  a.mov(r2, -1);
  a.atomicAdd(field(r0, TCP_LIVE, 'open'), r2);
  a.label('uncounted');
  a.mov(r0, 0);
  a.exit();
}

/** r0 = the TCP_LIVE of the connection's backend. Loses r1 and r2. */
function findLive(
  a: Code,
  { frame, connection, otherwise }: { frame: Memory; connection: Register; otherwise: string },
): void {
  a.load(r1, field(connection, TCP_CONNECTION, 'listener'));
  lookupIndex(a, 'tcp_rules', { index: r1, otherwise, frame });
  a.load(r1, field(r0, TCP_RULES, 'pool'));
  lookupIndex(a, 'tcp_live', { index: r1, otherwise, frame });
  a.load(r1, field(connection, TCP_CONNECTION, 'ref'));
  a.alu('and', r1, MAX_BACKENDS - 1);
  a.alu('mul', r1, TCP_LIVE.size);
  a.alu('add', r0, r1);
}

function lookupIndex(
  a: Code,
  map: MapName,
  { index, otherwise, frame = local('index') }: { index: Register; otherwise: string; frame?: Memory },
): void {
  a.store(frame, index);
  a.addressOf(r2, frame);
  a.loadMap(r1, map);
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, otherwise);
}
