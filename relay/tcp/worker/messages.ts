/**
 * What the main thread and the TCP worker say to each other. Messages are copied, so endpoints travel as text and snapshots without
 * their functions; counters do not travel at all: they are in shared memory.
 */
import { Cidr, Endpoint } from '../../../net/address.ts';
import type { PinRequest } from '../../core/pin-group.ts';
import type { PlainSnapshot } from '../../core/plain-snapshot.ts';
import type { TcpConnectionQuery } from '../connection-table.ts';
import type { TcpListenerSpec } from '../tcp-rules.ts';

export interface TcpWorkerSettings {
  readonly hashSeed: number;
  /** Byte d is 1 while descriptor d is open: they outlive the thread. */
  readonly descriptors: Uint8Array;
  /** Addresses of the memory that bytes are read to, which outlives it too. */
  readonly chunks: Float64Array;
  /** One number: the id of the last connection. */
  readonly ids: Float64Array;
}

export type ToTcpWorker =
  | { readonly kind: 'publish'; readonly snapshot: PlainSnapshot }
  | {
      readonly kind: 'add';
      readonly spec: PlainTcpSpec;
      /** Listens on the spec's address. */
      readonly fd: number;
      /** Of the listener's counters. */
      readonly cells: Float64Array;
    }
  | { readonly kind: 'update'; readonly spec: PlainTcpSpec }
  | { readonly kind: 'remove'; readonly name: string }
  | { readonly kind: 'connections'; readonly query: TcpConnectionQuery }
  | { readonly kind: 'close-connection'; readonly id: number }
  | { readonly kind: 'drain' }
  | { readonly kind: 'close' };

export type ToMainThread =
  /** Writing to this descriptor wakes the worker. */
  | { readonly kind: 'online'; readonly wakeFd: number }
  | {
      readonly kind: 'log';
      readonly level: 'info' | 'warn';
      readonly fields: Readonly<Record<string, unknown>>;
      readonly text: string;
    }
  /** Answered with the id of a backend, or undefined. */
  | { readonly kind: 'pin'; readonly pin: PinRequest }
  | { readonly kind: 'let-pin-go'; readonly group: string; readonly client: Uint32Array }
  | {
      readonly kind: 'outcome';
      readonly pool: string;
      /** Id. */
      readonly backend: string;
      readonly failure: string | undefined;
    };

export type PlainTcpSpec = Omit<TcpListenerSpec, 'listen' | 'proxyProtocol'> & {
  readonly listen: string;
  readonly proxyProtocol: Omit<TcpListenerSpec['proxyProtocol'], 'accept'> & {
    readonly accept: readonly string[];
  };
};

export function toPlainTcpSpec(spec: TcpListenerSpec): PlainTcpSpec {
  const { listen, proxyProtocol, ...rest } = spec;
  const accept = proxyProtocol.accept.map((block) => block.toString());
  return { ...rest, listen: listen.toString(), proxyProtocol: { ...proxyProtocol, accept } };
}

export function fromPlainTcpSpec(plain: PlainTcpSpec): TcpListenerSpec {
  const { listen, proxyProtocol, ...rest } = plain;
  const accept = proxyProtocol.accept.map((block) => Cidr.parse(block));
  return { ...rest, listen: Endpoint.parse(listen), proxyProtocol: { ...proxyProtocol, accept } };
}
