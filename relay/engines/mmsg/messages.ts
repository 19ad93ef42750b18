/**
 * What the engine and its worker threads say to each other. Messages are copied, so endpoints travel as text and snapshots
 * without their functions; counters do not travel at all: they are in shared memory.
 */
import { Endpoint } from '../../../net/address.ts';
import type { LiveSessions } from '../../core/listener-state.ts';
import type { PinGroupSpec, PinRequest } from '../../core/pin-group.ts';
import type { PlainSnapshot } from '../../core/plain-snapshot.ts';
import type { SessionListing, SessionQuery, UdpListenerSpec } from '../engine.ts';

export interface WorkerSettings {
  readonly maxSessions: number;
  readonly maxUpstreamSockets: number;
  readonly upstreamQuarantineMs: number | undefined;
  readonly hashSeed: number;
  readonly tableSeed: number;
  readonly coalesceUs: number;
  /** Whether to use io_uring. */
  readonly ring: boolean;
  /** Where the worker notes its descriptors (net/linux/poller.ts). */
  readonly descriptors: Uint8Array;
  /** Where it notes what else it has: see FIGURES. */
  readonly figures: Float64Array;
  /** A clock of the caller's in ms, in shared memory; absent: the system's. */
  readonly clock: Float64Array | undefined;
}

/** Layout of `figures`. From `memory` on: address and size of each piece of native memory; size 0: no more. */
export const FIGURES = { livePins: 0, pools: 1, memory: 2, count: 8 } as const;

/** Every message is a request, and is answered with its number. */
export type ToWorker =
  | {
      readonly kind: 'publish';
      readonly request: number;
      readonly snapshot: PlainSnapshot;
      readonly live: LiveSessions;
    }
  | {
      readonly kind: 'add';
      readonly request: number;
      readonly spec: PlainSpec;
      /** Of the spec's pool; the same as was published with it. */
      readonly live: LiveSessions;
      readonly fd: number;
      readonly counters: Float64Array;
      readonly turns: Int32Array;
    }
  | { readonly kind: 'update'; readonly request: number; readonly spec: PlainSpec }
  | { readonly kind: 'remove'; readonly request: number; readonly name: string }
  | { readonly kind: 'sessions'; readonly request: number; readonly query: SessionQuery }
  | { readonly kind: 'pin-groups'; readonly request: number; readonly groups: readonly PinGroupSpec[] }
  | { readonly kind: 'pin'; readonly request: number; readonly pin: PinRequest }
  | {
      readonly kind: 'let-pin-go';
      readonly request: number;
      readonly group: string;
      readonly client: Uint32Array;
    }
  | { readonly kind: 'sweep'; readonly request: number }
  | { readonly kind: 'drain'; readonly request: number }
  | { readonly kind: 'close'; readonly request: number };

/** What some requests are answered with. */
export interface Answer {
  readonly listing?: SessionListing;
  /** Id of the backend that a pin names. */
  readonly backend?: string;
}

export type FromWorker =
  | { readonly kind: 'online'; readonly wakeFd: number }
  | { readonly kind: 'done'; readonly request: number; readonly answer: Answer }
  | { readonly kind: 'failed'; readonly request: number; readonly reason: string }
  | { readonly kind: 'trouble'; readonly reason: string };

export type PlainSpec = Omit<UdpListenerSpec, 'listen'> & { readonly listen: string };

export function toPlainSpec(spec: UdpListenerSpec): PlainSpec {
  const { name, pool, algorithm, pinGroup, idleTimeoutMs, pinTimeoutMs, limits, receiveBufferBytes } = spec;
  const listen = spec.listen.toString();
  return { name, pool, algorithm, pinGroup, idleTimeoutMs, pinTimeoutMs, limits, receiveBufferBytes, listen };
}

export function fromPlainSpec(plain: PlainSpec): UdpListenerSpec {
  return { ...plain, listen: Endpoint.parse(plain.listen) };
}
