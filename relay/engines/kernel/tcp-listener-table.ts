/**
 * The TCP listeners as the programs know them: which public address leads to which index, and the rules of each index. Each also
 * holds a listening socket, so that the address can't be taken twice; whatever reaches that came in where no program is attached,
 * and is reset.
 */
import { Endpoint } from '../../../net/address.ts';
import { bindError } from '../../../net/bind-error.ts';
import { CLOSE_REASONS, type CloseReason } from '../../core/close-reason.ts';
import type { TcpListenerSpec, TcpListenerStatus } from '../engine.ts';
import type { KernelMaps } from './kernel-maps.ts';
import { listenerKeyOf } from './listener-address.ts';
import { type ListenerPlace, ListenerPlaces } from './listener-places.ts';
import { ListenerSource, type RelaySource } from './listener-source.ts';
import type { PoolWriter } from './pool-writer.ts';
import { ALGORITHM_NUMBERS } from './records.ts';
import { closedCounter, TCP_COUNTER_COUNT, TCP_COUNTERS, TCP_RULES } from './tcp-maps.ts';
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';

const NS_PER_MS = 1e6;
const NS_PER_S = 1e9;

export interface KernelTcpListener extends ListenerPlace<TcpListenerSpec> {
  /** Holds the address. */
  readonly server: Server;
}

export class TcpListenerTable extends ListenerPlaces<TcpListenerSpec, KernelTcpListener> {
  readonly #maps: KernelMaps;
  readonly #source: ListenerSource;

  /** @param relay absent: backends see the clients' own addresses */
  constructor(maps: KernelMaps, relay?: RelaySource) {
    const { tcpNames: names } = maps;
    const { tcp_rules: rules, tcp_ports: ports } = maps.mapped;
    const source = new ListenerSource({ protocol: 'TCP', rules, at: TCP_RULES.at, ports, names }, relay);
    // What backends saw of a connection can't change.
    const mark = relay === undefined ? '' : ' relay';
    super({ names, ports, source, mark, isHeld: () => maps.isHeld });
    this.#maps = maps;
    this.#source = source;
  }

  /** Takes the address. @throws RelayError TICKRELAY_ERR_BIND */
  async bind({ name, listen }: TcpListenerSpec): Promise<Server> {
    assert(this.get(name) === undefined, 'the listener is there already');
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
   * Lets connections in to a listener whose address is taken.
   *
   * @throws RelayError as `addPlace` does
   */
  open(spec: TcpListenerSpec, server: Server, pool: PoolWriter): KernelTcpListener {
    const local = new Endpoint(spec.listen.ip, (server.address() as AddressInfo).port);
    return this.addPlace({ spec, pool, local, server });
  }

  /** Lets no more connections in and frees the address. Its connections are the caller's to end; then its index is to be freed. */
  remove(name: string): KernelTcpListener {
    const listener = this.takePlace(name);
    listener.server.close();
    return listener;
  }

  /** Frees the addresses; what the programs know stays. Idempotent. */
  freeAddresses(): void {
    for (const { server } of this.all()) server.close();
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

  protected letIn({ index, local }: KernelTcpListener): void {
    this.#maps.maps.tcp_listeners.update(listenerKeyOf(local), new Uint8Array(Uint32Array.of(index).buffer));
  }

  protected shut(local: Endpoint): void {
    this.#maps.maps.tcp_listeners.delete(listenerKeyOf(local));
  }

  protected clear(index: number): void {
    const { tcp_counters } = this.#maps.maps;
    tcp_counters.updateAt(index, new Uint8Array(tcp_counters.valueBytes));
    const { tcp_state, tcp_rules } = this.#maps.mapped;
    for (const records of [tcp_state, tcp_rules]) records.clear(index);
  }

  /** All that a TCP listener has is in what both have. */
  protected leave(): void {}

  protected writeRules({ index, spec, pool }: KernelTcpListener): void {
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
