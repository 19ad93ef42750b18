/** What an operator may set of a TCP listener, in the relay's units. docs/configuration.md describes the keys. */
import type { Cidr, Endpoint } from '../../net/address.ts';
import type { Algorithm } from '../core/select.ts';
import type { ProxyVersion } from './proxy-header.ts';

/** What a connection obeys; its listener may change the values while it lives. */
export interface TcpConnectionRules {
  /** For each of at most two attempts. */
  readonly connectTimeoutMs: number;
  /** Time without a byte in either direction after which a connection ends. */
  readonly idleTimeoutMs: number;
  /** Silence before the system probes whether the other end is still there; 0 means never. */
  readonly keepAliveMs: number;
  /** How long a backend takes from coming up to its whole share of new connections. */
  readonly slowStartMs: number;
  /** The PROXY header that a backend gets before the client's bytes. */
  readonly proxyProtocol: { readonly send: ProxyVersion | 'none' };
}

/** A public TCP address and the rules of its connections. */
export interface TcpListenerSpec extends TcpConnectionRules {
  readonly name: string;
  readonly listen: Endpoint;
  readonly pool: string;
  readonly algorithm: Algorithm;
  /** Name of the group whose listeners share the pins of client IPs; absent: this one has no pins. */
  readonly pinGroup?: string | undefined;
  /** Connections of this listener that are let in. */
  readonly maxConnections: number;
  readonly limits: TcpLimits;
  /** Where a connection waits for the limit that it met. */
  readonly queue: {
    /** 0: none waits, all are refused. */
    readonly size: number;
    readonly timeoutMs: number;
  };
  readonly proxyProtocol: ProxyProtocolRules;
}

/** How the relay learns, and tells, who a client is when proxies stand between (proxy-header.ts). */
export interface ProxyProtocolRules {
  /** Proxies that must begin with a header; nobody else's is read. */
  readonly accept: readonly Cidr[];
  /** Time for the header to be complete. */
  readonly timeoutMs: number;
  readonly send: ProxyVersion | 'none';
}

/** Of one client IP; 0 means no bound. */
export interface TcpLimits {
  /** Connections let in; as many again may wait. */
  readonly connectionsPerSource: number;
  /** New connections a second, with a burst of one second's worth. */
  readonly connectionRatePerSource: number;
}
