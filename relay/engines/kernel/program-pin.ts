/** The pin of a client IP on a listener: found, followed, made, and forgotten when the table is full. */
import { BPF_NOEXIST } from '../../../net/linux/abi.ts';
import { DOWNSTREAM } from '../../core/counters.ts';
import { HELPER } from './helpers.ts';
import { field, part, r0, r1, r2, r3, r7, r8 } from './memory.ts';
import { changeGauge } from './program-gauge.ts';
import {
  type Code,
  copy,
  drop,
  findBackend,
  local,
  lookup,
  loop,
  pinKey,
  pop,
  push,
  sessionKey,
  update,
} from './program-frame.ts';
import { followGroup, newPin } from './program-group.ts';
import { BACKEND, PIN, PIN_KEY, RULES } from './records.ts';

/** Pins that are looked at to make room for one. */
const PIN_EVICTIONS = 32;

/** local pin = address of the client IP's pin, or 0. */
export function findPin(a: Code): void {
  lookupPin(a);
  a.store(local('pin'), r0);
}

/** The client has sent twice: no spoofed source. */
export function confirmPin(a: Code, otherwise: string): void {
  lookupPin(a);
  a.jumpIf(r0, '==', 0, otherwise);
  a.store(field(r0, PIN, 'confirmed'), 1);
}

/** r0 = the pin, or 0. */
function lookupPin(a: Code): void {
  copy(a, local('pinAddress'), { from: local('client') });
  a.load(r1, local('listener'));
  a.store(local('pinListener'), r1);
  lookup(a, 'pins', pinKey());
}

/** Goes to `chosen` with local ref = the backend that a pin names, if it is usable. */
export function followPins(a: Code, chosen: string): void {
  const done = a.unique('no pin to follow');
  followGroup(a, chosen);
  a.load(r1, local('pin'));
  a.jumpIf(r1, '==', 0, done);
  a.load(r2, field(r1, PIN, 'ref'));
  a.jumpIf(r2, '==', 0, done);
  a.store(local('ref'), r2);
  findBackend(a, r2, r3);
  a.load(r1, field(r2, BACKEND, 'usable'));
  a.load(r2, local('ref'));
  a.jumpIf(r1, '==', r2, chosen);
  a.label(done);
}

/** local pin = the client IP's pin, which is made if there is none. */
export function insertPin(a: Code): void {
  a.load(r1, local('pin'));
  a.jumpIf(r1, '!=', 0, 'has a pin');
  for (let at = 0; at < PIN.size; at += 8) a.store(part(local('scratch'), at, 8), 0);
  a.load(r1, local('ref'));
  a.store(newPin('ref'), r1);
  a.load(r1, local('nowNs'));
  a.store(newPin('lastUsedNs'), r1);
  a.load(r2, field(r8, RULES, 'sourceTokenNs'));
  a.alu('add', r1, r2);
  a.store(newPin('tokensFullNs'), r1);
  storePin(a);
  a.jumpIf(r0, '==', 0, 'pin is new');
  lookup(a, 'pins', pinKey());
  a.jumpIf(r0, '!=', 0, 'pin is there');
  evictPin(a);
  storePin(a);
  a.jumpIf(r0, '==', 0, 'pin is new');
  a.label('no room for a pin');
  a.addressOf(r2, sessionKey());
  a.loadMap(r1, 'sessions');
  a.call(HELPER.mapDelete);
  drop(a, DOWNSTREAM, 'pin-table-full');

  a.label('pin is new');
  changeGauge(a, 'pins', 1);
  a.addressOf(r2, pinKey());
  push(a, 'pin_order');
  lookup(a, 'pins', pinKey());
  a.jumpIf(r0, '==', 0, 'no room for a pin');
  a.label('pin is there');
  a.store(local('pin'), r0);
  a.label('has a pin');
}

function storePin(a: Code): void {
  update(a, 'pins', { key: pinKey(), value: local('scratch'), flags: BPF_NOEXIST });
}

/**
 * Forgets a pin without sessions, if there is one: of the oldest PIN_EVICTIONS one that was never past half-open, else of as many
 * more any. Those that stay go to the end of the queue.
 */
function evictPin(a: Code): void {
  const candidate = part(local('victim'), 0, PIN_KEY.size);
  loop(a, { name: 'look for a pin to forget', most: 2 * PIN_EVICTIONS }, ({ next, stop }) => {
    a.mov(r7, r1);
    pop(a, 'pin_order');
    a.jumpIf(r0, '!=', 0, stop);
    lookup(a, 'pins', candidate);
    a.jumpIf(r0, '==', 0, next);
    a.load(r1, field(r0, PIN, 'live'));
    a.jumpIf(r1, '!=', 0, 'pin stays');
    a.jumpIf(r7, '>=', PIN_EVICTIONS, 'pin goes');
    a.load(r1, field(r0, PIN, 'confirmed'));
    a.jumpIf(r1, '==', 0, 'pin goes');
    a.label('pin stays');
    a.addressOf(r2, candidate);
    push(a, 'pin_order');
    a.jump(next);
    a.label('pin goes');
    a.addressOf(r2, candidate);
    a.loadMap(r1, 'pins');
    a.call(HELPER.mapDelete);
    a.jumpIf(r0, '!=', 0, next);
    changeGauge(a, 'pins', -1);
    a.jump(stop);
  });
}
