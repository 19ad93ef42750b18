/**
 * The listeners as the programs know them: which public address leads to which index, and the rules of each index. Each
 * listener also holds a bound socket that nobody reads: the address can't be taken twice, and port 0 finds a free one.
 */
import type { Endpoint } from '../../../net/address.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { bindUdp, readLocal } from '../../../net/linux/mmsg-socket.ts';
import { COUNTER_COUNT, ListenerCounters } from '../../core/counters.ts';
import type { UdpListenerSpec } from '../engine.ts';
import type { KernelMaps } from './kernel-maps.ts';
import { listenerKeyOf } from './listener-address.ts';
import { type ListenerPlace, ListenerPlaces } from './listener-places.ts';
import { ListenerSource, type RelaySource } from './listener-source.ts';
import type { PoolWriter } from './pool-writer.ts';
import { ALGORITHM_NUMBERS, LISTENER, PORT, RULES, SEVERAL_LISTENERS, TICK_NS } from './records.ts';
import { U32 } from './struct.ts';
import type { Timeouts } from './sweeper.ts';
import assert from 'node:assert/strict';

const NS_PER_MS = 1e6;
const NS_PER_S = 1e9;

export interface KernelListener extends ListenerPlace<UdpListenerSpec> {
  /** The socket that holds the address. */
  readonly socket: number;
}

export class ListenerTable extends ListenerPlaces<UdpListenerSpec, KernelListener> {
  readonly #libc: Libc;
  readonly #maps: KernelMaps;
  readonly #source: ListenerSource;

  /** @param relay absent: backends see the clients' own addresses */
  constructor(libc: Libc, maps: KernelMaps, relay?: RelaySource) {
    const { names } = maps;
    const { rules, ports } = maps.mapped;
    const source = new ListenerSource({ protocol: 'UDP', rules, at: RULES.at, ports, names }, relay);
    super({ names, ports, source, isHeld: () => maps.isHeld });
    this.#libc = libc;
    this.#maps = maps;
    this.#source = source;
  }

  /** Timeouts by index; undefined where no listener is and none is left that a restarted relay may claim. */
  timeouts(index: number): Timeouts | undefined {
    const spec = this.at(index)?.spec;
    if (spec !== undefined)
      return { idleNs: spec.idleTimeoutMs * NS_PER_MS, pinNs: spec.pinTimeoutMs * NS_PER_MS };
    if (!this.isKnown(index)) return undefined;
    const { rules } = this.#maps.mapped;
    return {
      idleNs: rules.getU64(rules.at(index, RULES.at.idleTimeoutNs)),
      pinNs: rules.getU64(rules.at(index, RULES.at.pinTimeoutNs)),
    };
  }

  /** The shortest of all listeners' timeouts; infinite without any. */
  shortestTimeouts(): Timeouts {
    const timeouts = this.all().map(({ index }) => this.timeouts(index)!);
    return {
      idleNs: Math.min(...timeouts.map(({ idleNs }) => idleNs)),
      pinNs: Math.min(...timeouts.map(({ pinNs }) => pinNs)),
    };
  }

  /**
   * Takes the address; datagrams to it are the programs' from `open` on.
   *
   * @throws RelayError TICKRELAY_ERR_BIND
   */
  bind(spec: UdpListenerSpec): { readonly socket: number; readonly local: Endpoint } {
    assert(this.get(spec.name) === undefined, 'the listener is there already');
    const socket = bindUdp(this.#libc, { local: spec.listen });
    return { socket, local: readLocal(this.#libc, socket) };
  }

  unbind(socket: number): void {
    this.#libc.close(socket);
  }

  /**
   * Lets datagrams in to a listener whose address is taken.
   *
   * @throws RelayError as `addPlace` does
   */
  open(spec: UdpListenerSpec, bound: { socket: number; local: Endpoint }, pool: PoolWriter): KernelListener {
    return this.addPlace({ spec, pool, ...bound });
  }

  /** Lets no more datagrams in and frees the address. Its sessions are the caller's to end; then its index is to be freed. */
  remove(name: string): KernelListener {
    const listener = this.takePlace(name);
    this.unbind(listener.socket);
    return listener;
  }

  /** Frees the addresses; what the programs know stays. */
  close(): void {
    for (const { socket } of this.dropAll()) this.unbind(socket);
  }

  counters({ index }: KernelListener): ListenerCounters {
    const { counters } = this.#maps.maps;
    const perCpu = new BigInt64Array(counters.valueBytes / 8);
    counters.lookupAt(index, new Uint8Array(perCpu.buffer));
    const sums = new Float64Array(COUNTER_COUNT);
    // A session may begin on one CPU and end on another: only the sum over all of them means something.
    perCpu.forEach((count, i) => (sums[i % COUNTER_COUNT]! += Number(count)));
    return new ListenerCounters(sums);
  }

  protected letIn({ index, local }: KernelListener): void {
    const value = new Uint8Array(LISTENER.size);
    new DataView(value.buffer).setUint32(LISTENER.at.index, index, true);
    this.#maps.maps.listeners.update(listenerKeyOf(local), value);
    const { ports } = this.#maps.mapped;
    ports.setU16(ports.at(local.port, PORT.at.firstListener), index);
  }

  protected shut(local: Endpoint): void {
    this.#maps.maps.listeners.delete(listenerKeyOf(local));
  }

  protected clear(index: number): void {
    const { counters } = this.#maps.maps;
    counters.updateAt(index, new Uint8Array(counters.valueBytes));
    const { listener_state, rules } = this.#maps.mapped;
    for (const records of [listener_state, rules]) records.clear(index);
  }

  protected leave(index: number, local: Endpoint): void {
    const { rules, ports } = this.#maps.mapped;
    rules.bytes.fill(0, rules.at(index, RULES.at.local), rules.at(index, RULES.at.localPort) + U32);
    const neighbour = this.all().find((other) => other.local.port === local.port);
    if (neighbour !== undefined) ports.setU16(ports.at(local.port, PORT.at.firstListener), neighbour.index);
    this.#forgetReplies(index);
  }

  /** Backends' ports that the listener's players, or several listeners', were on can be another one's alone from now on. */
  #forgetReplies(index: number): void {
    const { ports } = this.#maps.mapped;
    for (let at = PORT.at.repliesTo >> 1; at < ports.u16.length; at += ports.stride >> 1) {
      const repliesTo = ports.u16[at]!;
      if (repliesTo === index + 1 || repliesTo === SEVERAL_LISTENERS) ports.u16[at] = 0;
    }
  }

  protected writeRules({ index, spec, pool, local }: KernelListener): void {
    const { rules } = this.#maps.mapped;
    const { limits } = spec;
    const u32 = (field: keyof typeof RULES.at, value: number): void =>
      rules.setU32(rules.at(index, RULES.at[field]), value);
    const u64 = (field: keyof typeof RULES.at, value: number): void =>
      rules.setU64(rules.at(index, RULES.at[field]), Math.round(value));
    const rate = (perSecond: number, token: keyof typeof RULES.at, burst: keyof typeof RULES.at): void => {
      const tokenNs = perSecond === 0 ? 0 : Math.round(NS_PER_S / perSecond);
      u64(burst, (Math.max(1, perSecond) - 1) * tokenNs);
      u64(token, tokenNs);
    };
    rules.bytes.set(local.ip.bytes, rules.at(index, RULES.at.local));
    u32('localPort', local.port);
    u32('pool', pool.index);
    u32('algorithm', ALGORITHM_NUMBERS[spec.algorithm]);
    this.#source.writeAddresses(index, pool);
    u32('sessionsPerSource', limits.sessionsPerSource);
    u64('idleTimeoutNs', spec.idleTimeoutMs * NS_PER_MS);
    u64('pinTimeoutNs', spec.pinTimeoutMs * NS_PER_MS);
    rate(limits.sessionRatePerSource, 'sourceTokenNs', 'sourceBurstNs');
    rate(limits.sessionRate, 'listenerTokenNs', 'listenerBurstNs');
    u32('amplification', limits.amplification);
    u64('tickNs', TICK_NS);
  }
}
