/**
 * Expiry in bounded steps: a walk over sessions, pins and resting reverse records, some thousand at a time, that picks those
 * whose time is over and asks the steward to end them. A session that is idle for too long is at its end for the packet path
 * already; the sweep makes room and counts.
 */
import type { BpfMap } from './bpf-map.ts';
import { MapWalk } from './bpf-map.ts';
import { MAX_LISTENERS } from '../../core/limits.ts';
import type { Bpf } from './loader.ts';
import { GAUGES, PIN, PIN_KEY, REVERSE, SESSION, SESSION_KEY } from './maps.ts';
import type { MappedArray } from './mapped-array.ts';
import type { KernelMaps } from './kernel-maps.ts';
import type { Steward, StewardOperation } from './steward.ts';

/** Elements of one system call: some 0.3 ms, and as much again when all of them are at their end. */
const BATCH = 512;

/** The walk over reverse records. */
const RESTING = 2;

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
  readonly nowNs: () => number;
  readonly quarantineNs: number;
}

/** What to do with an element, or undefined to leave it. `key` and `value` are its offsets in the bytes of the walk. */
type Judge = (keys: DataView, key: number, values: DataView, value: number) => StewardOperation | undefined;

class Walk {
  readonly #walk: MapWalk;
  readonly #keySize: number;
  readonly #valueSize: number;
  readonly #keys: DataView;
  readonly #values: DataView;
  readonly #steward: Steward;
  readonly #judge: Judge;

  constructor({ bpf, steward }: SweeperOptions, map: BpfMap, judge: Judge) {
    this.#walk = new MapWalk(bpf, map, BATCH);
    this.#keySize = map.spec.keySize;
    this.#valueSize = map.valueBytes;
    this.#keys = viewOf(this.#walk.keys);
    this.#values = viewOf(this.#walk.values);
    this.#steward = steward;
    this.#judge = judge;
  }

  /** @returns whether the walk has come round */
  step(): boolean {
    const { count, isEnd } = this.#walk.step();
    for (let i = 0; i < count; i++) {
      const key = i * this.#keySize;
      const operation = this.#judge(this.#keys, key, this.#values, i * this.#valueSize);
      if (operation === undefined) continue;
      this.#steward.add(operation, this.#walk.keys.subarray(key, key + this.#keySize));
    }
    this.#steward.flush();
    return isEnd;
  }

  close(): void {
    this.#walk.close();
  }
}

export class Sweeper {
  readonly #walks: readonly Walk[];
  readonly #gauges: MappedArray;
  /** The walk that the next step goes on with. */
  #current = 0;

  constructor(options: SweeperOptions) {
    const { maps, timeouts, isGroupPinOver, nowNs, quarantineNs } = options;
    this.#gauges = maps.mapped.gauges;
    this.#walks = [
      new Walk(options, maps.maps.sessions, (keys, key, values, value) => {
        const rules = timeouts(keys.getUint16(key + SESSION_KEY.at.listener, true));
        if (rules === undefined) return 'endSession';
        const seenNs = readNs(values, value + SESSION.at.lastSeenNs);
        return nowNs() - seenNs >= rules.idleNs ? 'expireSession' : undefined;
      }),
      new Walk(options, maps.maps.pins, (keys, key, values, value) => {
        const scope = keys.getUint32(key + PIN_KEY.at.listener, true);
        if (scope >= MAX_LISTENERS) {
          const bytes = new Uint8Array(keys.buffer, keys.byteOffset + key, PIN_KEY.size);
          return isGroupPinOver(bytes, values, value) ? 'endPin' : undefined;
        }
        const rules = timeouts(scope);
        if (rules === undefined) return 'endPin';
        if (values.getUint32(value + PIN.at.live, true) > 0) return undefined;
        return nowNs() - readNs(values, value + PIN.at.lastUsedNs) >= rules.pinNs ? 'expirePin' : undefined;
      }),
      new Walk(options, maps.maps.reverse, (_keys, _key, values, value) => {
        const leftNs = readNs(values, value + REVERSE.at.leftNs);
        return leftNs !== 0 && nowNs() - leftNs >= quarantineNs ? 'endRest' : undefined;
      }),
    ];
  }

  /**
   * Steps until the budget of time is used up or everything was seen once.
   *
   * @param budgetMs at least one step is done, of at most some 2 ms
   * @returns whether everything was seen once
   */
  sweep(budgetMs: number): boolean {
    const untilMs = performance.now() + budgetMs;
    do {
      const isEnd = this.#isIdle(this.#current) || this.#walks[this.#current]!.step();
      if (!isEnd) continue;
      this.#current = (this.#current + 1) % this.#walks.length;
      if (this.#current === 0) return true;
    } while (performance.now() < untilMs);
    return false;
  }

  close(): void {
    for (const walk of this.#walks) walk.close();
  }

  /** Nothing rests, so no reverse record can have rested for long enough. */
  #isIdle(walk: number): boolean {
    return walk === RESTING && this.#gauges.getU64(GAUGES.at.resting) === 0;
  }
}

/** A u64 of ns as a double: exact up to 104 days, to 2 ns beyond. */
export function readNs(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
