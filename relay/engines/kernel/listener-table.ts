/**
 * The listeners as the programs know them: which public address leads to which index, and the rules of each index. Each
 * listener also holds a bound socket that nobody reads: the address can't be taken twice, and port 0 finds a free one.
 */
import type { Endpoint, IpAddress } from '../../../net/address.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { bindUdp, readLocal } from '../../../net/linux/mmsg-socket.ts';
import { COUNTER_COUNT, ListenerCounters } from '../../core/counters.ts';
import type { UdpListenerSpec } from '../engine.ts';
import type { KernelMaps } from './kernel-maps.ts';
import {
  announce,
  freeIndex,
  identityOf,
  LISTENER_INDEXES,
  listenerKeyOf,
  localOf,
} from './listener-address.ts';
import { ListenerSource, type RelaySource } from './listener-source.ts';
import { ALGORITHM_NUMBERS, LISTENER, PORT, RULES, SEVERAL_LISTENERS, TICK_NS } from './maps.ts';
import type { PoolWriter } from './pool-writer.ts';
import { U32 } from './struct.ts';
import type { Timeouts } from './sweeper.ts';
import assert from 'node:assert/strict';

const NS_PER_MS = 1e6;
const NS_PER_S = 1e9;

export interface KernelListener {
  readonly index: number;
  readonly local: Endpoint;
  readonly pool: PoolWriter;
  readonly spec: UdpListenerSpec;
  /** The socket that holds the address. */
  readonly socket: number;
}

export class ListenerTable {
  readonly #libc: Libc;
  readonly #maps: KernelMaps;
  readonly #source: ListenerSource;
  readonly #byName = new Map<string, KernelListener>();
  readonly #byIndex: (KernelListener | undefined)[] = [];

  /** @param relay absent: backends see the clients' own addresses */
  constructor(libc: Libc, maps: KernelMaps, relay?: RelaySource) {
    this.#libc = libc;
    this.#maps = maps;
    const { rules, ports } = maps.mapped;
    this.#source = new ListenerSource(
      { protocol: 'UDP', rules, at: RULES.at, ports, names: maps.names },
      relay,
    );
  }

  get(name: string): KernelListener | undefined {
    return this.#byName.get(name);
  }

  at(index: number): KernelListener | undefined {
    return this.#byIndex[index];
  }

  all(): readonly KernelListener[] {
    return [...this.#byName.values()];
  }

  /** Timeouts by index; undefined where no listener is and none is left that a restarted relay may claim. */
  timeouts(index: number): Timeouts | undefined {
    const spec = this.#byIndex[index]?.spec;
    if (spec !== undefined)
      return { idleNs: spec.idleTimeoutMs * NS_PER_MS, pinNs: spec.pinTimeoutMs * NS_PER_MS };
    if (this.#maps.names.listener(index) === '') return undefined;
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
    assert(!this.#byName.has(spec.name), 'the listener is there already');
    const socket = bindUdp(this.#libc, { local: spec.listen });
    return { socket, local: readLocal(this.#libc, socket) };
  }

  unbind(socket: number): void {
    this.#libc.close(socket);
  }

  /**
   * Lets datagrams in. A listener that a relay before this one had keeps its index, and so its sessions and counters, unless
   * backends would see another source than before.
   *
   * @throws RelayError TICKRELAY_ERR_LIMIT when there are no relay ports for it
   */
  open(spec: UdpListenerSpec, bound: { socket: number; local: Endpoint }, pool: PoolWriter): KernelListener {
    const identity = identityOf(spec, bound.local);
    const { names } = this.#maps;
    let index = LISTENER_INDEXES.find((i) => names.listener(i) === identity && this.#source.canKeep(i));
    const isNew = index === undefined;
    index ??= freeIndex(names, spec);
    const ports = this.#source.choose(index, { name: spec.name, isNew });
    if (isNew) this.#clear(index);
    const listener = { index, spec, pool, ...bound };
    names.setListener(index, identity);
    this.#source.give(index, ports);
    this.#byIndex[index] = listener;
    this.#byName.set(spec.name, listener);
    this.#writeRules(listener);
    announce(this.#maps.mapped.ports, this.#maps.names, listener.local.port);
    if (!this.#maps.isHeld) this.#letIn(listener);
    return listener;
  }

  /** Lets datagrams in to the listeners that opened while the maps were held. */
  takeOver(): void {
    for (const listener of this.all()) this.#letIn(listener);
  }

  update(spec: UdpListenerSpec): void {
    const before = this.#byName.get(spec.name);
    assert(before !== undefined, 'no such listener');
    const listener = { ...before, spec };
    this.#byName.set(spec.name, listener);
    this.#byIndex[listener.index] = listener;
    this.#writeRules(listener);
  }

  /** Lets no more datagrams in and frees the address. Its sessions are the caller's to end; then its index is to be freed. */
  remove(name: string): KernelListener {
    const listener = this.#byName.get(name);
    assert(listener !== undefined, 'no such listener');
    this.#byName.delete(name);
    this.#byIndex[listener.index] = undefined;
    // While the maps are held its index may be one of a relay before this one; then it is one that nobody has claimed.
    if (!this.#maps.isHeld) this.#forget(listener.index, listener.local);
    this.unbind(listener.socket);
    return listener;
  }

  /**
   * The pool has other backends: with sourceAddress `relay` another address of this host may lead to them.
   *
   * @returns this host's addresses towards the backends
   */
  refresh(pool: PoolWriter): readonly IpAddress[] {
    for (const { index, ...listener } of this.#byName.values())
      if (listener.pool === pool) this.#source.writeAddresses(index, pool);
    return this.#source.addresses(pool);
  }

  /**
   * Removes what a relay before this one listened on and this one does not.
   *
   * @returns the indexes, also of those that the relay before this one was about to remove: to be freed when no session is left
   */
  removeUnclaimed(): readonly number[] {
    const { names } = this.#maps;
    for (const index of LISTENER_INDEXES) {
      const identity = names.listener(index);
      if (identity !== '' && this.#byIndex[index] === undefined) this.#forget(index, localOf(identity));
    }
    return LISTENER_INDEXES.filter((index) => names.isLeaving(index));
  }

  /** No session of the removed listener is left: another one may have its index. */
  free(index: number): void {
    this.#maps.names.freeListener(index);
  }

  /** Frees the addresses; what the programs know stays. */
  close(): void {
    for (const { socket } of this.#byName.values()) this.unbind(socket);
    this.#byName.clear();
    this.#byIndex.length = 0;
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

  #letIn({ index, local }: KernelListener): void {
    const value = new Uint8Array(LISTENER.size);
    new DataView(value.buffer).setUint32(LISTENER.at.index, index, true);
    this.#maps.maps.listeners.update(listenerKeyOf(local), value);
    const { ports } = this.#maps.mapped;
    ports.setU16(ports.at(local.port, PORT.at.firstListener), index);
  }

  #clear(index: number): void {
    const { counters } = this.#maps.maps;
    counters.updateAt(index, new Uint8Array(counters.valueBytes));
    const { listener_state, rules } = this.#maps.mapped;
    for (const records of [listener_state, rules]) records.clear(index);
  }

  #forget(index: number, local: Endpoint): void {
    // Another listener may have the address by now: under another name, or with another pool.
    if (!this.all().some((other) => other.local.equals(local)))
      this.#maps.maps.listeners.delete(listenerKeyOf(local));
    const { rules, ports } = this.#maps.mapped;
    rules.bytes.fill(0, rules.at(index, RULES.at.local), rules.at(index, RULES.at.localPort) + U32);
    const neighbour = this.all().find((other) => other.local.port === local.port);
    if (neighbour !== undefined) ports.setU16(ports.at(local.port, PORT.at.firstListener), neighbour.index);
    this.#forgetReplies(index);
    this.#source.release(index);
    this.#maps.names.leaveListener(index);
    announce(this.#maps.mapped.ports, this.#maps.names, local.port);
  }

  /** Backends' ports that the listener's players, or several listeners', were on can be another one's alone from now on. */
  #forgetReplies(index: number): void {
    const { ports } = this.#maps.mapped;
    for (let at = PORT.at.repliesTo >> 1; at < ports.u16.length; at += ports.stride >> 1) {
      const repliesTo = ports.u16[at]!;
      if (repliesTo === index + 1 || repliesTo === SEVERAL_LISTENERS) ports.u16[at] = 0;
    }
  }

  #writeRules({ index, spec, pool, local }: KernelListener): void {
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
