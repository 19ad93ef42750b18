/**
 * Expiry in bounded steps: walks over sessions and pins, some hundred at a time, that pick those whose time is over and ask the
 * steward to end them, and the queue of resting reverse records, which ends where one's time is not over. A session that is idle for too long is at its end for the packet path
 * already; the sweep makes room and counts. So it may be late, by a part of the time that it waits for, and a million
 * sessions are looked at every ten seconds rather than every second.
 */
import type { BpfMap } from './bpf-map.ts';
import { MapWalk } from './bpf-map.ts';
import { MAX_LISTENERS } from '../../core/limits.ts';
import type { Bpf } from './loader.ts';
import { PIN, PIN_KEY, REST_ENDS, SESSION, SESSION_KEY } from './records.ts';
import type { KernelMaps } from './kernel-maps.ts';
import type { MappedArray } from './mapped-array.ts';
import type { Steward, StewardOperation } from './steward.ts';
import { U32 } from './struct.ts';

/** Elements of one step: some 0.1 ms, and 1 ms more when all of them are at their end. */
const BATCH = 256;

/** The time from one walk to the next, in ms: a part of the shortest timeout, within these bounds. */
const LEAST_PERIOD_MS = 1_000;
const MOST_PERIOD_MS = 60_000;
const PERIOD_PART = 12;
/** Of the quarantine. */
const RESTING_PART = 3;

const NS_PER_MS = 1e6;

const NO_KEY = new Uint8Array(0);

/** The rules of a listener that expiry needs, in ns. */
export interface Timeouts {
  readonly idleNs: number;
  readonly pinNs: number;
}

export interface SweeperOptions {
  readonly bpf: Bpf;
  readonly maps: KernelMaps;
  readonly steward: Steward;
  /** By listener index; undefined where no listener is: what is left of one there goes at once. */
  readonly timeouts: (listener: number) => Timeouts | undefined;
  /** Whether the pin of a group is to be forgotten: its key, and where its value begins in `values`. */
  readonly isGroupPinOver: (key: Uint8Array, values: DataView, value: number) => boolean;
  /** The shortest of all listeners; infinite without any. */
  readonly shortest: () => Timeouts;
  readonly nowNs: () => number;
  readonly quarantineNs: number;
}

export type WalkName = 'sessions' | 'pins' | 'reverse';

/** The elements of a step: `key` and `value` are offsets in their bytes. */
interface Elements {
  readonly keys: DataView;
  readonly values: DataView;
  readonly nowNs: number;
}

/** What is gone through, how often. */
interface Round {
  readonly name: WalkName;
  readonly periodMs: () => number;
}

/** What is walked over, and what becomes of an element. */
interface Walked extends Round {
  readonly map: BpfMap;
  /** What to do with an element, or undefined to leave it. */
  readonly judge: (elements: Elements, key: number, value: number) => StewardOperation | undefined;
}

/** Something that is gone through in steps. */
interface Steps {
  readonly round: Round;
  /** When the next round may begin, in ms of performance.now. */
  dueMs: number;
  /** @returns whether the round is at its end */
  step(): boolean;
  restart(): void;
  close(): void;
}

class Walk implements Steps {
  dueMs = 0;
  readonly round: Walked;
  readonly #walk: MapWalk;
  readonly #keys: DataView;
  readonly #keyWords: Uint32Array;
  readonly #values: DataView;
  readonly #steward: Steward;
  readonly #nowNs: () => number;

  constructor({ bpf, steward, nowNs }: SweeperOptions, walked: Walked) {
    this.round = walked;
    this.#walk = new MapWalk(bpf, walked.map, BATCH);
    this.#keys = viewOf(this.#walk.keys);
    const { buffer, byteOffset, byteLength } = this.#walk.keys;
    this.#keyWords = new Uint32Array(buffer, byteOffset, byteLength / U32);
    this.#values = viewOf(this.#walk.values);
    this.#steward = steward;
    this.#nowNs = nowNs;
  }

  step(): boolean {
    const { map, judge } = this.round;
    const { count, isEnd } = this.#walk.step();
    const { keySize } = map.spec;
    const range = { from: 0, count: keySize / U32 };
    const elements = { keys: this.#keys, values: this.#values, nowNs: this.#nowNs() };
    for (let i = 0; i < count; i++) {
      const key = i * keySize;
      const operation = judge(elements, key, i * map.valueBytes);
      if (operation === undefined) continue;
      range.from = key / U32;
      this.#steward.addWords(operation, this.#keyWords, range);
    }
    this.#steward.flush();
    return isEnd;
  }

  restart(): void {
    this.#walk.restart();
  }

  close(): void {
    this.#walk.close();
  }
}

/** The reverse records that rest: the steward ends those at the head of their queue. */
class Rests implements Steps {
  dueMs = 0;
  readonly round: Round;
  readonly #ends: MappedArray;
  readonly #steward: Steward;

  constructor({ maps, steward, quarantineNs }: SweeperOptions) {
    this.round = { name: 'reverse', periodMs: () => partOf(quarantineNs, RESTING_PART) };
    this.#ends = maps.mapped.rest_ends;
    this.#steward = steward;
  }

  step(): boolean {
    const resting = this.#ends.getU64(REST_ENDS.at.rested) - this.#ends.getU64(REST_ENDS.at.over);
    const asked = Math.min(BATCH, resting);
    for (let i = 0; i < asked; i++) this.#steward.add('endRest', NO_KEY);
    return this.#steward.flush() < BATCH;
  }

  restart(): void {}

  close(): void {}
}

export class Sweeper {
  readonly #walks: readonly Steps[];
  readonly #timeouts: (listener: number) => Timeouts | undefined;
  /** Of listeners that were asked for in this call; null where no listener is. */
  readonly #known: (Timeouts | null | undefined)[] = Array.from({ length: MAX_LISTENERS });
  /** The walk that the round is in. */
  #current = 0;

  constructor(options: SweeperOptions) {
    const { maps, timeouts, shortest, isGroupPinOver } = options;
    const { sessions, pins } = maps.maps;
    this.#timeouts = timeouts;
    const walks: readonly Walked[] = [
      {
        name: 'sessions',
        map: sessions,
        periodMs: () => partOf(shortest().idleNs, PERIOD_PART),
        judge: ({ keys, values, nowNs }, key, value) => {
          const rules = this.#rulesOf(keys.getUint16(key + SESSION_KEY.at.listener, true));
          if (rules === null) return 'endSession';
          const idleNs = nowNs - readNs(values, value + SESSION.at.lastSeenNs);
          return idleNs >= rules.idleNs ? 'expireSession' : undefined;
        },
      },
      {
        name: 'pins',
        map: pins,
        periodMs: () => partOf(shortest().pinNs, PERIOD_PART),
        judge: ({ keys, values, nowNs }, key, value) => {
          const scope = keys.getUint32(key + PIN_KEY.at.listener, true);
          if (scope >= MAX_LISTENERS) {
            const bytes = new Uint8Array(keys.buffer, keys.byteOffset + key, PIN_KEY.size);
            return isGroupPinOver(bytes, values, value) ? 'endPin' : undefined;
          }
          const rules = this.#rulesOf(scope);
          if (rules === null) return 'endPin';
          if (values.getUint32(value + PIN.at.live, true) > 0) return undefined;
          return nowNs - readNs(values, value + PIN.at.lastUsedNs) >= rules.pinNs ? 'expirePin' : undefined;
        },
      },
    ];
    this.#walks = [...walks.map((walked) => new Walk(options, walked)), new Rests(options)];
  }

  /**
   * Goes on with the walks whose time has come, until the budget of time is used up.
   *
   * @param budgetMs at least one step is done, of at most some 1 ms
   */
  sweepDue(budgetMs: number): void {
    const startMs = performance.now();
    this.#known.fill(undefined);
    for (const walk of this.#walks) {
      if (walk.dueMs > startMs) continue;
      while (!walk.step()) if (performance.now() - startMs >= budgetMs) return;
      walk.dueMs = performance.now() + walk.round.periodMs();
    }
  }

  /** Begins a round, which looks at everything once, whatever is due. */
  startRound(): void {
    for (const walk of this.#walks) walk.restart();
    this.#current = 0;
  }

  /**
   * Goes on with the round, at most to the end of one walk.
   *
   * @returns which walk, and whether that ended the round, so that the next call begins one
   */
  sweepRound(budgetMs: number): { readonly walk: WalkName; readonly isEnd: boolean } {
    const startMs = performance.now();
    this.#known.fill(undefined);
    const walk = this.#walks[this.#current]!;
    const { name } = walk.round;
    do {
      if (!walk.step()) continue;
      this.#current = (this.#current + 1) % this.#walks.length;
      return { walk: name, isEnd: this.#current === 0 };
    } while (performance.now() - startMs < budgetMs);
    return { walk: name, isEnd: false };
  }

  close(): void {
    for (const walk of this.#walks) walk.close();
  }

  #rulesOf(listener: number): Timeouts | null {
    this.#known[listener] ??= this.#timeouts(listener) ?? null;
    return this.#known[listener];
  }
}

function partOf(timeoutNs: number, parts: number): number {
  return Math.min(MOST_PERIOD_MS, Math.max(LEAST_PERIOD_MS, timeoutNs / NS_PER_MS / parts));
}

/** A u64 of ns as a double: exact up to 104 days, to 2 ns beyond. */
export function readNs(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
