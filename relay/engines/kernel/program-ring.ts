/**
 * With sourceAddress `relay`: the search for a relay port, for sessions and connections, in the ring of those that the listener
 * has. It begins at the place that the client's address and port name, which are locals.
 *
 *  1. ports are tried, one after the other, until one is free towards the backend;
 *  2. when none is, those who have the first of them are looked at, for one who may give up its own.
 *
 * The two are loops apart, since the verifier follows each round: of the first one a round has no fork but its end, so many are
 * cheap; those of the second one have.
 */
import { type Memory, part, r0, r1, r2, r3 } from './memory.ts';
import { type Code, local, nextRound, startRounds } from './program-frame.ts';

/** Relay ports that are tried for one session. */
const PORT_ATTEMPTS = 128;
/** Owners that are looked at. */
const OWNERS = 32;

/** 2^32 divided by the golden ratio: its products spread neighbouring numbers over the upper bits. */
const SPREAD = 0x9e37_79b1;

const NEXT_PORT = 'next relay port';
const NEXT_OWNER = 'next owner of a relay port';
const NONE_IS_FREE = 'no relay port is free';
const NO_MORE_OWNERS = 'owners of relay ports are known';

/** Where in the ring the search is. */
const place = (): Memory => local('counters');

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

/** Goes to `found` with a port, or goes on when none is free. Keeps r6 to r9. */
export function searchRing(a: Code, ring: Ring, found: string): void {
  startSearch(a, PORT_ATTEMPTS);
  nextRound(a, NEXT_PORT, NONE_IS_FREE);
  nextPort(a, ring, { rounds: PORT_ATTEMPTS, otherwise: NONE_IS_FREE });
  ring.take();
  a.jumpIf(r0, '!=', 0, NEXT_PORT);
  a.jump(found);
  a.label(NONE_IS_FREE);
  startSearch(a, OWNERS);
  nextRound(a, NEXT_OWNER, NO_MORE_OWNERS);
  nextPort(a, ring, { rounds: OWNERS, otherwise: NO_MORE_OWNERS });
  ring.considerOwner(NEXT_OWNER);
  a.jump(NEXT_OWNER);
  a.label(NO_MORE_OWNERS);
}

function startSearch(a: Code, rounds: number): void {
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
  startRounds(a, rounds);
}

/** The next port of the ring, or a jump when all that there are had their round. r1 = the rounds left after this one. */
function nextPort(
  a: Code,
  { first, ports, to }: Ring,
  { rounds, otherwise }: { rounds: number; otherwise: string },
): void {
  a.mov(r2, rounds - 1);
  a.alu('sub', r2, r1);
  a.load(r3, ports);
  a.jumpIf(r2, '>=', r3, otherwise);
  a.load(r2, place());
  a.alu('add', r2, 1);
  a.store(place(), r2);
  a.alu('mod', r2, r3);
  a.load(r3, first);
  a.alu('add', r2, r3);
  a.store(to, r2);
}
