/** A queue in the order of time, whose head is taken without moving the rest: an array and where it begins. */

/** Taken entries at the front before the array is cut. */
const CUT_AT = 1_024;

export class RestQueue<T> {
  #entries: (T | undefined)[] = [];
  #head = 0;

  get size(): number {
    return this.#entries.length - this.#head;
  }

  push(entry: T): void {
    this.#entries.push(entry);
  }

  peek(): T | undefined {
    return this.#entries[this.#head];
  }

  shift(): void {
    if (this.size === 0) return;
    this.#entries[this.#head++] = undefined;
    if (this.#head < CUT_AT || this.#head * 2 < this.#entries.length) return;
    this.#entries = this.#entries.slice(this.#head);
    this.#head = 0;
  }
}
