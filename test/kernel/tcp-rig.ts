/** The TCP programs with their maps, called as the hooks call them: by the programs for UDP. Nothing is attached. */
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import { CLOSE_REASONS, type CloseReason } from '../../relay/core/close-reason.ts';
import { MapWalk } from '../../relay/engines/kernel/bpf-map.ts';
import { SKB } from '../../relay/engines/kernel/helpers.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { Bpf } from '../../relay/engines/kernel/loader.ts';
import { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import type { ProgramName } from '../../relay/engines/kernel/program.ts';
import { loadProgram } from '../../relay/engines/kernel/programs.ts';
import {
  ALGORITHM_NUMBERS,
  LISTENER_KEY,
  PORT,
  PORT_ANY,
  PORT_ANY_V4,
  PORT_LISTENER,
  PORT_RELAY,
  SETTINGS,
  SOURCE_CLIENT,
  SOURCE_RELAY,
} from '../../relay/engines/kernel/records.ts';
import {
  closedCounter,
  TCP_CONNECTION,
  TCP_COUNTER_COUNT,
  TCP_COUNTERS,
  TCP_GAUGES,
  TCP_KEY,
  TCP_RULES,
  TCP_STATE,
  tcpProgramIndex,
} from '../../relay/engines/kernel/tcp-maps.ts';
import { TcpSteward } from '../../relay/engines/kernel/tcp-steward.ts';
import { MS, START_NS } from './packet-rig.ts';
import { parseSegment, type ParsedSegment, segment, type SegmentOptions } from './segment.ts';

export const REDIRECT = 7;

export interface TcpOutcome {
  readonly verdict: number;
  readonly bytes: Uint8Array;
  readonly segment: ParsedSegment;
}

export interface TcpRules {
  readonly algorithm?: keyof typeof ALGORITHM_NUMBERS;
  readonly maxConnections?: number;
  readonly connectionsPerSource?: number;
  /** New connections a second of one client IP. */
  readonly rate?: number;
  readonly idleTimeoutMs?: number;
  /** With sourceAddress `relay`: so many ports from FIRST_RELAY_PORT on, of RELAY_V4 and RELAY_V6. */
  readonly relayPorts?: number;
  /** Instead of these: none. */
  readonly hasNoAddress?: boolean;
}

export const FIRST_RELAY_PORT = 40_000;
export const RELAY_V4 = '198.51.100.1';
export const RELAY_V6 = '[2001:db8::1]';

const HOOKS = ['ingress', 'egress'] as const;

/** linux/bpf.h: struct __sk_buff. */
const SKB_BYTES = 192;

export class TcpRig {
  readonly bpf: Bpf;
  readonly maps: KernelMaps;
  readonly steward: TcpSteward;
  pool = new BackendPool('db');
  readonly #programs: Readonly<Record<(typeof HOOKS)[number], number>>;
  readonly #writer: PoolWriter;
  #nowNs = START_NS;

  constructor({ maxSessions = 64 } = {}) {
    const loaded = loadLibc();
    if (!('libc' in loaded)) throw new Error(loaded.unavailable);
    this.bpf = new Bpf(loaded.libc);
    this.maps = KernelMaps.create(this.bpf, { maxSessions, maxPools: 2 });
    const load = (hook: ProgramName): number => {
      return loadProgram(this.bpf, this.maps, { hook, linkHeaderBytes: 14 });
    };
    this.#programs = { ingress: load('ingress'), egress: load('egress') };
    for (const hook of HOOKS) {
      for (const [map, name] of [
        ['tcp_programs', `tcp_${hook}`],
        ['tcp_errors', `tcp_${hook}_error`],
      ] as const) {
        const program = load(name);
        const value = new Uint8Array(Uint32Array.of(program).buffer);
        this.maps.maps[map].updateAt(tcpProgramIndex(hook, 14), value);
        this.bpf.closeFd(program);
      }
    }
    this.steward = new TcpSteward(this.bpf, load('tcp_steward'), this.maps.mapped.tcp_requests);
    this.#writer = new PoolWriter(this.maps, 0);
    this.#setClock();
  }

  /** As new, but for the time and the ids: no connections, listeners, counts or backends. */
  async reset(): Promise<void> {
    const { maps, mapped } = this.maps;
    for (const name of [
      'tcp_connections',
      'tcp_reverse',
      'tcp_sources',
      'tcp_rates',
      'tcp_listeners',
    ] as const) {
      const walk = new MapWalk(this.bpf, maps[name], 4_096);
      const { count } = walk.step();
      const { keySize } = maps[name].spec;
      for (let i = 0; i < count; i++) maps[name].delete(walk.keys.slice(i * keySize, (i + 1) * keySize));
      walk.close();
    }
    mapped.tcp_ports.bytes.fill(0);
    mapped.tcp_state.bytes.fill(0);
    mapped.tcp_live.bytes.fill(0);
    mapped.tcp_gauges.setU64(TCP_GAUGES.at.records, 0);
    mapped.settings.setU32(SETTINGS.at.draining, 0);
    for (const index of [0, 1])
      maps.tcp_counters.updateAt(index, new Uint8Array(maps.tcp_counters.valueBytes));
    this.pool = new BackendPool('db');
    await this.publish();
  }

  close(): void {
    for (const fd of Object.values(this.#programs)) this.bpf.closeFd(fd);
    this.steward.close();
    this.maps.close();
    this.bpf.close();
  }

  get nowNs(): number {
    return this.#nowNs;
  }

  advance(ns: number): void {
    this.#nowNs += ns;
    this.#setClock();
  }

  #setClock(): void {
    this.maps.mapped.settings.setU64(SETTINGS.at.fixedClockNs, this.#nowNs);
  }

  drain(): void {
    this.maps.mapped.settings.setU32(SETTINGS.at.draining, 1);
  }

  listen(listen: string, rules: TcpRules = {}, index = 0): void {
    const local = Endpoint.parse(listen);
    const { mapped, maps } = this.maps;
    const { algorithm = 'least-connections', maxConnections = 1_000_000, rate = 0 } = rules;
    const token = rate === 0 ? 0 : (1_000 * MS) / rate;
    const values: Record<Exclude<keyof typeof TCP_RULES.at, 'relayV4' | 'relayV6'>, number> = {
      pool: 0,
      algorithm: ALGORITHM_NUMBERS[algorithm],
      maxConnections,
      connectionsPerSource: rules.connectionsPerSource ?? 0,
      sourceTokenNs: token,
      sourceBurstNs: token * Math.max(0, rate - 1),
      idleTimeoutNs: (rules.idleTimeoutMs ?? 7_440_000) * MS,
      sourceAddress: rules.relayPorts === undefined ? SOURCE_CLIENT : SOURCE_RELAY,
      firstRelayPort: FIRST_RELAY_PORT,
      relayPorts: rules.relayPorts ?? 0,
    };
    for (const [field, ip] of [
      ['relayV4', RELAY_V4],
      ['relayV6', RELAY_V6],
    ] as const)
      mapped.tcp_rules.bytes.set(
        rules.hasNoAddress === true ? new Uint8Array(16) : Endpoint.parse(`${ip}:1`).ip.bytes,
        mapped.tcp_rules.at(index, TCP_RULES.at[field]),
      );
    for (let i = 0; i < (rules.relayPorts ?? 0); i++)
      mapped.tcp_ports.setU16(mapped.tcp_ports.at(FIRST_RELAY_PORT + i, PORT.at.flags), PORT_RELAY);
    for (const [name, value] of Object.entries(values) as [keyof typeof values, number][]) {
      const at = mapped.tcp_rules.at(index, TCP_RULES.at[name]);
      if (TCP_RULES.bytes[name] === 8) mapped.tcp_rules.setU64(at, value);
      else if (TCP_RULES.bytes[name] === 2) mapped.tcp_rules.setU16(at, value);
      else mapped.tcp_rules.setU32(at, value);
    }
    const isAny = local.ip.range === 'unspecified';
    const port = mapped.tcp_ports.at(local.port, PORT.at.flags);
    const flag = !isAny ? PORT_LISTENER : local.ip.isV4 ? PORT_ANY_V4 : PORT_ANY;
    mapped.tcp_ports.setU16(port, mapped.tcp_ports.u16[port >> 1]! | flag);
    const key = new Uint8Array(LISTENER_KEY.size);
    key.set(local.ip.bytes);
    new DataView(key.buffer).setUint32(LISTENER_KEY.at.port, local.port, true);
    maps.tcp_listeners.update(key, new Uint8Array(Uint32Array.of(index).buffer));
  }

  /** Adds ready backends, `a` first, and publishes the pool. */
  async backends(...endpoints: readonly (string | readonly [string, { weight?: number; cap?: number }])[]) {
    for (const entry of endpoints) {
      const [text, { weight = 1, cap = 0 }] = typeof entry === 'string' ? [entry, {}] : entry;
      const id = String.fromCharCode(97 + this.pool.list().length);
      this.pool.add({ id, endpoint: Endpoint.parse(text), weight, maxConnections: cap });
    }
    await this.publish();
  }

  publish(): Promise<void> {
    return this.#writer.publish(this.pool.snapshot());
  }

  /** Connections of a backend that have not ended. */
  live(id: string): number {
    return [...this.#writer.backends()].find(({ entry }) => entry.id === id)?.liveConnections ?? 0;
  }

  /** @param segments how many segments the system passes as this one */
  ingress(options: SegmentOptions | Uint8Array, segments = 0): TcpOutcome {
    return this.#run('ingress', options, segments);
  }

  egress(options: SegmentOptions | Uint8Array, segments = 0): TcpOutcome {
    return this.#run('egress', options, segments);
  }

  #run(hook: (typeof HOOKS)[number], options: SegmentOptions | Uint8Array, segments: number): TcpOutcome {
    const bytes = options instanceof Uint8Array ? options : segment(options);
    const context = new Uint8Array(SKB_BYTES);
    new DataView(context.buffer).setUint32(SKB.at.gsoSegs, segments, true);
    const result = this.bpf.testRun(this.#programs[hook], bytes, { context });
    return {
      verdict: result.returned,
      bytes: result.packet,
      get segment() {
        return parseSegment(result.packet);
      },
    };
  }

  key(contacted: string, client: string): Uint8Array {
    const [one, two] = [Endpoint.parse(contacted), Endpoint.parse(client)];
    const key = new Uint8Array(TCP_KEY.size);
    key.set(one.ip.bytes, TCP_KEY.at.contacted);
    key.set(two.ip.bytes, TCP_KEY.at.client);
    const view = new DataView(key.buffer);
    view.setUint16(TCP_KEY.at.contactedPort, one.port, true);
    view.setUint16(TCP_KEY.at.clientPort, two.port, true);
    return key;
  }

  /** The name of the connection's state, or `none`. */
  state(contacted: string, client: string): keyof typeof TCP_STATE | 'none' {
    const value = new Uint8Array(TCP_CONNECTION.size);
    if (!this.maps.maps.tcp_connections.lookup(this.key(contacted, client), value)) return 'none';
    const state = new DataView(value.buffer).getUint32(TCP_CONNECTION.at.state, true);
    return Object.entries(TCP_STATE).find(([, number]) => number === state)![0] as keyof typeof TCP_STATE;
  }

  /** Records of connections, as the gauge says, and as they are counted. */
  records(): readonly [gauge: number, counted: number] {
    const walk = new MapWalk(this.bpf, this.maps.maps.tcp_connections, 256);
    let counted = 0;
    for (let isEnd = false; !isEnd;) {
      const step = walk.step();
      counted += step.count;
      isEnd = step.isEnd;
    }
    walk.close();
    return [this.maps.mapped.tcp_gauges.getU64(TCP_GAUGES.at.records), counted];
  }

  counts(index = 0): {
    readonly accepted: number;
    readonly closed: Partial<Record<CloseReason, number>>;
    readonly live: number;
    readonly downstreamBytes: number;
    readonly upstreamBytes: number;
    readonly dropped: number;
  } {
    const bytes = new Uint8Array(this.maps.maps.tcp_counters.valueBytes);
    this.maps.maps.tcp_counters.lookupAt(index, bytes);
    const sums = new Float64Array(TCP_COUNTER_COUNT);
    new BigInt64Array(bytes.buffer).forEach((value, i) => (sums[i % TCP_COUNTER_COUNT]! += Number(value)));
    const closed = CLOSE_REASONS.map((reason) => [reason, sums[closedCounter(reason)]!] as const);
    const ended = closed.reduce((sum, [, count]) => sum + count, 0);
    const counter = (name: keyof typeof TCP_COUNTERS): number => sums[TCP_COUNTERS[name]]!;
    return {
      accepted: counter('accepted'),
      closed: Object.fromEntries(closed.filter(([, count]) => count !== 0)),
      live: counter('accepted') - ended,
      downstreamBytes: counter('downstreamBytes'),
      upstreamBytes: counter('upstreamBytes'),
      dropped: counter('dropped'),
    };
  }
}
