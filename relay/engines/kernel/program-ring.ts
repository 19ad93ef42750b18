/**
 * With sourceAddress `relay`: the search for a relay port, for sessions and connections, in the ring of those that the listener
 * has. It begins at the place that the client's address and port name, which are locals.
 *
 *  1. ports are tried, one after the other, until one is free towards the backend;
 *  2. when none is, those who have the first of them are looked at, for one who may give up its own.
 */
import { type Memory, part, r0, r1, r2, r3, r7, r8 } from './memory.ts';
import { type Code, local, loop } from './program-frame.ts';

/** Relay ports that are tried for one session. */
const PORT_ATTEMPTS = 128;
/** Owners that are looked at. */
const OWNERS = 32;

/** 2^32 divided by the golden ratio: its products spread neighbouring numbers over the upper bits. */
const SPREAD = 0x9e37_79b1;

/** Where in the ring the search begins. */
const place = (): Memory => local('counters');
/** 1 when a port was free. */
const isFound = (): Memory => local('index');
// Where r7 and r8 are found.
const subject = (): Memory => local('context');
const rules = (): Memory => local('rules');

export interface Ring {
  /** The listener's first relay port, and how many it has: u16 each. */
  readonly first: Memory;
  readonly ports: Memory;
  /** Where the port that is tried goes to. */
  readonly to: Memory;
  /** Takes the port: r0 = 0, or what forbade it. */
  readonly take: () => void;
  /** Looks at who has the port. May jump to where it is told to, which is the next one. */
  readonly considerOwner: (next: string) => void;
}

/** Goes to `found` with a port, or goes on when none is free. Keeps r6 to r9. In `ring` r7 and r8 are what they are outside. */
export function searchRing(a: Code, ring: Ring, found: string): void {
  a.store(subject(), r7);
  a.store(rules(), r8);
  startSearch(a);
  a.store(isFound(), 0);
  loop(a, { name: 'try relay ports', most: PORT_ATTEMPTS }, ({ next, stop }) => {
    nextPort(a, ring, stop);
    ring.take();
    a.jumpIf(r0, '!=', 0, next);
    a.store(isFound(), 1);
    a.jump(stop);
  });
  a.load(r1, isFound());
  a.jumpIf(r1, '!=', 0, found);
  loop(a, { name: 'look at owners of relay ports', most: OWNERS }, ({ next, stop }) => {
    nextPort(a, ring, stop);
    ring.considerOwner(next);
  });
}

function startSearch(a: Code): void {
  a.load(r1, part(local('client'), 0, 8));
  a.load(r2, part(local('client'), 8, 8));
  a.alu('xor', r1, r2);
  a.mov(r2, r1);
  a.alu('shiftRight', r2, 32);
  a.alu('xor', r1, r2);
  a.alu32('mul', r1, SPREAD);
  a.alu32('shiftRight', r1, 16);
  a.load(r2, local('clientPort'));
  a.alu('add', r1, r2);
  a.store(place(), r1);
}

/** The port of the ring for the round in r1, or a jump when all that there are had their round. */
function nextPort(a: Code, { first, ports, to }: Ring, otherwise: string): void {
  a.load(r7, subject());
  a.load(r8, rules());
  a.load(r3, ports);
  a.jumpIf(r1, '>=', r3, otherwise);
  a.load(r2, place());
  a.alu('add', r2, r1);
  a.alu('add', r2, 1);
  a.alu('mod', r2, r3);
  a.load(r3, first);
  a.alu('add', r2, r3);
  a.store(to, r2);
}
