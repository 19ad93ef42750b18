/**
 * Pins that listeners share (core/pin-group.ts), where a session gets its backend. A listener of a group has a record in
 * `pin_views`, which translates between its pool's references and the group's; for a listener of no group all of this is
 * one lookup that fails.
 */
import { BPF_NOEXIST } from '../../../net/linux/abi.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import { HELPER } from './helpers.ts';
import { field, type Memory, part, r0, r1, r2, r3, r4, r5, r7, type Register } from './memory.ts';
import { changeGauge } from './program-gauge.ts';
import { type Code, copy, findBackend, local, lookup, lookupAt, pinKey, push } from './program-frame.ts';
import { BACKEND, PIN, PIN_VIEW, PIN_VIEW_ENTRY } from './records.ts';
import { U16 } from './struct.ts';

// The locals that least-connections has free before and after it.
/** Where the address of the listener's view is kept. */
const view = (): Memory => local('rules');
/** Where r7 is kept. */
const kept = (): Memory => local('context');

/** A field of the pin that is made in the scratch. */
export const newPin = (name: keyof typeof PIN.at): Memory =>
  part(local('scratch'), PIN.at[name], PIN.bytes[name]);

/** Goes to `chosen` with local ref = the backend that the group's pin names, if it is usable. Needs the local `snapshot`. */
export function followGroup(a: Code, chosen: string): void {
  const done = a.unique('no pin of a group');
  findView(a, done);
  findGroupPin(a);
  leaveGroup(a);
  a.jumpIf(r0, '==', 0, done);
  a.load(r2, field(r0, PIN, 'ref'));
  follow(a, done);
  a.jump(chosen);
  a.label(done);
}

/**
 * Makes the backend (local ref) the group's pin; or takes that of the pin which another CPU, or the steward, made since, as
 * local ref. Keeps r6 to r9; loses the scratch. A full table has no room for it: then it is not kept.
 */
export function writeGroup(a: Code): void {
  const [done, isThere] = [a.unique('group has the pin'), a.unique('pin of the group')];
  const isOver = a.unique('pin of the group is over');
  a.store(kept(), r7);
  findView(a, done);
  findEntry(a, local('ref'), 'backends');
  a.load(r7, field(r3, PIN_VIEW_ENTRY, 'other'));
  a.load(r3, field(r3, PIN_VIEW_ENTRY, 'own'));
  a.load(r1, local('ref'));
  a.jumpIf(r1, '!=', r3, done);
  a.jumpIf(r7, '==', 0, done);
  findGroupPin(a);
  a.jumpIf(r0, '!=', 0, isThere);
  for (let at = 0; at < PIN.size; at += 8) a.store(part(local('scratch'), at, 8), 0);
  a.store(newPin('ref'), r7);
  copy(a, newPin('lastUsedNs'), { from: local('nowNs') });
  a.addressOf(r2, pinKey());
  insertGroupPin(a, done);
  a.addressOf(r2, pinKey());
  push(a, 'pin_order');
  a.jump(done);

  a.label(isThere);
  a.mov(r5, r0);
  a.load(r1, local('nowNs'));
  a.store(field(r5, PIN, 'lastUsedNs'), r1);
  a.load(r4, field(r5, PIN, 'ref'));
  a.mov(r2, r4);
  follow(a, isOver);
  a.jump(done);
  a.label(isOver);
  a.mov(r0, r4);
  a.compareExchange(field(r5, PIN, 'ref'), r7);
  a.label(done);
  leaveGroup(a);
  a.load(r7, kept());
}

/** Stores the pin in the scratch under the key that r2 points to, or jumps: it is there by now, or there is no room. */
export function insertGroupPin(a: Code, otherwise: string): void {
  a.addressOf(r3, local('scratch'));
  a.mov(r4, BPF_NOEXIST);
  a.loadMap(r1, 'pins');
  a.call(HELPER.mapUpdate);
  a.jumpIf(r0, '!=', 0, otherwise);
  changeGauge(a, 'pins', 1);
}

/** Keeps the address of the listener's view, or jumps. */
function findView(a: Code, otherwise: string): void {
  a.load(r1, part(local('listener'), 0, U16));
  lookupAt(a, 'pin_views', { index: r1, otherwise });
  a.store(view(), r0);
}

/** r0 = the group's pin of the client, or 0. Leaves the group's scope in the pin key. */
function findGroupPin(a: Code): void {
  a.load(r1, view());
  a.load(r1, field(r1, PIN_VIEW, 'scope'));
  a.store(local('pinListener'), r1);
  lookup(a, 'pins', pinKey());
}

/** The pin key is that of the listener again. */
function leaveGroup(a: Code): void {
  a.load(r1, part(local('listener'), 0, U16));
  a.store(local('pinListener'), r1);
}

/** local ref = the usable backend of the listener's pool that the group's reference (r2) means, or a jump. Keeps r4, r5. */
function follow(a: Code, otherwise: string): void {
  findEntry(a, r2, 'groups');
  a.load(r1, field(r3, PIN_VIEW_ENTRY, 'own'));
  a.jumpIf(r1, '!=', r2, otherwise);
  a.load(r3, field(r3, PIN_VIEW_ENTRY, 'other'));
  a.jumpIf(r3, '==', 0, otherwise);
  a.mov(r2, r3);
  findBackend(a, r2, r1);
  a.load(r1, field(r2, BACKEND, 'usable'));
  a.jumpIf(r1, '!=', r3, otherwise);
  a.store(local('ref'), r3);
}

/** r3 = the view's entry in the slot of a reference. Loses r1. */
function findEntry(a: Code, ref: Memory | Register, table: 'groups' | 'backends'): void {
  if ('base' in ref) a.load(r1, ref);
  else a.mov(r1, ref);
  a.alu('and', r1, MAX_BACKENDS - 1);
  a.alu('mul', r1, PIN_VIEW_ENTRY.size);
  a.load(r3, view());
  a.alu('add', r3, r1);
  a.alu('add', r3, PIN_VIEW.at[table]);
}
