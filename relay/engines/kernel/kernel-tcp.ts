/**
 * TCP listeners in the kernel: the programs carry every segment (program-tcp.ts); this side writes what the control plane decides
 * into their maps, ends connections whose backend, listener or time is gone, and reads figures back. A part of the kernel
 * engine, which owns the maps, the pools and the attachments.
 */
import { type Endpoint, IpAddress } from '../../../net/address.ts';
import type { CloseReason } from '../../core/close-reason.ts';
import type {
  SessionQuery,
  TcpConnectionListing,
  TcpConnectionView,
  TcpListenerSpec,
  TcpListenerStatus,
  TcpPath,
} from '../engine.ts';
import { MapWalk } from './bpf-map.ts';
import { ConnectionWalk, type Visitor, type Wish } from './connection-walk.ts';
import type { KernelMaps } from './kernel-maps.ts';
import type { Bpf } from './loader.ts';
import type { PoolWriter } from './pool-writer.ts';
import type { ProgramName } from './program.ts';
import { LINK_HEADERS, loadProgram } from './programs.ts';
import { whyUnreachable } from './reachability.ts';
import type { PortRange } from './relay-ports.ts';
import { ResetSender } from './reset-sender.ts';
import { type KernelTcpListener, TcpListenerTable } from './tcp-listener-table.ts';
import {
  FIRST_CONNECTION_ID,
  TCP_GAUGES,
  TCP_RULES,
  TCP_STATE,
  tcpProgramIndex,
  TRANSITORY_NS,
} from './tcp-maps.ts';
import { TcpSteward } from './tcp-steward.ts';

/** Client IPs of one system call. */
const SOURCE_SLICE = 512;

/** The least time from one round of the sweep to the next, in ms. */
const ROUND_MS = 1_000;

export interface KernelTcpOptions {
  readonly bpf: Bpf;
  readonly maps: KernelMaps;
  /** With it backends see the relay's own address and one of these ports; absent: they see the client's. */
  readonly relayPorts: PortRange | undefined;
  readonly nowNs: () => number;
  readonly poolOf: (name: string) => Promise<PoolWriter>;
  /** A listener does not use the pool any more. */
  readonly letGo: (pool: PoolWriter) => Promise<void>;
  /** Loads what `attach` will need for a listener on this address. @throws RelayError */
  readonly prepare: (listen: Endpoint) => void;
  /** Attaches the programs where clients of this address arrive, and the answers of the pool's backends. @throws RelayError */
  readonly attach: (local: Endpoint, pool: PoolWriter) => void;
}

/** A loaded program, and where the UDP programs' tail calls find it. */
interface TcpProgram {
  readonly map: 'tcp_programs' | 'tcp_errors';
  readonly index: number;
  readonly program: number;
}

export class KernelTcp implements TcpPath {
  readonly #options: KernelTcpOptions;
  readonly #listeners: TcpListenerTable;
  readonly #resets: ResetSender;
  /** Made with the first listener. */
  #steward: TcpSteward | undefined;
  /** Programs that are to take the place of those of a relay before this one. */
  #awaited: readonly TcpProgram[] = [];
  /** The sweep's own. */
  #walk: ConnectionWalk | undefined;
  #nextRoundMs = 0;
  #final: readonly TcpListenerStatus[] | undefined;

  constructor(options: KernelTcpOptions) {
    this.#options = options;
    const { bpf, maps, relayPorts: ports } = options;
    this.#listeners = new TcpListenerTable(maps, ports && { libc: bpf.libc, ports });
    this.#resets = new ResetSender(bpf.libc);
  }

  /** Loads what the connections of a relay before this one need. @throws RelayError */
  adopt(): void {
    if (this.#listeners.hasLeftovers) this.#loadPrograms();
  }

  async addListener(spec: TcpListenerSpec): Promise<Endpoint> {
    // Before the address is there, since clients would connect to the socket that nobody serves: to verify programs takes seconds.
    this.#loadPrograms();
    this.#options.prepare(spec.listen);
    const pool = await this.#options.poolOf(spec.pool);
    try {
      return await this.#open(spec, pool);
    } catch (error) {
      await this.#options.letGo(pool);
      throw error;
    }
  }

  async #open(spec: TcpListenerSpec, pool: PoolWriter): Promise<Endpoint> {
    const server = await this.#listeners.bind(spec);
    let listener: KernelTcpListener;
    try {
      listener = this.#listeners.open(spec, server, pool);
    } catch (error) {
      server.close();
      throw error;
    }
    try {
      // Last, so that programs which take the place of older ones know the listener from the first segment on.
      this.#options.attach(listener.local, listener.pool);
      return listener.local;
    } catch (error) {
      await this.#remove(spec.name);
      throw error;
    }
  }

  updateListener(spec: TcpListenerSpec): void {
    this.#listeners.update(spec);
  }

  async removeListener(name: string): Promise<void> {
    await this.#options.letGo(await this.#remove(name));
  }

  /** @returns the pool that the listener used */
  async #remove(name: string): Promise<PoolWriter> {
    const { index, pool } = this.#listeners.remove(name);
    // A connection that opened at that moment is found the second time.
    for (let rounds = 0; rounds < 2 && !this.#options.maps.isHeld; rounds++)
      await this.#cutWhere('listener-removed', (listener) => listener === index);
    if (this.#final === undefined) this.#listeners.free(index);
    return pool;
  }

  listeners(): readonly TcpListenerStatus[] {
    if (this.#final !== undefined) return this.#final;
    const pools = new Set<PoolWriter>();
    return this.#listeners.all().map((listener) => {
      const isFirst = !pools.has(listener.pool);
      pools.add(listener.pool);
      return this.#status(listener, isFirst);
    });
  }

  /** The listeners' addresses. */
  locals(): readonly Endpoint[] {
    return this.#listeners.all().map(({ local }) => local);
  }

  /** Records of connections, ended ones that linger included. */
  get records(): number {
    return this.#options.maps.mapped.tcp_gauges.getU64(TCP_GAUGES.at.records);
  }

  async connections(query: SessionQuery): Promise<TcpConnectionListing> {
    const clientIp = query.clientIp === undefined ? undefined : IpAddress.parse(query.clientIp);
    const connections: TcpConnectionView[] = [];
    const nowNs = this.#options.nowNs();
    let total = 0;
    await this.#visitAll((connection) => {
      const listener = this.#listeners.at(connection.listener);
      if (connection.hasEnded || listener === undefined) return undefined;
      if (query.listener !== undefined && listener.spec.name !== query.listener) return undefined;
      const backend = listener.pool.backendOf(connection.ref)?.id;
      if (query.backend !== undefined && backend !== query.backend) return undefined;
      if (clientIp?.equals(connection.clientIp) === false) return undefined;
      if (total++ < query.limit)
        connections.push(connection.view({ listener: listener.spec.name, backend, nowNs }));
      return undefined;
    });
    return { connections, total, truncated: total > connections.length };
  }

  async closeConnection(id: number): Promise<boolean> {
    if (id < FIRST_CONNECTION_ID) return false;
    let wasThere = false;
    await this.#visitAll((connection) => {
      if (connection.hasEnded || connection.id !== id) return undefined;
      wasThere = true;
      return { operation: 'cut', reason: 'operator' };
    });
    return wasThere;
  }

  whyNot(listen: Endpoint, backends: readonly Endpoint[]): string | undefined {
    const sourceAddress = this.#options.relayPorts === undefined ? 'client' : 'relay';
    if (listen.ip.range === 'unspecified' && !listen.ip.isV4)
      return `${listen.toString()} takes clients with IPv4 and IPv6, between which the kernel does not translate`;
    for (const backend of backends) {
      if (backend.ip.isV4 !== listen.ip.isV4)
        return `clients of ${listen.toString()} and the backend ${backend.toString()} are of different families, between which the kernel does not translate`;
      const why = whyUnreachable(listen, backend, sourceAddress);
      if (why !== undefined) return why;
    }
    return undefined;
  }

  /** The pool has changed: connections of backends that are not usable any more are reset at once. */
  async published(pool: PoolWriter): Promise<void> {
    await this.#cutWhere(
      'backend-unusable',
      (index, ref) => this.#listeners.at(index)?.pool === pool && !pool.isUsable(ref),
    );
  }

  /** As TcpListenerTable has it. */
  refresh(pool: PoolWriter): readonly IpAddress[] {
    return this.#listeners.refresh(pool);
  }

  /** The maps were released: the listeners and programs take the place of those of the relay before this one. */
  takeOver(): void {
    this.#install(this.#awaited);
    this.#awaited = [];
    this.#listeners.takeOver();
  }

  /** Those of a relay before this one. */
  async removeUnclaimed(): Promise<void> {
    const removed = this.#listeners.removeUnclaimed();
    await this.#cutWhere('listener-removed', (listener) => !this.#listeners.isKnown(listener));
    if (this.#final === undefined) for (const index of removed) this.#listeners.free(index);
  }

  /** Frees the addresses; the programs open no connection any more. */
  drain(): void {
    this.#listeners.freeAddresses();
  }

  /** Ends what is due in the next slices, for about this long; a round begins ROUND_MS after the end of the last one. */
  sweep(budgetMs: number): void {
    const steward = this.#steward;
    const startMs = performance.now();
    if (steward === undefined || startMs < this.#nextRoundMs || this.records === 0) return;
    this.#walk ??= this.#newWalk(steward);
    const nowNs = this.#options.nowNs();
    do {
      if (!this.#walk.step((connection) => this.#due(connection, nowNs))) continue;
      this.#sweepSources(steward);
      this.#nextRoundMs = startMs + ROUND_MS;
      return;
    } while (performance.now() < startMs + budgetMs);
  }

  /** @param isLasting whether connections go on without this process */
  async close(isLasting: boolean): Promise<void> {
    this.#listeners.freeAddresses();
    if (!isLasting) await this.#cutWhere('shutdown', () => true);
    this.#final = this.listeners();
    this.#walk?.close();
    for (const { program } of this.#awaited) this.#options.bpf.closeFd(program);
    this.#steward?.close();
    this.#steward = undefined;
    this.#resets.close();
  }

  #status(listener: KernelTcpListener, hasPoolFigures: boolean): TcpListenerStatus {
    const counts = this.#listeners.counts(listener);
    const ended = Object.values(counts.closed).reduce((sum, count) => sum + count, 0);
    const backends = hasPoolFigures ? [...listener.pool.backends()] : [];
    return {
      name: listener.spec.name,
      pool: listener.spec.pool,
      local: listener.local,
      counts,
      liveConnections: counts.accepted - ended,
      queuedConnections: 0,
      connectionsByBackend: new Map(
        backends.map(({ entry, liveConnections }) => [entry.id, liveConnections]),
      ),
    };
  }

  #due(connection: Parameters<Visitor>[0], nowNs: number): Wish | undefined {
    const { listener: index, state } = connection;
    const silentNs = nowNs - connection.lastSeenNs;
    if (state >= TCP_STATE.over || state < TCP_STATE.open || connection.isClosing)
      return silentNs >= Number(TRANSITORY_NS) ? { operation: 'expire' } : undefined;
    const listener = this.#listeners.at(index);
    if (listener === undefined && !this.#listeners.isKnown(index))
      return { operation: 'cut', reason: 'listener-removed' };
    if (listener?.pool.isUsable(connection.ref) === false)
      return { operation: 'cut', reason: 'backend-unusable' };
    const { tcp_rules } = this.#options.maps.mapped;
    const idleNs = tcp_rules.getU64(tcp_rules.at(index, TCP_RULES.at.idleTimeoutNs));
    return silentNs >= idleNs ? { operation: 'expire' } : undefined;
  }

  /** Client IPs without connections need no record. */
  #sweepSources(steward: TcpSteward): void {
    const { bpf, maps } = this.#options;
    const { tcp_sources } = maps.maps;
    const walk = new MapWalk(bpf, tcp_sources, SOURCE_SLICE);
    const { keySize, valueSize } = tcp_sources.spec;
    for (let isEnd = false; !isEnd;) {
      const step = walk.step();
      isEnd = step.isEnd;
      const values = new DataView(walk.values.buffer, walk.values.byteOffset, walk.values.byteLength);
      for (let i = 0; i < step.count; i++) {
        if (values.getUint32(i * valueSize, true) > 0) continue;
        steward.add('endSource', walk.keys.subarray(i * keySize, (i + 1) * keySize));
      }
      steward.flush();
    }
    walk.close();
  }

  async #cutWhere(reason: CloseReason, isMeant: (listener: number, ref: number) => boolean): Promise<void> {
    await this.#visitAll((connection) => {
      if (connection.hasEnded || !isMeant(connection.listener, connection.ref)) return undefined;
      return { operation: 'cut', reason };
    });
  }

  /** Everything once, in slices between which the event loop has its turn. */
  async #visitAll(visit: Visitor): Promise<void> {
    if (this.#steward === undefined || this.records === 0) return;
    const walk = this.#newWalk(this.#steward);
    try {
      while (!walk.step(visit)) {
        await new Promise((resolve) => setImmediate(resolve));
        if (this.#final !== undefined) return;
      }
    } finally {
      walk.close();
    }
  }

  #newWalk(steward: TcpSteward): ConnectionWalk {
    const { bpf, maps } = this.#options;
    return new ConnectionWalk({ bpf, maps, steward, resets: this.#resets });
  }

  /** Once. While the maps are held, those of a relay before this one go on until `takeOver`. */
  #loadPrograms(): void {
    if (this.#steward !== undefined) return;
    const { bpf, maps } = this.#options;
    const programs: TcpProgram[] = [];
    try {
      for (const hook of ['egress', 'ingress'] as const) {
        for (const linkHeaderBytes of LINK_HEADERS) {
          const index = tcpProgramIndex(hook, linkHeaderBytes);
          const load = (name: ProgramName): number => loadProgram(bpf, maps, { hook: name, linkHeaderBytes });
          programs.push({ map: 'tcp_programs', index, program: load(`tcp_${hook}`) });
          programs.push({ map: 'tcp_errors', index, program: load(`tcp_${hook}_error`) });
        }
      }
      const program = loadProgram(bpf, maps, { hook: 'tcp_steward' });
      this.#steward = new TcpSteward(bpf, program, maps.mapped.tcp_requests);
    } catch (error) {
      for (const { program } of programs) bpf.closeFd(program);
      throw error;
    }
    if (maps.isHeld) this.#awaited = programs;
    else this.#install(programs);
  }

  #install(programs: readonly TcpProgram[]): void {
    const { bpf, maps } = this.#options;
    for (const { map, index, program } of programs) {
      maps.maps[map].updateAt(index, new Uint8Array(Uint32Array.of(program).buffer));
      bpf.closeFd(program);
    }
  }
}
