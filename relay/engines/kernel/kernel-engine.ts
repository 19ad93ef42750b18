/**
 * The kernel data plane: eBPF programs on the client-facing interfaces move every datagram; this side writes what the control
 * plane decides into their maps, expires sessions (upkeep.ts), and reads figures and sessions back. TCP listeners are kernel-tcp.ts's.
 *
 *     1. the name is taken, the BPF file system found
 *     2. maps: taken over from a relay of this name that left them, or made and pinned
 *     3. programs: loaded; the links that were left take them in place of theirs
 *     4. addListener: the address is bound, the rules written, the interfaces attached
 *     5. takeOver: the relay's start is complete. What a relay before this one left is this one's from now on: until then steps 2 to 4 only
 *        prepare that, and the engine's end leaves it as it was (inheritance.ts)
 *
 * With `bpffs` absent nothing is pinned and everything ends with the process; tests run so.
 */
import type { Endpoint } from '../../../net/address.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { MAX_KERNEL_POOLS, UPSTREAM_QUARANTINE_MS } from '../../core/limits.ts';
import type { PinGroupSpec, PinRequest } from '../../core/pin-group.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import type { Engine, ListenerStatus, SessionListing, SessionQuery, UdpListenerSpec } from '../engine.ts';
import { hasInterface, interfacesOf, LOOPBACK_INTERFACE } from './attach.ts';
import { Inheritance } from './inheritance.ts';
import { closeGround, describeOrigin, type Ground, openGround } from './kernel-ground.ts';
import type { KernelMaps } from './kernel-maps.ts';
import { KernelPinGroups } from './kernel-pin-groups.ts';
import { KernelPools } from './kernel-pools.ts';
import { KernelTcp } from './kernel-tcp.ts';
import { statusOf, withoutSessions } from './listener-status.ts';
import { type KernelListener, ListenerTable } from './listener-table.ts';
import type { Bpf } from './loader.ts';
import type { PoolWriter } from './pool-writer.ts';
import { Attachments } from './programs.ts';
import { Reach } from './reach.ts';
import { GAUGES, SESSION_KEY } from './records.ts';
import type { PortRange } from './relay-ports.ts';
import { listSessions } from './session-listing.ts';
import { SettingsRecord } from './settings-record.ts';
import type { Steward } from './steward.ts';
import { Sweeper, type WalkName } from './sweeper.ts';
import { Upkeep } from './upkeep.ts';

export interface KernelEngineOptions {
  readonly libc: Libc;
  /** The relay's name, one relay of each at a time. */
  readonly name: string;
  readonly maxSessions: number;
  /** Seed of ip-hash. */
  readonly hashSeed: number;
  /** Where clients arrive; empty: the interfaces of the listeners' addresses. */
  readonly interfaces: readonly string[];
  /** With it backends see the relay's own address and one of these ports; absent: they see the client's. */
  readonly relayPorts?: PortRange | undefined;
  /** With `relayPorts`: how many of them a listener may use. */
  readonly maxUpstreamSockets?: number | undefined;
  /** The BPF file system to pin to; absent: nothing outlives the process. */
  readonly bpffs?: string | undefined;
  /** Whether `close` leaves the programs attached. Needs `bpffs`. */
  readonly keepAttached?: boolean;
  readonly upstreamQuarantineMs?: number;
  /** The time in ms, which stands still but for `setClock`; for tests. Default: the system's monotonic clock. */
  readonly clockMs?: number;
  readonly onTrouble?: ((error: unknown) => void) | undefined;
}

export class KernelEngine implements Engine {
  readonly name = 'kernel';
  readonly maxPools = MAX_KERNEL_POOLS;
  readonly isLasting: boolean;
  /** How it began, for the log: anew, or with the sessions of a relay before it. */
  readonly origin: string;
  readonly #options: KernelEngineOptions;
  readonly #ground: Ground;
  readonly #bpf: Bpf;
  readonly #maps: KernelMaps;
  readonly #attachments: Attachments;
  readonly #listeners: ListenerTable;
  readonly #pinGroups: KernelPinGroups;
  readonly #sweeper: Sweeper;
  readonly #steward: Steward;
  readonly tcp: KernelTcp;
  readonly #pools: KernelPools;
  readonly #reach: Reach;
  readonly #upkeep: Upkeep;
  readonly #inheritance: Inheritance;
  readonly #settings: SettingsRecord;
  #final: readonly ListenerStatus[] | undefined;
  #isStarted = false;
  #isClosed = false;

  /** @throws RelayError TICKRELAY_ERR_ENGINE saying what is missing */
  constructor(options: KernelEngineOptions) {
    this.#options = options;
    this.isLasting = options.keepAttached === true && options.bpffs !== undefined;
    const { libc, name, bpffs, maxSessions, hashSeed, clockMs = 0, onTrouble } = options;
    const { upstreamQuarantineMs: quarantineMs = UPSTREAM_QUARANTINE_MS } = options;
    const groundOptions = { libc, name, bpffs, sizes: { maxSessions, maxPools: MAX_KERNEL_POOLS } };
    const ground = openGround(groundOptions);
    this.#ground = ground;
    this.#bpf = ground.bpf;
    this.#maps = ground.maps;
    this.#steward = ground.steward;
    this.#settings = new SettingsRecord(this.#maps, { maxSessions, hashSeed, quarantineMs, clockMs });
    const nowNs = (): number => this.#settings.nowNs();
    this.#pools = new KernelPools(this.#maps);
    this.#attachments = new Attachments(this.#bpf, this.#maps, ground.pins);
    const { relayPorts: ports, maxUpstreamSockets: most = Number.POSITIVE_INFINITY } = options;
    this.#listeners = new ListenerTable(libc, this.#maps, ports && { libc, ports, most });
    this.#pinGroups = new KernelPinGroups({
      bpf: this.#bpf,
      maps: this.#maps,
      steward: this.#steward,
      listeners: () => this.#listeners.all(),
      nowNs,
    });
    this.#sweeper = new Sweeper({
      bpf: this.#bpf,
      maps: this.#maps,
      steward: this.#steward,
      timeouts: (index) => this.#listeners.timeouts(index),
      isGroupPinOver: (key, values, value) => this.#pinGroups.isOver(key, values, value),
      shortest: () => this.#listeners.shortestTimeouts(),
      nowNs,
      quarantineNs: this.#settings.quarantineNs,
    });
    const sourceAddress = ports === undefined ? 'client' : 'relay';
    this.tcp = new KernelTcp({
      bpf: this.#bpf,
      maps: this.#maps,
      relayPorts: ports,
      nowNs,
      poolOf: (pool) => this.#poolOf(pool),
      letGo: (pool) => this.#letGo(pool),
      prepare: (listen) => {
        if (hasInterface(listen)) this.#attachments.prepare(interfacesOf(listen, options.interfaces));
      },
      attach: (local, pool) => {
        this.#attachments.add(interfacesOf(local, options.interfaces));
        if (!this.#isClosed) this.#reach.reachBackends(pool);
      },
    });
    this.#reach = new Reach({
      bpf: this.#bpf,
      attachments: this.#attachments,
      listeners: this.#listeners,
      otherLocals: () => this.tcp.locals(),
      otherAddresses: (pool) => this.tcp.refresh(pool),
      pools: () => this.#pools.all,
      sourceAddress,
      interfaces: options.interfaces,
      onTrouble,
    });
    const { tcp } = this;
    this.#upkeep = new Upkeep({ sweeper: this.#sweeper, tcp, reach: this.#reach, onTrouble });
    this.#inheritance = new Inheritance({
      ground,
      attachments: this.#attachments,
      listeners: this.#listeners,
      pinGroups: this.#pinGroups,
      pools: this.#pools,
      reach: this.#reach,
      tcp,
      sweep: () => this.sweep(),
      onTrouble,
    });
    try {
      this.origin = describeOrigin(ground, { ...groundOptions, connections: tcp.records });
      if (this.#inheritance.isTentative) this.#inheritance.adopt();
      else {
        const { interfaces } = options;
        this.#attachments.rehearse(interfaces.length > 0 ? interfaces : [LOOPBACK_INTERFACE]);
        this.#upkeep.start();
      }
    } catch (error) {
      // Another engine may run in this process now.
      this.#closeAll({ isKept: this.#inheritance.isTentative });
      throw error;
    }
  }

  async takeOver(): Promise<void> {
    if (this.#inheritance.isTentative) {
      await this.#inheritance.replace();
      this.#upkeep.start();
    }
    this.#isStarted = true;
  }

  async addListener(spec: UdpListenerSpec): Promise<Endpoint> {
    const bound = this.#listeners.bind(spec);
    let listener: KernelListener;
    let interfaces: readonly string[];
    let pool: PoolWriter | undefined;
    try {
      interfaces = interfacesOf(bound.local, this.#options.interfaces);
      pool = await this.#poolOf(spec.pool);
      listener = this.#listeners.open(spec, bound, pool);
      this.#pinGroups.writeViews();
    } catch (error) {
      this.#listeners.unbind(bound.socket);
      if (pool !== undefined) await this.#letGo(pool);
      throw error;
    }
    try {
      // Last, so that programs which take the place of older ones know the listener from the first datagram on.
      this.#attachments.add(interfaces);
      if (!this.#isClosed) this.#reach.reachBackends(listener.pool);
      return listener.local;
    } catch (error) {
      await this.removeListener(spec.name);
      throw error;
    }
  }

  updateListener(spec: UdpListenerSpec): Promise<void> {
    this.#listeners.update(spec);
    this.#pinGroups.writeViews();
    return Promise.resolve();
  }

  async removeListener(name: string): Promise<void> {
    const { index, pool } = this.#listeners.remove(name);
    this.#pinGroups.removeView(index);
    if (!this.#maps.isHeld) await this.sweep();
    if (!this.#isClosed) this.#listeners.free(index);
    await this.#letGo(pool);
  }

  async publish(snapshot: PoolSnapshot): Promise<void> {
    this.#pinGroups.publish(snapshot);
    const pool = await this.#pools.publish(snapshot);
    if (this.#isClosed) return;
    this.#pinGroups.writeViews();
    if (pool === undefined) return;
    this.#reach.reachBackends(pool);
    await this.tcp.published(pool);
  }

  setPinGroups(groups: readonly PinGroupSpec[]): Promise<void> {
    if (this.#isClosed) return Promise.resolve();
    this.#pinGroups.set(groups, (pool) => this.#pools.snapshotOf(pool));
    return Promise.resolve();
  }

  requestPin(request: PinRequest): Promise<string | undefined> {
    return Promise.resolve(this.#isClosed ? request.proposal : this.#pinGroups.request(request));
  }

  letPinGo(group: string, client: Uint32Array): void {
    if (!this.#isClosed) this.#pinGroups.letGo(group, client);
  }

  /** After the end: the listeners as they were then. */
  listeners(): readonly ListenerStatus[] {
    if (this.#final !== undefined) return this.#final;
    return this.#listeners.all().map((listener) => statusOf(this.#listeners, listener));
  }

  capacity(): { readonly maxSessions: number; readonly liveSessions: number; readonly livePins: number } {
    if (this.#isClosed) return { maxSessions: this.#options.maxSessions, liveSessions: 0, livePins: 0 };
    const { gauges } = this.#maps.mapped;
    return {
      maxSessions: this.#options.maxSessions,
      liveSessions: gauges.getU64(GAUGES.at.sessions),
      livePins: gauges.getU64(GAUGES.at.pins),
    };
  }

  async sessions(query: SessionQuery): Promise<SessionListing> {
    if (this.#isClosed) return { sessions: [], total: 0, truncated: false };
    const source = { bpf: this.#bpf, sessions: this.#maps.maps.sessions };
    return listSessions(source, query, {
      nowNs: this.#settings.nowNs(),
      listener: (index) => {
        const listener = this.#listeners.at(index);
        if (listener === undefined) return undefined;
        return { name: listener.spec.name, backendOf: (ref) => listener.pool.backendOf(ref) };
      },
    });
  }

  endSession(name: string, client: Endpoint): boolean {
    const listener = this.#listeners.get(name);
    if (listener === undefined) return false;
    const key = new Uint8Array(SESSION_KEY.size);
    key.set(client.ip.bytes, SESSION_KEY.at.address);
    const view = new DataView(key.buffer);
    view.setUint16(SESSION_KEY.at.port, client.port, true);
    view.setUint16(SESSION_KEY.at.listener, listener.index, true);
    this.#steward.add('endSession', key);
    return this.#steward.flush() > 0;
  }

  drain(): Promise<void> {
    this.#settings.drain();
    this.tcp.drain();
    return Promise.resolve();
  }

  /** With `keepAttached`, and before `takeOver`, only this process's part ends, and traffic goes on. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#upkeep.stop();
    this.#inheritance.close();
    await this.#pools.idle();
    const isKept = this.#inheritance.isTentative || (this.isLasting && this.#isStarted);
    if (!isKept) await this.drain();
    await this.tcp.close(isKept);
    if (!isKept) this.#attachments.detach();
    this.#final = this.listeners().map((status) => (isKept ? status : withoutSessions(status)));
    this.#closeAll({ isKept });
  }

  /**
   * Looks at everything once and ends what is due, in parts between which the event loop has its turn.
   *
   * @param onPart is told what each part walked over, and how long it took
   */
  sweep(onPart?: (walk: WalkName, tookMs: number) => void): Promise<void> {
    return this.#upkeep.sweep(onPart);
  }

  /** Sets the time that stands still, and expires what is due by then. */
  async setClock(clockMs: number): Promise<void> {
    this.#settings.setClock(clockMs);
    await this.sweep();
  }

  /** A listener whose sessions and connections have ended does not use the pool any more. */
  async #letGo(pool: PoolWriter): Promise<void> {
    if (!this.#isClosed) await this.#pools.letGo(pool);
  }

  #closeAll({ isKept }: { readonly isKept: boolean }): void {
    this.#listeners.close();
    this.#attachments.close();
    this.#sweeper.close();
    closeGround(this.#ground, isKept);
  }

  /** For a new listener, which may get an index that was freed: what was left under that is gone by then. */
  async #poolOf(name: string): Promise<PoolWriter> {
    await this.#inheritance.claimed;
    return this.#pools.of(name);
  }
}
