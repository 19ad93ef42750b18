/**
 * Every bound of the relay in one place, with its unit and its reason. What an operator may change is a default here
 * and a key in docs/configuration.md; the rest are properties of the data structures.
 */

/** Slots of the Maglev table. Prime, and large enough for 1 % balance among some hundred backends (Maglev, section 5.3). */
export const MAGLEV_SLOTS = 65_537;

/** Backends in one pool. A backend reference gives the slot 10 bits (backend-ref.ts). */
export const MAX_BACKENDS = 1_024;

/** Weight of one backend, 1 to this. Weights are relative; more steps than this say nothing. */
export const MAX_WEIGHT = 256;

/** Listeners in one relay. The session key gives the listener 16 bits; the sockets run out long before. */
export const MAX_LISTENERS = 256;

/** Pools that the engine `kernel` has places for. A place takes 0.3 MB of kernel memory, and 1.4 MB more once a pool had it. */
export const MAX_KERNEL_POOLS = 64;

/** Records in one table: at half full and 64 bytes a place, a table of 1 GiB. */
export const MAX_RECORDS = 1 << 23;

/** Sessions of one engine by default. With its share of the pin table a session takes 384 bytes: 24 MiB in all. */
export const DEFAULT_MAX_SESSIONS = 65_536;

/** Idle time of a UDP session by default, in ms. RFC 4787 REQ-5 asks for at least two minutes. */
export const DEFAULT_IDLE_TIMEOUT_MS = 120_000;

/** How long a pin outlives the client's last session, in ms: a player who reconnects within it finds the same server. */
export const DEFAULT_PIN_TIMEOUT_MS = 600_000;

/** Sessions of one client IP on one listener by default: two hundred players behind one IP all play, with room. */
export const DEFAULT_SESSIONS_PER_SOURCE = 1_024;

/** Upstream sockets of the relay by default. Each is a descriptor; one serves as many sessions as the pool has backends. */
export const DEFAULT_MAX_UPSTREAM_SOCKETS = 16_384;

/** Upstream sockets that a configuration may allow: their numbers are of 20 bits (session-table.ts). */
export const MAX_UPSTREAM_SOCKETS = 1_000_000;

/** How long an upstream socket rests, in ms, before another session may use it towards the same backend: longer than a late reply. */
export const UPSTREAM_QUARANTINE_MS = 30_000;

/** Upstream sockets that stand ready on each listener (of each worker), for the players who join next: at least, and at most. */
export const UPSTREAM_RESERVE = { least: 16, most: 256 };

/** The reserve is at most this part of the upstream sockets: an eighth. */
export const UPSTREAM_RESERVE_SHARE = 8;

/**
 * Upstream sockets that one sweep step opens and closes, 20 steps a second. Opening one takes 35 to 80 us, closing it 5 to
 * 15 us, so that a step holds up datagrams for well under a millisecond.
 */
export const UPSTREAM_OPENS_PER_SWEEP = 8;
export const UPSTREAM_CLOSES_PER_SWEEP = 64;

/** Ports of the relay towards backends with sourceAddress `relay` by default: those above Linux's ephemeral ones. */
export const DEFAULT_RELAY_PORTS = { first: 61_000, last: 65_535 } as const;

/** Where distributions mount the BPF file system. */
export const DEFAULT_BPFFS = '/sys/fs/bpf';

/** Places that one sweep step visits, so that a large table never holds up datagrams for long. */
export const SWEEP_BUDGET = 4_096;

/** Places of a full table, or upstream sockets, that are looked at for a half-open session to evict. */
export const EVICTION_BUDGET = 128;

/** Receive buffer of a UDP listener's sockets by default, in bytes: what arrives while the relay is busy waits in it. */
export const DEFAULT_RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;

/** TCP connections of one listener by default. Each takes two descriptors and at most two stream buffers. */
export const DEFAULT_MAX_CONNECTIONS = 10_000;

/** Idle time of a TCP connection by default, in ms: 2 h 4 min (RFC 5382 REQ-5). */
export const DEFAULT_TCP_IDLE_TIMEOUT_MS = (2 * 60 + 4) * 60_000;

/** Time for a TCP connection to a backend to open, in ms. */
export const DEFAULT_CONNECT_TIMEOUT_MS = 3_000;

/** TCP connections of one listener that may wait for a limit at most. Each takes a descriptor. */
export const MAX_QUEUE = 65_536;

/** Time for a trusted proxy's PROXY header by default, in ms: more than the retransmission of a lost packet takes. */
export const DEFAULT_PROXY_HEADER_TIMEOUT_MS = 5_000;

/** How long a TCP connection waits for a limit by default, in ms: as long as a person waits for a login. */
export const DEFAULT_QUEUE_TIMEOUT_MS = 5_000;
