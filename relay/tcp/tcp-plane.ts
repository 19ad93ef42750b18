/** The TCP side as the rest of the relay sees it, and which of its two forms runs here. */
import type { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import type { PoolSnapshot } from '../core/pool-snapshot.ts';
import type { TcpConnectionListing, TcpConnectionQuery } from './connection-table.ts';
import type { SharedPins } from './shared-pins.ts';
import { TcpEngine } from './tcp-engine.ts';
import type { TcpListenerStatus } from './tcp-listener.ts';
import type { TcpLog } from './tcp-log.ts';
import type { TcpListenerSpec } from './tcp-rules.ts';
import type { TransportName } from './transport.ts';
import { ThreadedTcpEngine } from './worker/threaded-tcp-engine.ts';

/** The same shape as the UDP engines (relay/engines/engine.ts); what each method does stands at TcpEngine. */
export interface TcpPlane {
  readonly transport: TransportName;
  addListener(spec: TcpListenerSpec): Promise<Endpoint>;
  updateListener(spec: TcpListenerSpec): Promise<void>;
  removeListener(name: string): Promise<void>;
  /** @returns resolves when the TCP side obeys */
  publish(snapshot: PoolSnapshot): Promise<void>;
  listeners(): readonly TcpListenerStatus[];
  connections(query: TcpConnectionQuery): TcpConnectionListing | Promise<TcpConnectionListing>;
  closeConnection(id: number): boolean | Promise<boolean>;
  drain(): Promise<void>;
  close(): Promise<void>;
}

export interface TcpPlaneOptions {
  readonly logger?: TcpLog | undefined;
  readonly hashSeed: number;
  /** Only what every system with Node has. */
  readonly isPortable: boolean;
  readonly pins?: SharedPins;
  readonly onConnectOutcome: (
    pool: string,
    backend: { readonly id: string },
    failure: string | undefined,
  ) => void;
}

/** @returns the TCP side, and why it is this one */
export function openTcpPlane({ isPortable, ...options }: TcpPlaneOptions): {
  readonly plane: TcpPlane;
  readonly reason: string;
} {
  if (isPortable) return { plane: new TcpEngine(options), reason: 'the engine dgram is the portable one' };
  const loaded = loadLibc();
  if ('unavailable' in loaded) return { plane: new TcpEngine(options), reason: loaded.unavailable };
  return {
    plane: new ThreadedTcpEngine({ ...options, libc: loaded.libc }),
    reason: 'system calls over one epoll in a worker thread',
  };
}
