/** The packet programs with their maps, and nothing attached: packets go through them by BPF_PROG_TEST_RUN. */
import { afterAll, test } from 'vitest';
import type { BackendFigures } from '../../relay/core/backend-figures.ts';
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import { COUNTER_COUNT, ListenerCounters, type ListenerCounts } from '../../relay/core/counters.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { MapWalk } from '../../relay/engines/kernel/bpf-map.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { Bpf } from '../../relay/engines/kernel/loader.ts';
import { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import type { ProgramName } from '../../relay/engines/kernel/program.ts';
import { loadProgram } from '../../relay/engines/kernel/programs.ts';
import {
  ALGORITHM_NUMBERS,
  GAUGES,
  INTER_ARRIVAL_BUCKETS,
  LISTENER,
  LISTENER_KEY,
  PIN,
  PIN_KEY,
  PORT,
  PORT_ANY,
  PORT_ANY_V4,
  PORT_LISTENER,
  REST_ENDS,
  REVERSE,
  REVERSE_KEY,
  RULES,
  SESSION,
  SESSION_KEY,
  SETTINGS,
} from '../../relay/engines/kernel/records.ts';
import { Steward, type StewardOperation } from '../../relay/engines/kernel/steward.ts';
import { type PacketOptions, packet, type Parsed, parsePacket } from './packet.ts';

export const unavailable = whyUnavailable();

/** Describes cases that need the programs; where they can't be loaded, a skipped test that says why. */
export function whereAvailable(describeCases: () => void): void {
  if (unavailable === undefined) describeCases();
  else test.skip(`skipped: ${unavailable}`, () => undefined);
}

/** Closes it after the file's cases. */
export function closing<T extends { close(): void }>(rig: T): T {
  afterAll(() => rig.close());
  return rig;
}

export const NEXT = -1;
export const DROP = 2;

/** On the rig's clock, in ns. */
export const START_NS = 1e15;
export const MS = 1e6;

export interface Outcome {
  readonly verdict: number;
  readonly bytes: Uint8Array;
  readonly packet: Parsed;
}

export interface ListenerRules {
  readonly algorithm?: keyof typeof ALGORITHM_NUMBERS;
  readonly rules?: Partial<Record<keyof typeof RULES.at, number>>;
}

export class PacketRig {
  readonly bpf: Bpf;
  readonly maps: KernelMaps;
  pool = new BackendPool('game');
  readonly steward: Steward;
  readonly #writer: PoolWriter;
  readonly #programs: Readonly<Record<'ingress' | 'egress' | 'steward', number>>;
  #nowNs = START_NS;

  constructor({ maxSessions = 64, linkHeaderBytes = 14 } = {}) {
    const loaded = loadLibc();
    if (!('libc' in loaded)) throw new Error(loaded.unavailable);
    this.bpf = new Bpf(loaded.libc);
    this.maps = KernelMaps.create(this.bpf, { maxSessions, maxPools: 2 });
    const load = (hook: ProgramName): number => {
      return loadProgram(this.bpf, this.maps, { hook, linkHeaderBytes });
    };
    this.#programs = { ingress: load('ingress'), egress: load('egress'), steward: load('steward') };
    this.steward = new Steward(this.bpf, this.#programs.steward, this.maps.mapped.requests);
    this.#writer = new PoolWriter(this.maps, 0);
    this.set('maxResting', maxSessions);
    this.set('quarantineNs', 30_000 * MS);
    this.set('fixedClockNs', START_NS);
  }

  /** As new, but for the time: no sessions, pins, counts, listeners or backends. */
  async reset(): Promise<void> {
    const endAll = (map: 'sessions' | 'pins', operation: StewardOperation): void => {
      const { keySize } = this.maps.maps[map].spec;
      const walk = new MapWalk(this.bpf, this.maps.maps[map], 256);
      for (const key of everyKey(walk, keySize)) this.steward.add(operation, key);
      walk.close();
      this.steward.flush();
    };
    endAll('sessions', 'endSession');
    endAll('pins', 'endPin');
    this.advance(30_000 * MS);
    this.endRests();
    const { counters, listeners } = this.maps.maps;
    const { ports, rules, listener_state } = this.maps.mapped;
    ports.bytes.fill(0);
    for (const index of [0, 1]) {
      counters.updateAt(index, new Uint8Array(counters.valueBytes));
      rules.clear(index);
      listener_state.clear(index);
    }
    const walk = new MapWalk(this.bpf, listeners, 256);
    for (const key of everyKey(walk, listeners.spec.keySize)) listeners.delete(key);
    walk.close();
    this.set('draining', 0);
    this.pool = new BackendPool('game');
    await this.publish();
  }

  close(): void {
    for (const fd of Object.values(this.#programs)) this.bpf.closeFd(fd);
    this.maps.close();
    this.bpf.close();
  }

  set(name: keyof typeof SETTINGS.at, value: number): void {
    const { settings } = this.maps.mapped;
    if (SETTINGS.bytes[name] === 8) settings.setU64(SETTINGS.at[name], value);
    else settings.setU32(SETTINGS.at[name], value);
  }

  advance(ns: number): void {
    this.#nowNs += ns;
    this.set('fixedClockNs', this.#nowNs);
  }

  /** Listens on an address; an unspecified one is a wildcard. */
  listen(listen: string, { algorithm = 'ip-hash', rules = {} }: ListenerRules = {}, index = 0): void {
    const local = Endpoint.parse(listen);
    const { mapped, maps } = this.maps;
    const all = {
      algorithm: ALGORITHM_NUMBERS[algorithm],
      idleTimeoutNs: 120_000 * MS,
      pinTimeoutNs: 600_000 * MS,
      tickNs: 8 * MS,
      ...rules,
    };
    for (const [name, value] of Object.entries(all) as [keyof typeof RULES.at, number][]) {
      const at = mapped.rules.at(index, RULES.at[name]);
      if (RULES.bytes[name] === 8) mapped.rules.setU64(at, value);
      else if (RULES.bytes[name] === 2) mapped.rules.setU16(at, value);
      else mapped.rules.setU32(at, value);
    }
    mapped.rules.bytes.set(local.ip.bytes, mapped.rules.at(index, RULES.at.local));
    mapped.rules.setU32(mapped.rules.at(index, RULES.at.localPort), local.port);
    mapped.ports.setU16(mapped.ports.at(local.port, PORT.at.firstListener), index);
    const isAny = local.ip.range === 'unspecified';
    const flag = !isAny ? PORT_LISTENER : local.ip.isV4 ? PORT_ANY_V4 : PORT_ANY;
    const port = mapped.ports.at(local.port, PORT.at.flags);
    mapped.ports.setU16(port, mapped.ports.u16[port >> 1]! | flag);
    const key = new Uint8Array(LISTENER_KEY.size);
    key.set(local.ip.bytes);
    new DataView(key.buffer).setUint32(LISTENER_KEY.at.port, local.port, true);
    const value = new Uint8Array(LISTENER.size);
    value[0] = index;
    maps.listeners.update(key, value);
  }

  /** Adds a ready backend; it is in force once the pool is published. */
  add(id: string, endpoint: string, weight = 1): void {
    this.pool.add({ id, endpoint: Endpoint.parse(endpoint), weight });
  }

  /** Live sessions of a backend. */
  live(id: string): number {
    return [...this.#writer.backends()].find(({ entry }) => entry.id === id)?.liveSessions ?? 0;
  }

  /** Adds ready backends, `a` first, and publishes the pool. */
  async backends(...endpoints: readonly string[]): Promise<void> {
    for (const text of endpoints) {
      this.add(String.fromCharCode(97 + this.pool.list().length), text);
    }
    await this.publish();
  }

  publish(): Promise<void> {
    return this.#writer.publish(this.pool.snapshot());
  }

  ingress(options: PacketOptions | Uint8Array): Outcome {
    return this.#run('ingress', options);
  }

  egress(options: PacketOptions | Uint8Array): Outcome {
    return this.#run('egress', options);
  }

  #run(program: 'ingress' | 'egress', options: PacketOptions | Uint8Array): Outcome {
    const bytes = options instanceof Uint8Array ? options : packet(options);
    const result = this.bpf.testRun(this.#programs[program], bytes);
    return {
      verdict: result.returned,
      bytes: result.packet,
      get packet() {
        return parsePacket(result.packet);
      },
    };
  }

  /** The listener's counters, of all CPUs together. */
  counts(index = 0): ListenerCounts {
    const bytes = new Uint8Array(this.maps.maps.counters.valueBytes);
    this.maps.maps.counters.lookupAt(index, bytes);
    const words = new BigInt64Array(bytes.buffer);
    const values = new Float64Array(COUNTER_COUNT);
    words.forEach((value, i) => (values[i % COUNTER_COUNT]! += Number(value)));
    return new ListenerCounters(values).dump();
  }

  /** Drops by reason that are not 0, of both directions. */
  drops(index = 0): Record<string, number> {
    const { downstream, upstream } = this.counts(index);
    const all = [downstream, upstream].flatMap(({ dropped }) => Object.entries(dropped));
    return Object.fromEntries(all.filter(([, count]) => count > 0));
  }

  /** What the programs count, and the reverse records that are there, those that rest among them. */
  gauges(): Record<'sessions' | 'pins' | 'reverses' | 'resting', number> {
    const { gauges } = this.maps.mapped;
    return {
      sessions: gauges.getU64(GAUGES.at.sessions),
      pins: gauges.getU64(GAUGES.at.pins),
      reverses: this.#reverses(),
      resting: this.#resting,
    };
  }

  get #resting(): number {
    const { rest_ends } = this.maps.mapped;
    return rest_ends.getU64(REST_ENDS.at.rested) - rest_ends.getU64(REST_ENDS.at.over);
  }

  #reverses(): number {
    const walk = new MapWalk(this.bpf, this.maps.maps.reverse, 256);
    let total = 0;
    for (let isEnd = false; !isEnd;) {
      const step = walk.step();
      total += step.count;
      isEnd = step.isEnd;
    }
    walk.close();
    return total;
  }

  /** Ends the rests whose time is over. @returns how many */
  endRests(): number {
    for (let i = this.#resting; i > 0; i--) this.steward.add('endRest', new Uint8Array(0));
    return this.steward.flush();
  }

  sessionKey(client: string, listener = 0): Uint8Array {
    const { ip, port } = Endpoint.parse(client);
    const key = new Uint8Array(SESSION_KEY.size);
    key.set(ip.bytes);
    const view = new DataView(key.buffer);
    view.setUint16(SESSION_KEY.at.port, port, true);
    view.setUint16(SESSION_KEY.at.listener, listener, true);
    return key;
  }

  session(client: string, listener = 0): Record<keyof typeof SESSION.at, number> | undefined {
    return this.#read('sessions', { key: this.sessionKey(client, listener), record: SESSION });
  }

  /** The histogram of the session's inter-arrival times. */
  interArrival(client: string): number[] {
    const value = new Uint8Array(SESSION.size);
    this.maps.maps.sessions.lookup(this.sessionKey(client), value);
    return [...new Uint32Array(value.buffer, SESSION.at.interArrival, INTER_ARRIVAL_BUCKETS)];
  }

  figures(id: string): BackendFigures {
    const { slot } = [...this.#writer.backends()].find(({ entry }) => entry.id === id)!;
    return this.#writer.figures(slot);
  }

  pinKey(client: string, listener = 0): Uint8Array {
    const key = new Uint8Array(PIN_KEY.size);
    key.set(Endpoint.parse(`${client}:1`).ip.bytes);
    key[PIN_KEY.at.listener] = listener;
    return key;
  }

  pin(client: string, listener = 0): Record<keyof typeof PIN.at, number> | undefined {
    return this.#read('pins', { key: this.pinKey(client, listener), record: PIN });
  }

  reverseKey(backend: string, seen: string): Uint8Array {
    const [one, two] = [Endpoint.parse(backend), Endpoint.parse(seen)];
    const key = new Uint8Array(REVERSE_KEY.size);
    key.set(one.ip.bytes, REVERSE_KEY.at.backend);
    key.set(two.ip.bytes, REVERSE_KEY.at.seen);
    const view = new DataView(key.buffer);
    view.setUint16(REVERSE_KEY.at.backendPort, one.port, true);
    view.setUint16(REVERSE_KEY.at.seenPort, two.port, true);
    return key;
  }

  reverse(backend: string, seen: string): Record<keyof typeof REVERSE.at, number> | undefined {
    return this.#read('reverse', { key: this.reverseKey(backend, seen), record: REVERSE });
  }

  /** The numbers of a record: fields of 1, 2, 4 and 8 bytes. */
  #read<Field extends string>(
    map: 'sessions' | 'pins' | 'reverse',
    {
      key,
      record,
    }: {
      key: Uint8Array;
      record: {
        size: number;
        at: Readonly<Record<Field, number>>;
        bytes: Readonly<Record<Field, number>>;
      };
    },
  ): Record<Field, number> | undefined {
    const value = new Uint8Array(record.size);
    if (!this.maps.maps[map].lookup(key, value)) return undefined;
    const view = new DataView(value.buffer);
    const numbers = {} as Record<Field, number>;
    for (const name of Object.keys(record.at) as Field[]) {
      const at = record.at[name];
      if (record.bytes[name] === 8) numbers[name] = Number(view.getBigUint64(at, true));
      if (record.bytes[name] === 4) numbers[name] = view.getUint32(at, true);
      if (record.bytes[name] === 2) numbers[name] = view.getUint16(at, true);
      if (record.bytes[name] === 1) numbers[name] = view.getUint8(at);
    }
    return numbers;
  }
}

/** All keys of a map of at most 256 elements. */
function everyKey(walk: MapWalk, keySize: number): Uint8Array[] {
  const { count } = walk.step();
  return Array.from({ length: count }, (_, i) => walk.keys.slice(i * keySize, (i + 1) * keySize));
}
