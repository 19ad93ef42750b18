/** The one record of `settings`, which the engine writes; and the time that it sets, which is the engine's own too. */
import type { KernelMaps } from './kernel-maps.ts';
import type { MappedArray } from './mapped-array.ts';
import { SETTINGS } from './records.ts';

const NS_PER_MS = 1e6;

export interface SettingsOptions {
  readonly maxSessions: number;
  readonly hashSeed: number;
  readonly quarantineMs: number;
  /** The time, which stands still but for `setClock`; 0: the system's monotonic clock. */
  readonly clockMs: number;
}

export class SettingsRecord {
  readonly quarantineNs: number;
  readonly #memory: MappedArray;
  #clockMs: number;

  constructor(maps: KernelMaps, { maxSessions, hashSeed, quarantineMs, clockMs }: SettingsOptions) {
    this.quarantineNs = quarantineMs * NS_PER_MS;
    this.#memory = maps.mapped.settings;
    this.#clockMs = clockMs;
    this.#memory.setU32(SETTINGS.at.draining, 0);
    this.#memory.setU64(SETTINGS.at.fixedClockNs, clockMs * NS_PER_MS);
    this.#memory.setU64(SETTINGS.at.quarantineNs, this.quarantineNs);
    this.#memory.setU32(SETTINGS.at.maxResting, maxSessions);
    this.#memory.setU32(SETTINGS.at.hashSeed, hashSeed);
  }

  nowNs(): number {
    return this.#clockMs === 0 ? Number(process.hrtime.bigint()) : this.#clockMs * NS_PER_MS;
  }

  setClock(clockMs: number): void {
    this.#clockMs = clockMs;
    this.#memory.setU64(SETTINGS.at.fixedClockNs, clockMs * NS_PER_MS);
  }

  /** No new sessions and connections from now on. */
  drain(): void {
    this.#memory.setU32(SETTINGS.at.draining, 1);
  }
}
