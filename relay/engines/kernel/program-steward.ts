/**
 * What the engine wants done to sessions, pins and reverse records is done by this program, so that all bookkeeping is in one
 * place and each decision is made again here, at the moment of the deed.
 */
import { SESSIONS_EXPIRED } from '../../core/counters.ts';
import { HELPER } from './helpers.ts';
import {
  MAX_REQUESTS,
  PIN,
  PIN_CLAIM,
  PIN_KEY,
  REQUEST,
  REQUESTS,
  RULES,
  SESSION,
  SESSION_KEY,
  STEWARD,
} from './records.ts';
import { field, type Memory, part, r0, r1, r2, r3, r6, r7, r8, r9 } from './memory.ts';
import { endSession, endSubprograms } from './program-end.ts';
import { changeGauge } from './program-gauge.ts';
import { type Code, copy, local, lookupAt, NEXT, push } from './program-frame.ts';
import { insertGroupPin, newPin } from './program-group.ts';
import { takeRequest } from './program-request.ts';
import { endFirstRest } from './program-rest.ts';

const DONE = 'done';

/** r6 the list, r7 the request's key, r8 the record, r9 the time. */
export function steward(a: Code): void {
  takeRequest(a, r7, { map: 'requests', list: REQUESTS, request: REQUEST, most: MAX_REQUESTS });
  a.load(r1, field(r7, REQUEST, 'operation'));
  a.alu('add', r7, REQUEST.at.key);
  for (const [name, number] of Object.entries(STEWARD)) a.jumpIf(r1, '==', number, name);
  a.jump(NEXT);
  expireSession(a);
  endAnySession(a);
  expirePin(a);
  a.label('endRest');
  endFirstRest(a, 'rest has ended');
  a.label('rest has ended');
  a.loadMapValue(r6, 'requests');
  a.jump(DONE);
  claimPin(a);
  a.label(DONE);
  a.load(r1, field(r6, REQUESTS, 'done'));
  a.alu('add', r1, 1);
  a.store(field(r6, REQUESTS, 'done'), r1);
  a.label(NEXT);
  a.mov(r0, 0);
  a.exit();
  endSubprograms(a);
}

function expireSession(a: Code): void {
  a.label('expireSession');
  find(a, 'sessions');
  a.load(r1, field(r7, SESSION_KEY, 'listener'));
  requireOver(a, { since: field(r8, SESSION, 'lastSeenNs'), timeout: 'idleTimeoutNs' });
  a.mov(r1, r7);
  a.mov(r2, r9);
  endSession(a, { counter: SESSIONS_EXPIRED, mayRest: true });
  a.jumpIf(r0, '!=', 0, DONE);
  a.jump(NEXT);
}

function endAnySession(a: Code): void {
  a.label('endSession');
  a.mov(r1, r7);
  a.mov(r2, r9);
  endSession(a, { counter: -1, mayRest: true });
  a.jumpIf(r0, '!=', 0, DONE);
  a.jump(NEXT);
}

function expirePin(a: Code): void {
  a.label('expirePin');
  find(a, 'pins');
  a.load(r1, field(r8, PIN, 'live'));
  a.jumpIf(r1, '!=', 0, NEXT);
  a.load(r1, field(r7, PIN_KEY, 'listener'));
  requireOver(a, { since: field(r8, PIN, 'lastUsedNs'), timeout: 'pinTimeoutNs' });
  a.label('endPin');
  a.mov(r2, r7);
  a.loadMap(r1, 'pins');
  a.call(HELPER.mapDelete);
  a.jumpIf(r0, '!=', 0, NEXT);
  changeGauge(a, 'pins', -1);
  a.jump(DONE);
}

/** The engine's part in the pins of groups: two who come at once agree, as the programs do among themselves. */
function claimPin(a: Code): void {
  a.label('claimPin');
  a.mov(r2, r7);
  a.loadMap(r1, 'pins');
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '!=', 0, 'claimed pin is there');
  a.load(r1, field(r7, PIN_CLAIM, 'expected'));
  a.jumpIf(r1, '!=', 0, NEXT);
  for (let at = 0; at < PIN.size; at += 8) a.store(part(local('scratch'), at, 8), 0);
  copy(a, newPin('ref'), { from: field(r7, PIN_CLAIM, 'ref') });
  a.store(newPin('confirmed'), 1);
  loadLastUsed(a);
  a.store(newPin('lastUsedNs'), r1);
  a.mov(r2, r7);
  insertGroupPin(a, NEXT);
  a.mov(r2, r7);
  push(a, 'pin_order');
  a.jump(DONE);

  a.label('claimed pin is there');
  a.mov(r8, r0);
  a.load(r0, field(r7, PIN_CLAIM, 'expected'));
  a.mov(r3, r0);
  a.load(r2, field(r7, PIN_CLAIM, 'ref'));
  a.compareExchange(field(r8, PIN, 'ref'), r2);
  a.jumpIf(r0, '!=', r3, NEXT);
  a.store(field(r8, PIN, 'confirmed'), 1);
  loadLastUsed(a);
  a.store(field(r8, PIN, 'lastUsedNs'), r1);
  a.jump(DONE);
}

/** r1 = the time in the claim (r7). Loses r2. */
function loadLastUsed(a: Code): void {
  a.load(r1, field(r7, PIN_CLAIM, 'lastUsedNsHigh'));
  a.alu('shiftLeft', r1, 32);
  a.load(r2, field(r7, PIN_CLAIM, 'lastUsedNsLow'));
  a.alu('or', r1, r2);
}

/** r8 = the record with the key (r7), or the end. */
function find(a: Code, map: 'sessions' | 'pins'): void {
  a.mov(r2, r7);
  a.loadMap(r1, map);
  a.call(HELPER.mapLookup);
  a.jumpIf(r0, '==', 0, NEXT);
  a.mov(r8, r0);
}

/** Ends unless the timeout of the listener whose index is r1 has passed since then. */
function requireOver(
  a: Code,
  { since, timeout }: { since: Memory; timeout: 'idleTimeoutNs' | 'pinTimeoutNs' },
): void {
  lookupAt(a, 'rules', { index: r1, otherwise: NEXT });
  a.mov(r1, r9);
  a.load(r2, since);
  a.alu('sub', r1, r2);
  a.load(r2, field(r0, RULES, timeout));
  a.jumpIf(r1, 'signed <', r2, NEXT);
}
