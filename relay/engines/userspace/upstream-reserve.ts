/**
 * How many upstream sockets to hold ready: as many as were lately taken in a second, within bounds. A player who joins
 * then finds one that is open, and opening them is left to the sweep, between datagrams.
 *
 * A burst raises the number at once; without need it falls by a tenth a second, down to the least. From the most, 256, to
 * the least, 16, that is half a minute.
 */
const WINDOW_MS = 1_000;
const KEPT_PER_WINDOW = 0.9;

export interface ReserveBounds {
  readonly least: number;
  readonly most: number;
}

export class UpstreamReserve {
  readonly #bounds: ReserveBounds;
  #wanted: number;
  /** Taken since the window began. */
  #taken = 0;
  #windowMs: number | undefined;

  constructor(bounds: ReserveBounds) {
    this.#bounds = bounds;
    this.#wanted = bounds.least;
  }

  /** A session took a socket that no other session had. */
  noteTaken(): void {
    this.#taken++;
  }

  /** How many sockets should be ready now. */
  wanted(nowMs: number): number {
    const { least, most } = this.#bounds;
    this.#wanted = Math.max(this.#wanted, Math.min(most, this.#taken));
    this.#windowMs ??= nowMs;
    const windows = Math.floor((nowMs - this.#windowMs) / WINDOW_MS);
    if (windows > 0) {
      this.#wanted = Math.max(least, this.#wanted * KEPT_PER_WINDOW ** windows);
      this.#taken = 0;
      this.#windowMs += windows * WINDOW_MS;
    }
    return Math.floor(this.#wanted);
  }
}
