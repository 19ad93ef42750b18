/** What the router knows of one listener: its rules, its pool as last published, and its live figures. */
import type { BackendRef } from './backend-ref.ts';
import { slotOf } from './backend-ref.ts';
import { ListenerCounters } from './counters.ts';
import { MAX_BACKENDS } from './limits.ts';
import type { PinGroupView } from './pin-group.ts';
import type { BackendEntry, PoolSnapshot } from './pool-snapshot.ts';
import { type Algorithm, Selector } from './select.ts';
import { TokenBucket } from './token-bucket.ts';

/** Bounds on new sessions; 0 means no bound. */
export interface AdmissionLimits {
  /** Live sessions of one client IP. */
  readonly sessionsPerSource: number;
  /** New sessions a second of one client IP, with a burst of one second's worth. */
  readonly sessionRatePerSource: number;
  /** New sessions a second of the listener, with a burst of one second's worth. */
  readonly sessionRate: number;
  /** Bytes towards a half-open session for each byte that its client sent. */
  readonly amplification: number;
}

export interface ListenerRules {
  readonly algorithm: Algorithm;
  /** Time since the last datagram from the client after which a session ends. */
  readonly idleTimeoutMs: number;
  /** How long a pin outlives its client's last session. */
  readonly pinTimeoutMs: number;
  readonly limits: AdmissionLimits;
}

/** Live sessions by slot, MAX_BACKENDS words each: of this worker, and of the others that serve the same pool. */
export interface LiveSessions {
  readonly own: Uint32Array;
  readonly others: readonly Uint32Array[];
}

/** A pool as the data plane sees it. Shared by the listeners that name the pool. */
export class PoolView {
  /** Live sessions by slot, of the backend that is there now. */
  readonly live: Uint32Array;
  readonly #others: readonly Uint32Array[];
  readonly #total = new Uint32Array(MAX_BACKENDS);
  #snapshot: PoolSnapshot;

  constructor(
    snapshot: PoolSnapshot,
    live: LiveSessions = { own: new Uint32Array(MAX_BACKENDS), others: [] },
  ) {
    this.#snapshot = snapshot;
    this.live = live.own;
    this.#others = live.others;
  }

  get snapshot(): PoolSnapshot {
    return this.#snapshot;
  }

  /** Whether the pool has no backend at all: it left the configuration, or nobody has registered. */
  get isEmpty(): boolean {
    return this.#snapshot.backends.every((backend) => backend === undefined);
  }

  /** Whether a session of this reference goes on: its backend is the same as ever, and ready or draining. */
  isUsable(ref: BackendRef): boolean {
    return this.#snapshot.usable[slotOf(ref)] === ref;
  }

  /** Live sessions by slot, of all workers. The array is the view's own, and overwritten by the next call. */
  totalLive(): Uint32Array {
    if (this.#others.length === 0) return this.live;
    for (let slot = 0; slot < this.#snapshot.backends.length; slot++) {
      let sum = this.live[slot]!;
      for (const other of this.#others) sum += other[slot]!;
      this.#total[slot] = sum;
    }
    return this.#total;
  }

  /** The backend that the reference still means, for listings. */
  backendOf(ref: BackendRef): BackendEntry | undefined {
    const entry = this.#snapshot.backends[slotOf(ref)];
    return entry?.ref === ref ? entry : undefined;
  }

  /** Swaps the snapshot in. Sessions of a backend that failed or left are no longer counted in its slot. */
  publish(snapshot: PoolSnapshot): void {
    const before = this.#snapshot.backends;
    for (let slot = 0; slot < before.length; slot++) {
      if (before[slot] !== undefined && before[slot]?.ref !== snapshot.backends[slot]?.ref)
        this.live[slot] = 0;
    }
    this.#snapshot = snapshot;
  }

  sessionOpened(ref: BackendRef): void {
    this.live[slotOf(ref)]!++;
  }

  sessionEnded(ref: BackendRef): void {
    if (this.backendOf(ref) !== undefined) this.live[slotOf(ref)]!--;
  }
}

export interface ListenerStateOptions {
  readonly rules: ListenerRules;
  readonly pool: PoolView;
  /** In shared memory, where others read them. */
  readonly counters?: ListenerCounters | undefined;
  /** Turns of round-robin (select.ts), in shared memory where several workers take them together. */
  readonly turns?: Int32Array | undefined;
}

export class ListenerState {
  readonly index: number;
  readonly name: string;
  readonly pool: PoolView;
  readonly counters: ListenerCounters;
  readonly selector: Selector;
  algorithm!: Algorithm;
  idleTimeoutMs!: number;
  pinTimeoutMs!: number;
  limits!: AdmissionLimits;
  /** What it shares with other listeners; undefined: its pins are its own. */
  group: PinGroupView | undefined;
  readonly rate: TokenBucket;

  constructor(index: number, name: string, options: ListenerStateOptions) {
    this.index = index;
    this.name = name;
    this.pool = options.pool;
    this.counters = options.counters ?? new ListenerCounters();
    this.selector = new Selector(options.turns);
    this.rate = new TokenBucket(options.rules.limits.sessionRate);
    this.#take(options.rules);
  }

  get liveSessions(): number {
    return this.counters.liveSessions;
  }

  /** New rules for the sessions that live and those to come. What was used of the rates stays used. */
  apply(rules: ListenerRules, nowMs: number): void {
    this.#take(rules);
    this.rate.changeRate(rules.limits.sessionRate, nowMs);
  }

  #take(rules: ListenerRules): void {
    this.algorithm = rules.algorithm;
    this.idleTimeoutMs = rules.idleTimeoutMs;
    this.pinTimeoutMs = rules.pinTimeoutMs;
    this.limits = rules.limits;
  }
}
