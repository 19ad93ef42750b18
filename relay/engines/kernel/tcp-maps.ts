/**
 * The maps of TCP listeners. What they share with UDP, the pools' snapshots, settings and programs' own small things, is in
 * maps.ts and records.ts, and so are the rules that hold here too: who writes what, host order, times in ns.
 *
 * The engine writes tcp_ports, tcp_listeners, tcp_rules, tcp_programs, tcp_errors, tcp_names and `cap` in tcp_live; the programs write all
 * others.
 */
import {
  BPF_F_MMAPABLE,
  BPF_F_NO_PREALLOC,
  BPF_MAP_TYPE_ARRAY,
  BPF_MAP_TYPE_HASH,
  BPF_MAP_TYPE_LRU_HASH,
  BPF_MAP_TYPE_PERCPU_ARRAY,
  BPF_MAP_TYPE_PROG_ARRAY,
  BPF_MAP_TYPE_QUEUE,
} from '../../../net/linux/abi.ts';
import { CLOSE_REASONS, type CloseReason } from '../../core/close-reason.ts';
import { MAX_BACKENDS, MAX_LISTENERS } from '../../core/limits.ts';
import type { MapSpec } from './loader.ts';
import { ADDRESS, struct, U16, U32, U64 } from './struct.ts';

/** `tcp_rules`, by listener index. */
export const TCP_RULES = struct({
  /** Index in `pools`. */
  pool: U32,
  algorithm: U32,
  /** Open connections of the listener. */
  maxConnections: U32,
  /** Open connections of one client IP; 0: no bound. */
  connectionsPerSource: U32,
  /** 1e9 / connectionRatePerSource, or 0: no bound. */
  sourceTokenNs: U64,
  /** (max(1, connectionRatePerSource) - 1) * sourceTokenNs. */
  sourceBurstNs: U64,
  idleTimeoutNs: U64,
  /** SOURCE_CLIENT or SOURCE_RELAY. */
  sourceAddress: U32,
  /** With SOURCE_RELAY: the relay ports are this and the next `relayPorts` - 1. */
  firstRelayPort: U16,
  relayPorts: U16,
  /** With SOURCE_RELAY: the relay's own addresses towards backends, v4-mapped and IPv6; zero where there is none. */
  relayV4: ADDRESS,
  relayV6: ADDRESS,
});

/** Key of `tcp_connections`: both ends of the client's side. */
export const TCP_KEY = struct({ contacted: ADDRESS, client: ADDRESS, contactedPort: U16, clientPort: U16 });

/**
 * States of a connection, in the order in which it passes through them. `over` and `cut` have ended and are counted; they
 * stay for TRANSITORY_NS, so that what is still under way between the two ends is known. What is `over` passes, since both ends
 * know of the end; what was `cut` is answered with RST.
 */
export const TCP_STATE = {
  /** The client's SYN was passed on. */
  opening: 1,
  /** The backend's SYN-ACK was passed on. */
  answered: 2,
  open: 3,
  over: 4,
  cut: 5,
} as const;

/** What a connection is counted in once it is open: bits. */
export const COUNTED = { listener: 1, source: 2, backend: 4 } as const;

/**
 * Value of `tcp_connections`. Sequence numbers as they stand in the segments, in host order: `next` is the one after the last
 * that this end has sent, `acked` the one that the other end awaits.
 */
export const TCP_CONNECTION = struct({
  /** Backend reference. */
  ref: U32,
  /** TCP_STATE. */
  state: U32,
  listener: U32,
  /** COUNTED. */
  counted: U32,
  id: U64,
  /** Last segment, either way. */
  lastSeenNs: U64,
  openedNs: U64,
  /** Bytes of the streams, each counted once however often it was sent. */
  bytesDownstream: U64,
  bytesUpstream: U64,
  clientNext: U32,
  backendNext: U32,
  clientAcked: U32,
  backendAcked: U32,
  /** 1 once this end's FIN has passed. */
  clientFin: U32,
  backendFin: U32,
  /** The backend's address, and how the backend sees the client: with the ports the key of the reverse record. */
  backend: ADDRESS,
  seen: ADDRESS,
  backendPort: U16,
  seenPort: U16,
  /** The interface that the client's last segment came in on. */
  interface: U32,
});

/** Key of `tcp_reverse`: a backend, and how it sees the client. The value is the connection's TCP_KEY. */
export const TCP_REVERSE_KEY = struct({ backend: ADDRESS, seen: ADDRESS, backendPort: U16, seenPort: U16 });

/** Value of `tcp_sources`, whose key is a PIN_KEY: a client IP at a listener that bounds its connections. */
export const TCP_SOURCE = struct({
  /** Open connections. */
  open: U32,
  reserved: U32,
});

/** Value of `tcp_rates`, whose key is a PIN_KEY: when the client IP's tokens for new connections are full again. */
export const TCP_RATE = struct({ tokensFullNs: U64 });

/** `tcp_state`, by listener index. */
export const TCP_LISTENER_STATE = struct({
  /** Turns of round-robin. */
  turns: U32,
  /** Open connections. */
  open: U32,
});

/** Elements of `tcp_live`, by pool index; MAX_BACKENDS of them, by slot. */
export const TCP_LIVE = struct({
  /** Connections of the incarnation `ref` that have not ended, those that open among them. */
  connections: U32,
  ref: U32,
  /** Open connections, of whichever incarnation. */
  open: U32,
  /** maxConnections of the backend; 0: no bound. The engine's. */
  cap: U32,
});

/** An element of the queue `tcp_spare`: a connection when it began to open, or when it ended. Evicted in this order. */
export const TCP_SPARE = struct({ key: TCP_KEY.size, reserved: U32, id: U64 });

/** The one record of `tcp_gauges`. */
export const TCP_GAUGES = struct({
  /** Of the next connection. */
  nextId: U64,
  /** Records in `tcp_connections`. */
  records: U64,
});

/** Ids begin here, beyond those of the connections in user space. */
export const FIRST_CONNECTION_ID = 1e12;

/** u64 counters of `tcp_counters`, by index. */
export const TCP_COUNTERS = {
  accepted: 0,
  downstreamBytes: 1,
  upstreamBytes: 2,
  /** Segments that were not passed on: fragments, and what could not be rewritten. */
  dropped: 3,
} as const;
const FIRST_REASON = 4;
export const TCP_COUNTER_COUNT = FIRST_REASON + CLOSE_REASONS.length;

/** The counter of connections that ended so. */
export function closedCounter(reason: CloseReason): number {
  return FIRST_REASON + CLOSE_REASONS.indexOf(reason);
}

/** How long half-open, closing and ended connections stay without a segment (RFC 5382 REQ-5: at least 4 minutes). */
export const TRANSITORY_NS = 240_000_000_000n;

/** What the TCP steward does to what a request names. */
export const TCP_STEWARD = {
  /** Ends the connection with a counted reason; one that only opens is forgotten, so that the client's next SYN finds another backend. */
  cut: 1,
  /** Ends or forgets the connection if its time is over. */
  expire: 2,
  /** Forgets the client IP if it has no connection. */
  endSource: 3,
} as const;

/** A request: what to do, a closedCounter where it is needed, and a TCP_KEY or PIN_KEY. The steward sets `done` to 1 if it cut the connection. */
export const TCP_REQUEST = struct({ operation: U32, reason: U32, key: TCP_KEY.size, done: U32 });
export const MAX_TCP_REQUESTS = 1_024;

/** The one record of `tcp_requests`; worked off as REQUESTS in records.ts. */
export const TCP_REQUESTS = struct({
  cursor: U32,
  count: U32,
  requests: MAX_TCP_REQUESTS * TCP_REQUEST.size,
});

/** Indexes of `tcp_programs` and `tcp_errors`: by hook, and by whether the interface has an Ethernet header. */
export function tcpProgramIndex(hook: 'ingress' | 'egress', linkHeaderBytes: number): number {
  return (hook === 'ingress' ? 0 : 2) + (linkHeaderBytes === 0 ? 1 : 0);
}

export type TcpMapName =
  | 'tcp_ports'
  | 'tcp_listeners'
  | 'tcp_rules'
  | 'tcp_programs'
  | 'tcp_errors'
  | 'tcp_names'
  | 'tcp_connections'
  | 'tcp_reverse'
  | 'tcp_sources'
  | 'tcp_rates'
  | 'tcp_state'
  | 'tcp_live'
  | 'tcp_spare'
  | 'tcp_gauges'
  | 'tcp_counters'
  | 'tcp_requests';

/** Bytes of a name in `tcp_names` and `names`: NAME_PATTERN of the configuration allows 64 characters, and an identity has two. */
export const NAME_BYTES = 256;

/** Client IPs whose rate is remembered; of more, those that were silent longest are forgotten. */
const MAX_RATES = 16_384;

export function tcpMapSpecs({
  maxSessions,
  maxPools,
}: {
  readonly maxSessions: number;
  readonly maxPools: number;
}): Readonly<Record<TcpMapName, MapSpec>> {
  const array = (name: TcpMapName, valueSize: number, maxEntries: number): MapSpec => ({
    name,
    type: BPF_MAP_TYPE_ARRAY,
    keySize: U32,
    valueSize,
    maxEntries,
    flags: BPF_F_MMAPABLE,
  });
  // Memory is taken as connections come: most relays have none of them.
  const hash = (name: TcpMapName, keySize: number, valueSize: number, maxEntries = maxSessions): MapSpec => ({
    name,
    type: BPF_MAP_TYPE_HASH,
    keySize,
    valueSize,
    maxEntries,
    flags: BPF_F_NO_PREALLOC,
  });
  const programs = (name: TcpMapName): MapSpec => ({
    name,
    type: BPF_MAP_TYPE_PROG_ARRAY,
    keySize: U32,
    valueSize: U32,
    maxEntries: 4,
  });
  const source = ADDRESS + U32;
  return {
    tcp_ports: array('tcp_ports', 2 * U16, 65_536),
    tcp_listeners: hash('tcp_listeners', ADDRESS + U32, U32, MAX_LISTENERS),
    tcp_rules: array('tcp_rules', TCP_RULES.size, MAX_LISTENERS),
    tcp_programs: programs('tcp_programs'),
    tcp_errors: programs('tcp_errors'),
    tcp_names: array('tcp_names', NAME_BYTES, MAX_LISTENERS),
    tcp_connections: hash('tcp_connections', TCP_KEY.size, TCP_CONNECTION.size),
    tcp_reverse: hash('tcp_reverse', TCP_REVERSE_KEY.size, TCP_KEY.size),
    tcp_sources: hash('tcp_sources', source, TCP_SOURCE.size),
    tcp_rates: {
      name: 'tcp_rates',
      type: BPF_MAP_TYPE_LRU_HASH,
      keySize: source,
      valueSize: TCP_RATE.size,
      maxEntries: MAX_RATES,
    },
    tcp_state: array('tcp_state', TCP_LISTENER_STATE.size, MAX_LISTENERS),
    tcp_live: array('tcp_live', MAX_BACKENDS * TCP_LIVE.size, maxPools),
    tcp_spare: {
      name: 'tcp_spare',
      type: BPF_MAP_TYPE_QUEUE,
      keySize: 0,
      valueSize: TCP_SPARE.size,
      // A connection is in it when it opens, and once more when it has ended.
      maxEntries: 2 * maxSessions,
    },
    tcp_gauges: array('tcp_gauges', TCP_GAUGES.size, 1),
    tcp_counters: {
      name: 'tcp_counters',
      type: BPF_MAP_TYPE_PERCPU_ARRAY,
      keySize: U32,
      valueSize: TCP_COUNTER_COUNT * U64,
      maxEntries: MAX_LISTENERS,
    },
    tcp_requests: array('tcp_requests', TCP_REQUESTS.size, 1),
  };
}
