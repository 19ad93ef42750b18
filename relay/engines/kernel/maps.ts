/** Every map of the kernel engine, with its size. What stands in their records is in records.ts; TCP has its own in tcp-maps.ts. */
import {
  BPF_F_MMAPABLE,
  BPF_F_NO_PREALLOC,
  BPF_MAP_TYPE_ARRAY,
  BPF_MAP_TYPE_ARRAY_OF_MAPS,
  BPF_MAP_TYPE_HASH,
  BPF_MAP_TYPE_PERCPU_ARRAY,
  BPF_MAP_TYPE_QUEUE,
} from '../../../net/linux/abi.ts';
import { COUNTER_COUNT } from '../../core/counters.ts';
import { MAX_BACKENDS, MAX_LISTENERS } from '../../core/limits.ts';
import type { MapSpec } from './loader.ts';
import {
  ENDPOINT,
  ENDPOINT_KEY,
  FIGURES,
  GAUGES,
  HALF_OPEN,
  HALF_OPEN_ENDS,
  LISTENER,
  LISTENER_KEY,
  LISTENER_STATE,
  LIVE,
  PIN,
  PIN_KEY,
  PIN_VIEW,
  POOL,
  PORT,
  REQUESTS,
  REST,
  REST_ENDS,
  REVERSE,
  REVERSE_KEY,
  RULES,
  SESSION,
  SESSION_KEY,
  SETTINGS,
  SNAPSHOT,
} from './records.ts';
import { U32, U64 } from './struct.ts';
import { type TcpMapName, tcpMapSpecs } from './tcp-maps.ts';

export interface MapSizes {
  /** Sessions that the engine can hold. */
  readonly maxSessions: number;
  /** Pools that the engine can hold. */
  readonly maxPools: number;
}

export type MapName =
  | 'settings'
  | 'ports'
  | 'listeners'
  | 'rules'
  | 'pools'
  | 'snapshots'
  | 'endpoints'
  | 'sessions'
  | 'reverse'
  | 'pins'
  | 'pin_views'
  | 'listener_state'
  | 'live'
  | 'figures'
  | 'gauges'
  | 'half_open'
  | 'half_open_ends'
  | 'rests'
  | 'rest_ends'
  | 'pin_order'
  | 'counters'
  | 'requests'
  | TcpMapName;

/** Pins outlive sessions, so there is room for more of them (core/router.ts). */
const PINS_PER_SESSION = 2;
/** A session has one reverse record, and as many may rest (SETTINGS.maxResting). */
const REVERSES_PER_SESSION = 2;

/** Places of `half_open`: a power of two, so that places go on counting when their numbers come round. */
export function halfOpenPlaces(maxSessions: number): number {
  return 2 ** Math.ceil(Math.log2(maxSessions));
}

/** Places beyond those that may be in use (SETTINGS.maxResting): CPUs that take the last one at the same time take several. */
const SPARE_RESTS = 1_024;

/** Places of `rests`. */
export function restPlaces(maxSessions: number): number {
  return maxSessions + SPARE_RESTS;
}

/** An inner map of `snapshots`. */
export const SNAPSHOT_MAP: MapSpec = {
  name: 'snapshot',
  type: BPF_MAP_TYPE_ARRAY,
  keySize: U32,
  valueSize: SNAPSHOT.size,
  maxEntries: 1,
  flags: BPF_F_MMAPABLE,
};

/** All maps. `snapshots` is an array of maps: it is made with a SNAPSHOT_MAP as its template. */
export function mapSpecs({ maxSessions, maxPools }: MapSizes): Readonly<Record<MapName, MapSpec>> {
  const array = (name: MapName, valueSize: number, maxEntries: number): MapSpec => ({
    name,
    type: BPF_MAP_TYPE_ARRAY,
    keySize: U32,
    valueSize,
    maxEntries,
    flags: BPF_F_MMAPABLE,
  });
  const perCpu = (name: MapName, valueSize: number, maxEntries: number): MapSpec => ({
    name,
    type: BPF_MAP_TYPE_PERCPU_ARRAY,
    keySize: U32,
    valueSize,
    maxEntries,
  });
  const hash = (name: MapName, keySize: number, valueSize: number, maxEntries: number): MapSpec => ({
    name,
    type: BPF_MAP_TYPE_HASH,
    keySize,
    valueSize,
    maxEntries,
  });
  const queue = (name: MapName, valueSize: number, maxEntries: number): MapSpec => ({
    name,
    type: BPF_MAP_TYPE_QUEUE,
    keySize: 0,
    valueSize,
    maxEntries,
  });
  return {
    settings: array('settings', SETTINGS.size, 1),
    ports: array('ports', PORT.size, 65_536),
    listeners: hash('listeners', LISTENER_KEY.size, LISTENER.size, MAX_LISTENERS),
    rules: array('rules', RULES.size, MAX_LISTENERS),
    pools: array('pools', POOL.size, maxPools),
    snapshots: {
      name: 'snapshots',
      type: BPF_MAP_TYPE_ARRAY_OF_MAPS,
      keySize: U32,
      valueSize: U32,
      maxEntries: 2 * maxPools,
    },
    endpoints: {
      ...hash('endpoints', ENDPOINT_KEY.size, ENDPOINT.size, maxPools * MAX_BACKENDS),
      flags: BPF_F_NO_PREALLOC,
    },
    sessions: hash('sessions', SESSION_KEY.size, SESSION.size, maxSessions),
    reverse: hash('reverse', REVERSE_KEY.size, REVERSE.size, maxSessions * REVERSES_PER_SESSION),
    pins: hash('pins', PIN_KEY.size, PIN.size, maxSessions * PINS_PER_SESSION),
    pin_views: { ...hash('pin_views', U32, PIN_VIEW.size, MAX_LISTENERS), flags: BPF_F_NO_PREALLOC },
    listener_state: array('listener_state', LISTENER_STATE.size, MAX_LISTENERS),
    live: array('live', MAX_BACKENDS * LIVE.size, maxPools),
    figures: array('figures', FIGURES.size, maxPools * MAX_BACKENDS),
    gauges: array('gauges', GAUGES.size, 1),
    half_open: array('half_open', HALF_OPEN.size, halfOpenPlaces(maxSessions)),
    half_open_ends: array('half_open_ends', HALF_OPEN_ENDS.size, 1),
    rests: array('rests', REST.size, restPlaces(maxSessions)),
    rest_ends: array('rest_ends', REST_ENDS.size, 1),
    pin_order: queue('pin_order', PIN_KEY.size, maxSessions * PINS_PER_SESSION),
    counters: perCpu('counters', COUNTER_COUNT * U64, MAX_LISTENERS),
    requests: array('requests', REQUESTS.size, 1),
    ...tcpMapSpecs({ maxSessions, maxPools }),
  };
}
