/**
 * What finding a datagram's session costs among few and among many. The aim: a million sessions cost at most twice what a
 * thousand do, although the small table lives in the processor's cache and the large one in memory.
 *
 * A lookup is what every datagram of a session takes of the tables: `Router.route` finds the session, sees that it is neither
 * idle nor on a backend that is gone, and notes the datagram in it. Each is of a session that is there, in an order that no
 * prefetcher can guess, with the key in a buffer that is warm, as a datagram's source is when it has just been received. Drawing
 * the keys is timed by itself and subtracted.
 */
import assert from 'node:assert/strict';
import { Endpoint } from '../net/address.ts';
import { hugePages } from '../net/linux/huge-pages.ts';
import { loadLibc } from '../net/linux/libc.ts';
import { BackendPool } from '../relay/core/backend-pool.ts';
import { ListenerState, PoolView } from '../relay/core/listener-state.ts';
import { Router } from '../relay/core/router.ts';
import { POSITION_UPDATE_BYTES } from '../wire/position-update.ts';
import { type StopwatchOptions, timeInTurns } from './stopwatch.ts';

const SMALL = 1_000;
const LARGE = 1_000_000;

/** Lookups in one batch: as many as both engines receive together, at most, from a socket. */
const BATCH = 32;

/** Sessions of one client IP, by port. */
const PORTS = 16;

export interface LookupCost {
  /** ns for one lookup, median over the turns. */
  readonly smallNs: number;
  readonly largeNs: number;
  /** largeNs / smallNs */
  readonly ratio: number;
}

export interface SessionTableLookup {
  /** Sessions in each table. */
  readonly smallSessions: number;
  readonly largeSessions: number;
  /** As the engines look up what they received together: `prefetch`, then one after the other. */
  readonly batched: LookupCost;
  /** As where datagrams arrive one by one, far apart: nothing hides what the memory takes. */
  readonly single: LookupCost;
}

export function measureSessionTableLookup({ turns, turnMs }: StopwatchOptions): SessionTableLookup {
  const small = new Clients(SMALL);
  const large = new Clients(LARGE);
  const times = timeInTurns(
    [
      { name: 'small, batched', run: (iterations) => small.lookUp(iterations, { isBatched: true }) },
      { name: 'large, batched', run: (iterations) => large.lookUp(iterations, { isBatched: true }) },
      { name: 'small, single', run: (iterations) => small.lookUp(iterations, { isBatched: false }) },
      { name: 'large, single', run: (iterations) => large.lookUp(iterations, { isBatched: false }) },
      { name: 'drawing', run: (iterations) => large.draw(iterations) },
    ],
    { turns, turnMs },
  );
  const drawingNs = times.get('drawing')!;
  const cost = (manner: 'batched' | 'single'): LookupCost => {
    const [smallNs, largeNs] = [
      times.get(`small, ${manner}`)! - drawingNs,
      times.get(`large, ${manner}`)! - drawingNs,
    ];
    return { smallNs, largeNs, ratio: largeNs / smallNs };
  };
  return { smallSessions: SMALL, largeSessions: LARGE, batched: cost('batched'), single: cost('single') };
}

/** So many clients, each with a session that is past half-open. */
class Clients {
  readonly #count: number;
  readonly #router: Router;
  readonly #listener: ListenerState;
  readonly #words = new Uint32Array(4 * BATCH);
  readonly #ports = new Uint16Array(BATCH);
  #state = 1;

  constructor(count: number) {
    this.#count = count;
    const loaded = loadLibc();
    this.#router = new Router({
      maxSessions: count,
      hashSeed: 0,
      tableSeed: 0x5eed,
      onDetach: () => undefined,
      onRenumber: () => undefined,
      prepareMemory: 'libc' in loaded ? hugePages(loaded.libc) : undefined,
    });
    const pool = new BackendPool('game');
    for (let i = 1; i <= 3; i++)
      pool.add({ id: `game-${i}`, endpoint: Endpoint.parse(`127.0.0.${i}:9000`), weight: 1 });
    const limits = { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 };
    this.#listener = new ListenerState(0, 'game', {
      rules: { algorithm: 'ip-hash', idleTimeoutMs: 60_000, pinTimeoutMs: 60_000, limits },
      pool: new PoolView(pool.snapshot()),
    });
    this.#router.addListener(this.#listener);
    for (let client = 0; client < count; client++) {
      this.#place(0, client);
      this.#route(0);
      this.#route(0);
    }
    assert.equal(this.#listener.liveSessions, count);
  }

  /** Looks random clients up, in batches. @returns a number that depends on each of the lookups */
  lookUp(iterations: number, { isBatched }: { isBatched: boolean }): number {
    const { sessions } = this.#router;
    let sum = 0;
    for (let batches = Math.ceil(iterations / BATCH); batches > 0; batches--) {
      this.#drawBatch();
      if (isBatched) sessions.prefetch(this.#listener.index, this.#words, this.#ports, BATCH);
      for (let slot = 0; slot < BATCH; slot++) sum += this.#route(slot);
    }
    assert.equal(this.#listener.liveSessions, this.#count);
    return sum;
  }

  /** What `lookUp` does besides looking up. @returns a number that depends on the last batch drawn */
  draw(iterations: number): number {
    for (let batches = Math.ceil(iterations / BATCH); batches > 0; batches--) this.#drawBatch();
    return this.#words[3]! + this.#ports[0]!;
  }

  #drawBatch(): void {
    for (let slot = 0; slot < BATCH; slot++) this.#place(slot, this.#random());
  }

  #route(slot: number): number {
    const words = this.#words;
    return this.#router.route(
      this.#listener,
      words,
      4 * slot,
      this.#ports[slot]!,
      POSITION_UPDATE_BYTES,
      1_000,
    );
  }

  #place(slot: number, client: number): void {
    this.#words[4 * slot + 2] = 0xffff0000;
    this.#words[4 * slot + 3] = addressWord(Math.floor(client / PORTS));
    this.#ports[slot] = 1_024 + (client % PORTS);
  }

  /** xorshift32: a random order that costs next to nothing. */
  #random(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % this.#count;
  }
}

/** An address that can be answered, distinct for each i below 2^16 and more: its first byte, the low one here, is 10. */
function addressWord(i: number): number {
  return (Math.imul(i, 0x9e3779) << 8) | 10;
}
