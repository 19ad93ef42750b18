/**
 * The records of the kernel engine's maps (maps.ts), field by field: what the eBPF programs (program.ts) and the engine both read and
 * write. A change of a layout is a change of LAYOUT_VERSION, since maps outlive the process that made them.
 *
 * Who writes what. The engine: settings, ports (but see PORT.repliesTo), listeners, rules, pools, snapshots, endpoints, pin_views. The
 * programs: all others. The engine never writes those; what it wants done to a session it asks of the program `steward` (program-steward.ts),
 * so that all bookkeeping is in one place and exact.
 *
 * A ports field named `...Port` is in host order. Times are in ns of CLOCK_MONOTONIC (but see SETTINGS.fixedClockNs).
 */
import { MAGLEV_SLOTS, MAX_BACKENDS, MAX_WEIGHT } from '../../core/limits.ts';
import { ADDRESS, struct, U16, U32, U64, U8 } from './struct.ts';

/** Version of all layouts together: pinned maps of another version can't be adopted. */
export const LAYOUT_VERSION = 6;

// ---- what the engine decides -----------------------------------------------------------------------------------------

/** The one record of `settings`. */
export const SETTINGS = struct({
  layoutVersion: U32,
  /** Not 0: no new sessions. */
  draining: U32,
  /** 0: time is CLOCK_MONOTONIC. Else it is this, and stands still: for tests that let time pass. */
  fixedClockNs: U64,
  /** How long a reverse record rests after its session left it (UPSTREAM_QUARANTINE_MS). */
  quarantineNs: U64,
  /** Reverse records that may rest at once; more are forgotten at once. At most maxSessions. */
  maxResting: U32,
  /** Seed of ip-hash. */
  hashSeed: U32,
  /** Places of `half_open`, a power of two, less 1. Of the maps' maker. */
  halfOpenMask: U32,
  /** Places of `rests`. Of the maps' maker. */
  restPlaces: U32,
});

/** Bits of a record of `ports` (index: the port): which lookups a datagram from or to it is worth. */
export const PORT = struct({
  flags: U16,
  /** With PORT_RELAY: the listener whose relay port it is. */
  listener: U16,
  /** With PORT_LISTENER, UDP only: a listener that has it, to be tried before `listeners` is asked. */
  firstListener: U16,
  /**
   * With PORT_BACKEND, UDP only: the one listener with sourceAddress `client` whose sessions came to backends with this port, + 1; 0
   * for none, SEVERAL_LISTENERS for more. The programs write it, and look for the session of a reply there first; no more than a guess,
   * which a listener that goes has begin anew.
   */
  repliesTo: U16,
});
export const SEVERAL_LISTENERS = 0xffff;
/** Some listener has exactly this port, on one address. */
export const PORT_LISTENER = 1;
/** Some listener has this port on `::`. */
export const PORT_ANY = 2;
/** Some listener has this port on `0.0.0.0`. */
export const PORT_ANY_V4 = 4;
/**
 * Some backend has this port, or had. The mark stays: replies of a backend that left must be known for as long as a session, a TCP
 * connection or a resting record leads to it, days with a long idle timeout, and nothing says when the last of those is gone. Where
 * nobody is left the mark costs a packet with this port one look-up, and changes nothing of what becomes of it.
 */
export const PORT_BACKEND = 8;
/** It is one of the relay ports of a listener with sourceAddress `relay`. */
export const PORT_RELAY = 16;

/** Key of `listeners`: the public address, or `::`, or `::ffff:0.0.0.0`. */
export const LISTENER_KEY = struct({ address: ADDRESS, port: U32 });
/** Value of `listeners`. */
export const LISTENER = struct({ index: U32 });

/** Algorithms by number, in `rules`. */
export const ALGORITHM_NUMBERS = { 'ip-hash': 0, 'least-connections': 1, 'round-robin': 2 } as const;
/** sourceAddress by number, in `rules`. */
export const SOURCE_CLIENT = 0;
export const SOURCE_RELAY = 1;

/** `rules`, by listener index. */
export const RULES = struct({
  /** The listener's own address; all zero where no listener is. */
  local: ADDRESS,
  localPort: U32,
  reserved: U32,
  /** Index in `pools`. */
  pool: U32,
  algorithm: U32,
  /** SOURCE_CLIENT or SOURCE_RELAY. */
  sourceAddress: U32,
  /** Live sessions of one client IP; 0: no bound. */
  sessionsPerSource: U32,
  idleTimeoutNs: U64,
  pinTimeoutNs: U64,
  /** 1e9 / sessionRatePerSource, or 0: no bound. */
  sourceTokenNs: U64,
  /** (max(1, sessionRatePerSource) - 1) * sourceTokenNs. */
  sourceBurstNs: U64,
  /** 1e9 / sessionRate, or 0: no bound. */
  listenerTokenNs: U64,
  /** (max(1, sessionRate) - 1) * listenerTokenNs. */
  listenerBurstNs: U64,
  /** Bytes towards a half-open session for each byte of its client; 0: no bound. */
  amplification: U32,
  /** With SOURCE_RELAY: the relay ports are this and the next `relayPorts` - 1. */
  firstRelayPort: U16,
  relayPorts: U16,
  /** The expected time between two datagrams of a player, for the gaps and the inter-arrival histogram. */
  tickNs: U64,
  /** With SOURCE_RELAY: the relay's own addresses towards backends, v4-mapped and IPv6; zero where there is none. */
  relayV4: ADDRESS,
  relayV6: ADDRESS,
});

/** `pools`, by pool index: which of the pool's two snapshots counts. The switch of a publication. */
export const POOL = struct({ half: U32 });

/** Slots in ascending order, and so on: most entries that a pool can have in the order of round-robin. */
const MAX_ROTATION = MAX_BACKENDS * MAX_WEIGHT;

/** A backend in a snapshot; all zero where there is none. */
export const BACKEND = struct({
  address: ADDRESS,
  port: U16,
  weight: U16,
  /** The reference if the backend is usable (ready or draining), else 0. */
  usable: U32,
  /** Its reference, usable or not. */
  ref: U32,
  /** Its index in `ready`, if it is there. */
  readyIndex: U32,
});

/**
 * The one record of an inner map of `snapshots`, whose index is pool * 2 + half: a PoolSnapshot. The engine writes the half
 * that is not in force, then flips `pools`.
 */
export const SNAPSHOT = struct({
  readyCount: U32,
  rotationLength: U32,
  /** Slots that may hold a backend: the highest slot + 1. */
  slots: U32,
  epoch: U32,
  /** BACKEND by slot. */
  backends: MAX_BACKENDS * BACKEND.size,
  /** u16 slots. */
  ready: MAX_BACKENDS * U16,
  /** u16 slots; meaningless when readyCount is 0. Padded to a multiple of 8 bytes. */
  maglev: (MAGLEV_SLOTS + 3) * U16,
  /** u16 slots. */
  rotation: MAX_ROTATION * U16,
});

/** Key of `endpoints`: the backends of all pools by address, to tell a late reply from a stranger's. The value is not 0. */
export const ENDPOINT_KEY = struct({ address: ADDRESS, port: U16, pool: U16 });
export const ENDPOINT = struct({ present: U32 });

/** Two references of one backend, or 0 where there is none: the one that the entry is found by, and the other one. */
export const PIN_VIEW_ENTRY = struct({ own: U32, other: U32 });

/** Value of `pin_views`, whose key is a listener index: the listener's pool as its pin group sees it. None: no group. */
export const PIN_VIEW = struct({
  /** In PIN_KEY.listener: MAX_LISTENERS or above, so that it is no listener's. */
  scope: U32,
  reserved: U32,
  /** By slot of the group: its reference, and the pool's where the backend is usable. */
  groups: MAX_BACKENDS * PIN_VIEW_ENTRY.size,
  /** By slot of the pool: its reference, and the group's. */
  backends: MAX_BACKENDS * PIN_VIEW_ENTRY.size,
});

// ---- what the programs keep ------------------------------------------------------------------------------------------

/** Key of `sessions`. */
export const SESSION_KEY = struct({ address: ADDRESS, port: U16, listener: U16 });

/** The interval at which players are expected to send, for the figures of their pacing: 128 datagrams a second. */
export const TICK_NS = 1e9 / 128;

/** Buckets of `interArrival`: a bucket for each power of two around the tick; the first and the last are open. */
export const INTER_ARRIVAL_BUCKETS = 8;
/** The bucket of intervals within a factor of sqrt(2) of the tick. */
export const INTER_ARRIVAL_TICK_BUCKET = 4;

/**
 * Value of `sessions`, in the order of need, since a player's record is seldom in a cache: what every datagram needs, in the 56 bytes
 * behind the key; what those from the client need besides, in 64; the rest. So a reply touches two or three cache lines of the
 * element, which has 48 bytes of the system's before its key.
 */
export const SESSION = struct({
  /** Backend reference. */
  ref: U32,
  /** 1 when the reverse record of its backend and this client leads here, else 0. */
  attached: U8,
  /** 1 from a datagram of the client on until there is a reply. */
  awaitsReply: U8,
  localPort: U16,
  /** Last datagram from the client. */
  lastSeenNs: U64,
  datagramsDownstream: U64,
  datagramsUpstream: U64,
  bytesUpstream: U64,
  /** The address that the client contacted, from which replies leave. */
  local: ADDRESS,

  bytesDownstream: U64,
  /** The backend's address, and how the backend sees the client: with `seen` the key of the reverse record. */
  backend: ADDRESS,
  backendPort: U16,
  seenPort: U16,
  /** Intervals of more than two ticks between datagrams from the client. */
  gaps: U32,
  /** u32 counts of intervals between datagrams from the client. */
  interArrival: INTER_ARRIVAL_BUCKETS * U32,

  openedNs: U64,
  seen: ADDRESS,
  /** Its place among the half-open (HALF_OPEN), or 0. */
  place: U32,
  /** With SOURCE_RELAY: the interface that the client's last datagram came in on. */
  interface: U32,
  /** When it was given its reverse record: the same as there, or the record is not this session's. */
  attachedNs: U64,
});

/** Key of `reverse`: a backend, and how it sees the client. */
export const REVERSE_KEY = struct({ backend: ADDRESS, seen: ADDRESS, backendPort: U16, seenPort: U16 });

/** Value of `reverse`. */
export const REVERSE = struct({
  /** SESSION_KEY of the session that the replies are for. */
  session: SESSION_KEY.size,
  /** Backend reference of the session at the time. */
  ref: U32,
  /** As in SESSION, which alone changes when the session ends: the record then rests, so that late replies are known (REST). */
  attachedNs: U64,
});

/** Key of `pins`. Instead of a listener's index: the scope of a pin group. */
export const PIN_KEY = struct({ address: ADDRESS, listener: U32 });

/** Value of `pins`. */
export const PIN = struct({
  ref: U32,
  /** Live sessions. */
  live: U32,
  /** 1 once a session of this client came past half-open. */
  confirmed: U32,
  reserved: U32,
  /** Opening or end of a session. */
  lastUsedNs: U64,
  /** When the client IP's tokens for new sessions are full again. */
  tokensFullNs: U64,
});

/** `listener_state`, by listener index. */
export const LISTENER_STATE = struct({
  /** When the listener's tokens for new sessions are full again. */
  tokensFullNs: U64,
  /** Turns of round-robin. */
  turns: U32,
  reserved: U32,
});

/**
 * A u64 of `live`, by pool index; MAX_BACKENDS of them, by slot: live sessions of the backend with this reference. A new
 * incarnation starts from 0 with its first session, so whoever reads compares the reference first.
 */
export const LIVE = struct({ sessions: U32, ref: U32 });

/** Buckets of `replyTime`: bucket i counts times below 2^(i + 11) ns (2 us, 4 us...), the last one the rest. */
export const REPLY_TIME_BUCKETS = 24;

/** `figures`, by pool index * MAX_BACKENDS + slot: since the backend's slot was last given away. */
export const FIGURES = struct({
  /** u64 counts of times from a client's datagram to its backend's next reply. */
  replyTime: REPLY_TIME_BUCKETS * U64,
  replyTimeSumNs: U64,
  datagramsDownstream: U64,
  bytesDownstream: U64,
  datagramsUpstream: U64,
  bytesUpstream: U64,
  /** As in SESSION, of all its players: u64 counts. */
  gaps: U64,
  interArrival: INTER_ARRIVAL_BUCKETS * U64,
});

/** The one record of `gauges`. */
export const GAUGES = struct({
  sessions: U64,
  pins: U64,
  /** Of a count that nobody read; it may go with the next version of the layouts. */
  reserved: U64,
});

/** `half_open`, by place & SETTINGS.halfOpenMask: sessions in the order of their opening (program-half-open.ts). */
export const HALF_OPEN = struct({
  /** Places count from 1. */
  place: U32,
  /** 0: the session is half-open. Else how many from this place on are not, itself included: as many as are known. */
  run: U32,
  /** The same backwards. */
  back: U32,
  session: SESSION_KEY.size,
});

/** The one record of `half_open_ends`. */
export const HALF_OPEN_ENDS = struct({
  /** Places that were given away, ever. */
  openings: U64,
  /** Of those, the ones that no half-open session has any more. */
  looked: U64,
});

/**
 * `rests`, by number % SETTINGS.restPlaces: reverse records that their session left, in the order of time, until they are forgotten.
 * The record itself says nothing of it, so that the end of a session need not look for it.
 */
export const REST = struct({
  /** 0 where nothing is, or not yet. */
  leftNs: U64,
  /** If the record has another one by now, it is in use again, or rests again further on. */
  attachedNs: U64,
  key: REVERSE_KEY.size,
  reserved: U32,
});

/** The one record of `rest_ends`. */
export const REST_ENDS = struct({
  /** How many have come to rest, ever. */
  rested: U64,
  /** How many of those are at an end. */
  over: U64,
});

/** What the steward does to the record that a request names. */
export const STEWARD = {
  /** Ends the session if it is idle for its listener's timeout; counted as expired. */
  expireSession: 0,
  /** Ends the session; not counted. */
  endSession: 1,
  /** Forgets the pin if it has no session and its timeout is over. */
  expirePin: 2,
  /** Forgets the pin. */
  endPin: 3,
  /** Names none: the first of `rests` is at an end if its quarantine is over. */
  endRest: 4,
  /** Makes a pin of a group, or changes it, unless it is another one than expected by now. The key is a PIN_CLAIM. */
  claimPin: 5,
} as const;

/** A PIN_KEY, and what becomes of that pin. */
export const PIN_CLAIM = struct({
  address: ADDRESS,
  listener: U32,
  /** The reference that it has, or 0: there is none. */
  expected: U32,
  ref: U32,
  /** A u64 in two halves, low and high. */
  lastUsedNsLow: U32,
  lastUsedNsHigh: U32,
});

/** A request to the steward: what to do, and the key of the session, the pin or the reverse record. */
export const REQUEST = struct({ operation: U32, key: REVERSE_KEY.size });
/** Most requests of one run. */
export const MAX_REQUESTS = 1_024;

/**
 * The one record of `requests`. The steward does one request each time it runs, so `count` of them are one
 * BPF_PROG_TEST_RUN with `repeat` = `count`.
 */
export const REQUESTS = struct({
  /** The next request to do; the engine sets it to 0. */
  cursor: U32,
  count: U32,
  /** How many changed anything; the engine sets it to 0. */
  done: U32,
  reserved: U32,
  /** REQUEST records. */
  requests: MAX_REQUESTS * REQUEST.size,
});
