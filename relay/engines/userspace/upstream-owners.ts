/**
 * Which session owns an upstream socket towards a backend: one flat array, socket by socket, so that a reply's session is one
 * look away. It grows to the greatest socket number and backend slot that were ever there.
 */
import assert from 'node:assert/strict';

/** Nobody owns the socket towards this slot. */
export const NO_OWNER = -1;

export class UpstreamOwners {
  #slots = 8;
  #sockets = 64;
  #sessions = new Int32Array(this.#sockets * this.#slots).fill(NO_OWNER);

  /** The session that owns the socket towards a slot that `makeRoom` knows, or NO_OWNER. */
  get(socket: number, slot: number): number {
    return this.#sessions[socket * this.#slots + slot]!;
  }

  set(socket: number, slot: number, session: number): void {
    assert(socket < this.#sockets && slot < this.#slots);
    this.#sessions[socket * this.#slots + slot] = session;
  }

  /** The owners of a socket by slot; a view. */
  of(socket: number): Int32Array {
    return this.#sessions.subarray(socket * this.#slots, (socket + 1) * this.#slots);
  }

  /** Makes room for this many sockets and slots. */
  makeRoom({ sockets = 0, slots = 0 }): void {
    if (sockets <= this.#sockets && slots <= this.#slots) return;
    const before = { sessions: this.#sessions, slots: this.#slots, sockets: this.#sockets };
    while (this.#slots < slots) this.#slots *= 2;
    while (this.#sockets < sockets) this.#sockets *= 2;
    this.#sessions = new Int32Array(this.#sockets * this.#slots).fill(NO_OWNER);
    for (let socket = 0; socket < before.sockets; socket++) {
      const from = socket * before.slots;
      this.#sessions.set(before.sessions.subarray(from, from + before.slots), socket * this.#slots);
    }
  }
}
