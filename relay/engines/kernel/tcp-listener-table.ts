/**
 * The TCP listeners as the programs know them: which public address leads to which index, and the rules of each index. Each also
 * holds a listening socket, so that the address can't be taken twice; whatever reaches that came in where no program is attached,
 * and is reset.
 */
import { Endpoint, type IpAddress } from '../../../net/address.ts';
import { bindError } from '../../../net/bind-error.ts';
import { CLOSE_REASONS, type CloseReason } from '../../core/close-reason.ts';
import type { TcpListenerSpec, TcpListenerStatus } from '../engine.ts';
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
import { ALGORITHM_NUMBERS } from './maps.ts';
import type { PoolWriter } from './pool-writer.ts';
import { closedCounter, TCP_COUNTER_COUNT, TCP_COUNTERS, TCP_RULES } from './tcp-maps.ts';
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';

const NS_PER_MS = 1e6;
const NS_PER_S = 1e9;

export interface KernelTcpListener {
  readonly index: number;
  readonly local: Endpoint;
  readonly pool: PoolWriter;
  readonly spec: TcpListenerSpec;
  /** Holds the address. */
  readonly server: Server;
}

export class TcpListenerTable {
  readonly #maps: KernelMaps;
  readonly #source: ListenerSource;
  /** Behind a listener's identity. */
  readonly #mark: string;
  readonly #byName = new Map<string, KernelTcpListener>();
  readonly #byIndex: (KernelTcpListener | undefined)[] = [];

  /** @param relay absent: backends see the clients' own addresses */
  constructor(maps: KernelMaps, relay?: RelaySource) {
    this.#maps = maps;
    const { tcp_rules: rules, tcp_ports: ports } = maps.mapped;
    this.#source = new ListenerSource(
      { protocol: 'TCP', rules, at: TCP_RULES.at, ports, names: maps.tcpNames },
      relay,
    );
    // What backends saw of a connection can't change.
    this.#mark = relay === undefined ? '' : ' relay';
  }

  all(): readonly KernelTcpListener[] {
    return [...this.#byName.values()];
  }

  at(index: number): KernelTcpListener | undefined {
    return this.#byIndex[index];
  }

  /** Whether a listener has this index, or one of a relay before this one that may still be claimed. */
  isKnown(index: number): boolean {
    return this.#maps.tcpNames.listener(index) !== '';
  }

  /** Whether a relay before this one left listeners, or connections of one that it was about to remove. */
  get hasLeftovers(): boolean {
    const { tcpNames } = this.#maps;
    return LISTENER_INDEXES.some((index) => !tcpNames.isFree(index) && this.#byIndex[index] === undefined);
  }

  /** Takes the address. @throws RelayError TICKRELAY_ERR_BIND */
  async bind({ name, listen }: TcpListenerSpec): Promise<Server> {
    assert(!this.#byName.has(name), 'the listener is there already');
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.resetAndDestroy();
    });
    server.listen({ host: listen.ip.toString(), port: listen.port });
    try {
      await once(server, 'listening');
      return server;
    } catch (error) {
      throw bindError(listen, (error as NodeJS.ErrnoException).code ?? String(error), error, 'TCP');
    }
  }

  /**
   * Lets connections in. A listener that a relay before this one had keeps its index, and so its connections and counters,
   * unless backends would see another source than before.
   *
   * @throws RelayError TICKRELAY_ERR_LIMIT when there are no relay ports for it
   */
  open(spec: TcpListenerSpec, server: Server, pool: PoolWriter): KernelTcpListener {
    const local = new Endpoint(spec.listen.ip, (server.address() as AddressInfo).port);
    const identity = identityOf(spec, local) + this.#mark;
    const { tcpNames } = this.#maps;
    let index = LISTENER_INDEXES.find((i) => tcpNames.listener(i) === identity && this.#source.canKeep(i));
    const isNew = index === undefined;
    index ??= freeIndex(tcpNames, spec);
    const ports = this.#source.choose(index, { name: spec.name, isNew });
    if (isNew) this.#clear(index);
    const listener = { index, local, pool, spec, server };
    tcpNames.setListener(index, identity);
    this.#source.give(index, ports);
    this.#byIndex[index] = listener;
    this.#byName.set(spec.name, listener);
    this.#writeRules(listener);
    announce(this.#maps.mapped.tcp_ports, this.#maps.tcpNames, local.port);
    if (!this.#maps.isHeld) this.#letIn(listener);
    return listener;
  }

  /** Lets connections in to the listeners that opened while the maps were held. */
  takeOver(): void {
    for (const listener of this.all()) this.#letIn(listener);
  }

  update(spec: TcpListenerSpec): void {
    const before = this.#byName.get(spec.name);
    assert(before !== undefined, 'no such listener');
    const listener = { ...before, spec };
    this.#byName.set(spec.name, listener);
    this.#byIndex[listener.index] = listener;
    this.#writeRules(listener);
  }

  /** Lets no more connections in and frees the address. Its connections are the caller's to end; then its index is to be freed. */
  remove(name: string): KernelTcpListener {
    const listener = this.#byName.get(name);
    assert(listener !== undefined, 'no such listener');
    this.#byName.delete(name);
    this.#byIndex[listener.index] = undefined;
    // While the maps are held its index may be one of a relay before this one; then it is one that nobody has claimed.
    if (!this.#maps.isHeld) this.#forget(listener.index, listener.local);
    listener.server.close();
    return listener;
  }

  /** The pool has other backends, to which another address of this host may lead. @returns this host's addresses towards them */
  refresh(pool: PoolWriter): readonly IpAddress[] {
    const listeners = this.all().filter((listener) => listener.pool === pool);
    for (const { index } of listeners) this.#source.writeAddresses(index, pool);
    return listeners.length === 0 ? [] : this.#source.addresses(pool);
  }

  /** As that of ListenerTable. */
  removeUnclaimed(): readonly number[] {
    const { tcpNames } = this.#maps;
    for (const index of LISTENER_INDEXES) {
      const identity = tcpNames.listener(index);
      if (identity !== '' && this.#byIndex[index] === undefined) this.#forget(index, localOf(identity));
    }
    return LISTENER_INDEXES.filter((index) => tcpNames.isLeaving(index));
  }

  /** No connection of the removed listener is left: another one may have its index. */
  free(index: number): void {
    this.#maps.tcpNames.freeListener(index);
  }

  /** Frees the addresses; what the programs know stays. Idempotent. */
  freeAddresses(): void {
    for (const { server } of this.#byName.values()) server.close();
  }

  /** Sums over all CPUs. */
  counts({ index }: KernelTcpListener): TcpListenerStatus['counts'] {
    const { tcp_counters } = this.#maps.maps;
    const perCpu = new BigInt64Array(tcp_counters.valueBytes / 8);
    tcp_counters.lookupAt(index, new Uint8Array(perCpu.buffer));
    const sums = new Float64Array(TCP_COUNTER_COUNT);
    perCpu.forEach((count, i) => (sums[i % TCP_COUNTER_COUNT]! += Number(count)));
    const closed = CLOSE_REASONS.map((reason) => [reason, sums[closedCounter(reason)]!]);
    return {
      accepted: sums[TCP_COUNTERS.accepted]!,
      closed: Object.fromEntries(closed) as Record<CloseReason, number>,
      retried: 0,
      acceptErrors: 0,
      downstreamBytes: sums[TCP_COUNTERS.downstreamBytes]!,
      upstreamBytes: sums[TCP_COUNTERS.upstreamBytes]!,
      droppedSegments: sums[TCP_COUNTERS.dropped]!,
    };
  }

  #letIn({ index, local }: KernelTcpListener): void {
    this.#maps.maps.tcp_listeners.update(listenerKeyOf(local), new Uint8Array(Uint32Array.of(index).buffer));
  }

  #clear(index: number): void {
    const { tcp_counters } = this.#maps.maps;
    tcp_counters.updateAt(index, new Uint8Array(tcp_counters.valueBytes));
    const { tcp_state, tcp_rules } = this.#maps.mapped;
    for (const records of [tcp_state, tcp_rules]) records.clear(index);
  }

  #forget(index: number, local: Endpoint): void {
    // Another listener may have the address by now: under another name, or with another pool.
    if (!this.all().some((other) => other.local.equals(local)))
      this.#maps.maps.tcp_listeners.delete(listenerKeyOf(local));
    this.#source.release(index);
    this.#maps.tcpNames.leaveListener(index);
    announce(this.#maps.mapped.tcp_ports, this.#maps.tcpNames, local.port);
  }

  #writeRules({ index, spec, pool }: KernelTcpListener): void {
    const { tcp_rules } = this.#maps.mapped;
    const { connectionsPerSource, connectionRatePerSource: rate } = spec.limits;
    const u32 = (field: keyof typeof TCP_RULES.at, value: number): void =>
      tcp_rules.setU32(tcp_rules.at(index, TCP_RULES.at[field]), value);
    const u64 = (field: keyof typeof TCP_RULES.at, value: number): void =>
      tcp_rules.setU64(tcp_rules.at(index, TCP_RULES.at[field]), Math.round(value));
    const tokenNs = rate === 0 ? 0 : Math.round(NS_PER_S / rate);
    u32('pool', pool.index);
    u32('algorithm', ALGORITHM_NUMBERS[spec.algorithm]);
    u32('maxConnections', spec.maxConnections);
    u32('connectionsPerSource', connectionsPerSource);
    u64('sourceBurstNs', (Math.max(1, rate) - 1) * tokenNs);
    u64('sourceTokenNs', tokenNs);
    u64('idleTimeoutNs', spec.idleTimeoutMs * NS_PER_MS);
    this.#source.writeAddresses(index, pool);
  }
}
