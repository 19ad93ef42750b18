/**
 * What the control plane decided about a pool, as the data planes obey it: immutable, published whole, swapped in one
 * step. Slots are stable for a backend's life and reused after it; a reference (backend-ref.ts) tells the two apart.
 */
import type { Endpoint } from '../../net/address.ts';
import type { BackendRef } from './backend-ref.ts';

export type BackendState =
  /** Healthy, enabled and not draining: takes new players. */
  | 'ready'
  /** Keeps its pinned players, takes no new ones. */
  | 'draining'
  /** Failed its health check; its pins are released. */
  | 'unhealthy'
  /** Switched off by an operator; its pins are released. */
  | 'disabled';

export interface BackendEntry {
  readonly slot: number;
  readonly ref: BackendRef;
  readonly id: string;
  readonly endpoint: Endpoint;
  readonly weight: number;
  /** TCP connections that it may have at once; 0: no bound. */
  readonly maxConnections: number;
  readonly state: BackendState;
}

export interface PoolSnapshot {
  readonly pool: string;
  /** Counts up by one with every change of the pool. */
  readonly epoch: number;
  /** The pool waits for its servers to register: nobody is ready yet, and nobody is known to have left. */
  readonly isSettling?: boolean;
  /** By slot; `undefined` where no backend is. */
  readonly backends: readonly (BackendEntry | undefined)[];
  /** Current reference by slot; NO_BACKEND_REF where none is usable (neither ready nor draining). */
  readonly usable: Uint32Array;
  /** Ready slots in ascending order. */
  readonly ready: Uint16Array;
  /** Weight by slot. */
  readonly weights: Uint16Array;
  /** Remote address words by slot (4 each) and ports by slot. */
  readonly words: Uint32Array;
  readonly ports: Uint16Array;
  /** hash % 65,537 -> slot. Empty when no backend is ready. */
  readonly maglev: Uint16Array;
  /** Slots in the order that round-robin takes them, interleaved by weight. Empty when no backend is ready. */
  readonly rotation: Uint16Array;
  /** Slot of the backend with this address and port, or -1. */
  readonly slotAt: (words: Uint32Array, at: number, port: number) => number;
}
