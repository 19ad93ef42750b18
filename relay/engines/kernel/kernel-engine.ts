/**
 * The kernel data plane: eBPF programs on the client-facing interfaces move every datagram; this side writes what the control
 * plane decides into their maps, expires sessions, and reads figures and sessions back. TCP listeners are kernel-tcp.ts's.
 *
 *     1. the name is taken, the BPF file system found
 *     2. maps: taken over from a relay of this name that left them, or made and pinned
 *     3. programs: loaded; the links that were left take them in place of theirs
 *     4. addListener: the address is bound, the rules written, the interfaces attached
 *
 * With `bpffs` absent nothing is pinned and everything ends with the process; tests run so.
 */
import { Endpoint } from '../../../net/address.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { BackendPool } from '../../core/backend-pool.ts';
import { UPSTREAM_QUARANTINE_MS } from '../../core/limits.ts';
import type { PinGroupSpec, PinRequest } from '../../core/pin-group.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import type { ReplyTimes } from '../../core/reply-times.ts';
import type { Engine, ListenerStatus, SessionListing, SessionQuery, UdpListenerSpec } from '../engine.ts';
import { hasInterface, interfacesOf } from './attach.ts';
import { PinDirectory, requireBpffs } from './bpffs.ts';
import { KernelMaps } from './kernel-maps.ts';
import { KernelPinGroups } from './kernel-pin-groups.ts';
import { KernelTcp } from './kernel-tcp.ts';
import { type KernelListener, ListenerTable } from './listener-table.ts';
import { Bpf } from './loader.ts';
import { GAUGES, type MapSizes, SESSION_KEY, SETTINGS } from './maps.ts';
import { takeName } from './name-lock.ts';
import { PoolWriter } from './pool-writer.ts';
import { Attachments, loadProgram } from './programs.ts';
import { whyUnreachable } from './reachability.ts';
import type { PortRange } from './relay-source.ts';
import { listSessions } from './session-listing.ts';
import { Steward } from './steward.ts';
import { Sweeper, type WalkName } from './sweeper.ts';

/** Pools that listeners of one relay may use. */
const MAX_POOLS = 32;

/** Time between two parts of a sweep, and what one may take, in ms. */
const SWEEP_INTERVAL_MS = 50;
const SWEEP_BUDGET_MS = 4;

/** How long listeners of a relay before this one go on before this one, which has not claimed them, removes them, in ms. */
const CLAIM_MS = 10_000;

/** How often is looked for interfaces that came up, and routes to backends that changed, in ms. */
const INTERFACES_INTERVAL_MS = 2_000;

const NS_PER_MS = 1e6;

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
  readonly isLasting: boolean;
  /** How it began, for the log: anew, or with the sessions of a relay before it. */
  readonly origin: string;
  readonly #options: KernelEngineOptions;
  readonly #bpf: Bpf;
  readonly #maps: KernelMaps;
  readonly #pins: PinDirectory | undefined;
  readonly #lock: { release(): void } | undefined;
  readonly #attachments: Attachments;
  readonly #listeners: ListenerTable;
  readonly #pinGroups: KernelPinGroups;
  readonly #sweeper: Sweeper;
  readonly #steward: Steward;
  readonly tcp: KernelTcp;
  readonly #pools = new Map<string, PoolWriter>();
  readonly #snapshots = new Map<string, PoolSnapshot>();
  readonly #sweepTimer: NodeJS.Timeout;
  readonly #interfacesTimer: NodeJS.Timeout;
  readonly #claimTimer: NodeJS.Timeout | undefined;
  /** What was warned of already. */
  readonly #warned = new Set<string>();
  #clockMs: number;
  #final: readonly ListenerStatus[] | undefined;
  #isClosed = false;

  /** @throws RelayError TICKRELAY_ERR_ENGINE saying what is missing */
  constructor(options: KernelEngineOptions) {
    this.#options = options;
    this.isLasting = options.keepAttached === true && options.bpffs !== undefined;
    this.#clockMs = options.clockMs ?? 0;
    const { libc, onTrouble } = options;
    const ground = openGround(options);
    const { adopted } = ground;
    this.#bpf = ground.bpf;
    this.#lock = ground.lock;
    this.#pins = ground.pins;
    this.#maps = ground.maps;
    this.#steward = ground.steward;
    this.#writeSettings();
    this.#attachments = new Attachments(this.#bpf, this.#maps, this.#pins);
    const { relayPorts: range, maxUpstreamSockets: most = Number.POSITIVE_INFINITY } = options;
    this.#listeners = new ListenerTable(libc, this.#maps, range && { range, most });
    this.#pinGroups = new KernelPinGroups({
      bpf: this.#bpf,
      maps: this.#maps,
      steward: this.#steward,
      listeners: () => this.#listeners.all(),
      nowNs: () => this.#nowNs(),
    });
    this.#sweeper = new Sweeper({
      bpf: this.#bpf,
      maps: this.#maps,
      steward: this.#steward,
      timeouts: (index) => this.#listeners.timeouts(index),
      isGroupPinOver: (key, values, value) => this.#pinGroups.isOver(key, values, value),
      shortest: () => this.#listeners.shortestTimeouts(),
      nowNs: () => this.#nowNs(),
      quarantineNs: this.#quarantineMs * NS_PER_MS,
    });
    this.tcp = new KernelTcp({
      bpf: this.#bpf,
      maps: this.#maps,
      sourceAddress: range === undefined ? 'client' : 'relay',
      nowNs: () => this.#nowNs(),
      poolOf: (name) => this.#poolOf(name),
      attach: (local) => this.#attachments.add(interfacesOf(local, options.interfaces)),
    });
    if (adopted === true) {
      this.#adoptPools();
      this.#pinGroups.forgetAdopted();
    }
    if (adopted !== false) {
      this.#attachments.adopt({ sharesMaps: adopted === true });
      this.#claimTimer = setTimeout(() => this.#removeUnclaimed(), CLAIM_MS).unref();
    }
    this.origin = this.#describeOrigin(adopted);
    // Keeps the process alive, as sockets would: the programs need none.
    this.#sweepTimer = setInterval(() => {
      try {
        this.#sweeper.sweepDue(SWEEP_BUDGET_MS);
        this.tcp.sweep(SWEEP_BUDGET_MS);
      } catch (error) {
        onTrouble?.(error);
      }
    }, SWEEP_INTERVAL_MS);
    this.#interfacesTimer = setInterval(() => this.#followInterfaces(), INTERFACES_INTERVAL_MS).unref();
  }

  async addListener(spec: UdpListenerSpec): Promise<Endpoint> {
    const bound = this.#listeners.bind(spec);
    let listener: KernelListener;
    let interfaces: readonly string[];
    try {
      interfaces = interfacesOf(bound.local, this.#options.interfaces);
      const pool = await this.#poolOf(spec.pool);
      listener = this.#listeners.open(spec, bound, pool);
      this.#pinGroups.writeViews();
    } catch (error) {
      this.#listeners.unbind(bound.socket);
      throw error;
    }
    try {
      // Last, so that programs which take the place of older ones know the listener from the first datagram on.
      this.#attachments.add(interfaces);
      this.#reachBackends(listener.pool);
      return listener.local;
    } catch (error) {
      this.#remove(spec.name);
      throw error;
    }
  }

  updateListener(spec: UdpListenerSpec): Promise<void> {
    this.#listeners.update(spec);
    this.#pinGroups.writeViews();
    return Promise.resolve();
  }

  async removeListener(name: string): Promise<void> {
    this.#remove(name);
    await this.sweep();
  }

  async publish(snapshot: PoolSnapshot): Promise<void> {
    this.#snapshots.set(snapshot.pool, snapshot);
    this.#pinGroups.publish(snapshot);
    const pool = this.#pools.get(snapshot.pool);
    // What is known from a relay before this one holds until the pool has settled.
    if (pool !== undefined && snapshot.isSettling !== true) await pool.publish(snapshot);
    if (this.#isClosed) return;
    this.#pinGroups.writeViews();
    if (pool === undefined || snapshot.isSettling === true) return;
    this.#reachBackends(pool);
    await this.tcp.published(pool);
  }

  setPinGroups(groups: readonly PinGroupSpec[]): Promise<void> {
    if (this.#isClosed) return Promise.resolve();
    const snapshotOf = (pool: string): PoolSnapshot =>
      this.#snapshots.get(pool) ?? new BackendPool(pool).snapshot();
    this.#pinGroups.set(groups, snapshotOf);
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
    return this.#listeners.all().map((listener) => this.#status(listener));
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
      nowNs: this.#nowNs(),
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
    this.#maps.mapped.settings.setU32(SETTINGS.at.draining, 1);
    this.tcp.drain();
    return Promise.resolve();
  }

  /** With `keepAttached` only this process's part ends, and traffic goes on. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearInterval(this.#sweepTimer);
    clearInterval(this.#interfacesTimer);
    clearTimeout(this.#claimTimer);
    await Promise.all(Array.from(this.#pools.values(), (pool) => pool.idle()));
    if (!this.isLasting) await this.drain();
    await this.tcp.close(this.isLasting);
    if (!this.isLasting) {
      this.#attachments.detach();
      this.#pins?.remove();
    }
    this.#final = this.listeners().map((status) => (this.isLasting ? status : withoutSessions(status)));
    this.#listeners.close();
    this.#attachments.close();
    this.#sweeper.close();
    this.#steward.close();
    this.#maps.close();
    this.#bpf.close();
    this.#lock?.release();
  }

  /**
   * Looks at everything once and ends what is due, in parts between which the event loop has its turn.
   *
   * @param onPart is told what each part walked over, and how long it took
   */
  async sweep(onPart?: (walk: WalkName, tookMs: number) => void): Promise<void> {
    this.#sweeper.startRound();
    while (!this.#isClosed) {
      const startMs = performance.now();
      const { walk, isEnd } = this.#sweeper.sweepRound(SWEEP_BUDGET_MS);
      onPart?.(walk, performance.now() - startMs);
      if (isEnd) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Sets the time that stands still, and expires what is due by then. */
  async setClock(clockMs: number): Promise<void> {
    this.#clockMs = clockMs;
    this.#maps.mapped.settings.setU64(SETTINGS.at.fixedClockNs, clockMs * NS_PER_MS);
    await this.sweep();
  }

  #remove(listener: string): void {
    const { index } = this.#listeners.remove(listener);
    this.#pinGroups.removeView(index);
  }

  get #quarantineMs(): number {
    return this.#options.upstreamQuarantineMs ?? UPSTREAM_QUARANTINE_MS;
  }

  #nowNs(): number {
    return this.#clockMs === 0 ? Number(process.hrtime.bigint()) : this.#clockMs * NS_PER_MS;
  }

  #writeSettings(): void {
    const { settings } = this.#maps.mapped;
    settings.setU32(SETTINGS.at.draining, 0);
    settings.setU64(SETTINGS.at.fixedClockNs, this.#clockMs * NS_PER_MS);
    settings.setU64(SETTINGS.at.quarantineNs, this.#quarantineMs * NS_PER_MS);
    settings.setU32(SETTINGS.at.maxResting, this.#options.maxSessions);
    settings.setU32(SETTINGS.at.hashSeed, this.#options.hashSeed);
  }

  /** Pools of a relay before this one. Listeners are found again as they are added. */
  #adoptPools(): void {
    for (let index = 0; index < MAX_POOLS; index++) {
      const name = this.#maps.names.pool(index);
      if (name === '') continue;
      const pool = new PoolWriter(this.#maps, index);
      pool.adopt();
      this.#pools.set(name, pool);
    }
  }

  /** What the relay before this one served and this one was not asked for. */
  #removeUnclaimed(): void {
    this.#listeners.removeUnclaimed();
    this.tcp.removeUnclaimed();
    this.#attachments.dropInherited();
  }

  #describeOrigin(adopted: Ground['adopted']): string {
    const mib = Math.ceil(this.#maps.memoryBytes / 2 ** 20);
    const memory = `${mib} MiB of kernel memory for ${this.#options.maxSessions} sessions`;
    const dead = deadRelays(this.#options).map(
      (name) => `; dead relay "${name}" is still attached, \`tickrelay detach ${name}\` removes it`,
    );
    const rest = dead.join('');
    if (adopted === false) return `${memory}${rest}`;
    if (typeof adopted === 'string')
      return `${memory}; the sessions of the relay before this one could not be adopted: ${adopted}${rest}`;
    const { records } = this.tcp;
    const connections = records === 0 ? '' : ` and ${records} TCP connections`;
    return `${memory}; adopted ${this.capacity().liveSessions} sessions${connections}${rest}`;
  }

  /** With sourceAddress `relay` replies come in where the backends are. */
  #reachBackends(pool: PoolWriter): void {
    if (this.#isClosed) return;
    this.#warnOfUnreachable(pool);
    const addresses = this.#listeners.refresh(pool);
    if (this.#options.interfaces.length > 0) return;
    for (const ip of addresses) this.#attachments.add(interfacesOf(new Endpoint(ip, 0), []));
  }

  /** Interfaces come and go, and with them addresses and routes: what a listener was attached to at first need not be all. */
  #followInterfaces(): void {
    this.#attachments.prune();
    const locals = [...this.#listeners.all().map(({ local }) => local), ...this.tcp.locals()];
    for (const local of locals) this.#try(() => this.#follow(local));
    for (const pool of this.#pools.values()) this.#try(() => this.#reachBackends(pool));
  }

  /** Attaches to the listener's interfaces that are there. */
  #follow(local: Endpoint): void {
    const { libc } = this.#bpf;
    const named = this.#options.interfaces;
    // An address may be without an interface for a while.
    if (named.length === 0 && !hasInterface(local)) return;
    const there = interfacesOf(local, named).filter((name) => libc.if_nametoindex(name) !== 0);
    for (const name of there) this.#try(() => this.#attachments.add([name]));
  }

  /** Reports what fails, once. */
  #try(act: () => void): void {
    try {
      act();
    } catch (error) {
      const text = String(error);
      if (this.#warned.has(text)) return;
      this.#warned.add(text);
      this.#options.onTrouble?.(error);
    }
  }

  /** Once for each backend of each listener. */
  #warnOfUnreachable(pool: PoolWriter): void {
    const sourceAddress = this.#options.relayPorts === undefined ? 'client' : 'relay';
    for (const { local, ...listener } of this.#listeners.all()) {
      if (listener.pool !== pool) continue;
      for (const { entry } of pool.backends()) {
        const why = whyUnreachable(local, entry.endpoint, sourceAddress);
        if (why === undefined || this.#warned.has(why)) continue;
        this.#warned.add(why);
        this.#options.onTrouble?.(new RelayError('TICKRELAY_ERR_ENGINE', why));
      }
    }
  }

  /** The pool's writer; a pool that was not published yet is empty. */
  async #poolOf(name: string): Promise<PoolWriter> {
    let pool = this.#pools.get(name);
    if (pool !== undefined) return pool;
    const index = Array.from({ length: MAX_POOLS }, (_, i) => i).find((i) => this.#maps.names.pool(i) === '');
    if (index === undefined) {
      throw new RelayError(
        'TICKRELAY_ERR_LIMIT',
        `engine kernel has room for ${MAX_POOLS} pools, and "${name}" is one more`,
      );
    }
    pool = new PoolWriter(this.#maps, index);
    this.#maps.names.setPool(index, name);
    this.#pools.set(name, pool);
    await pool.publish(this.#snapshots.get(name) ?? new BackendPool(name).snapshot());
    return pool;
  }

  #status(listener: KernelListener): ListenerStatus {
    const { spec, local, pool } = listener;
    const counters = this.#listeners.counters(listener);
    const sessionsByBackend = new Map<string, number>();
    const replyTimesByBackend = new Map<string, ReplyTimes>();
    for (const { slot, entry, liveSessions } of pool.backends()) {
      sessionsByBackend.set(entry.id, liveSessions);
      replyTimesByBackend.set(entry.id, pool.replyTimes(slot));
    }
    return {
      name: spec.name,
      local,
      pool: spec.pool,
      counts: counters.dump(),
      liveSessions: counters.liveSessions,
      sessionsByBackend,
      upstreamSockets: 0,
      // Datagrams pass before there is a buffer.
      receiveBuffer: { askedBytes: spec.receiveBufferBytes, grantedBytes: undefined },
      replyTimesByBackend,
    };
  }
}

/** They ended with the maps. */
function withoutSessions(status: ListenerStatus): ListenerStatus {
  const sessionsByBackend = new Map(Array.from(status.sessionsByBackend.keys(), (id) => [id, 0]));
  return { ...status, liveSessions: 0, sessionsByBackend };
}

/** Other relays that left something in the file system and do not run: they still take their listeners' datagrams. */
function deadRelays({ libc, name, bpffs }: KernelEngineOptions): readonly string[] {
  if (bpffs === undefined) return [];
  return PinDirectory.names(bpffs).filter((other) => {
    if (other === name) return false;
    const lock = takeName(libc, other, bpffs);
    lock?.release();
    return lock !== undefined;
  });
}

/** What an engine stands on. */
interface Ground {
  readonly bpf: Bpf;
  readonly lock: { release(): void } | undefined;
  readonly pins: PinDirectory | undefined;
  readonly maps: KernelMaps;
  readonly steward: Steward;
  /** Whether the maps are those of a relay before this one; a text says why what it left does not fit. */
  readonly adopted: boolean | string;
}

/** Steps 1 and 2 of the head of this file, and the steward; on a failure nothing stays open. @throws RelayError */
function openGround({ libc, name, bpffs, maxSessions }: KernelEngineOptions): Ground {
  const opened: (() => void)[] = [];
  try {
    const bpf = new Bpf(libc);
    opened.push(() => bpf.close());
    let lock: Ground['lock'];
    let pins: PinDirectory | undefined;
    if (bpffs !== undefined) {
      lock = lockName(libc, name, bpffs);
      opened.push(() => lock?.release());
      requireBpffs(libc, bpffs);
      pins = new PinDirectory(bpffs, name);
    }
    const sizes = { maxSessions, maxPools: MAX_POOLS };
    const left = pins?.exists === true ? KernelMaps.adopt(bpf, sizes, pins) : undefined;
    const maps = left instanceof KernelMaps ? left : makeMaps(bpf, sizes, pins);
    opened.push(() => maps.close());
    const program = loadProgram(bpf, maps, { hook: 'steward' });
    const steward = new Steward(bpf, program, maps.mapped.requests);
    const adopted = left instanceof KernelMaps ? true : (left ?? false);
    return { bpf, lock, pins, maps, steward, adopted };
  } catch (error) {
    for (const close of opened.reverse()) close();
    throw error;
  }
}

/** New maps, in the place of what cannot be adopted. Its links stay, until the listeners are there to take them over. */
function makeMaps(bpf: Bpf, sizes: MapSizes, pins: PinDirectory | undefined): KernelMaps {
  pins?.removeMaps();
  const maps = KernelMaps.create(bpf, sizes);
  try {
    pins?.make();
    if (pins !== undefined) maps.pin(pins);
    return maps;
  } catch (error) {
    maps.close();
    throw error;
  }
}

/** @throws RelayError TICKRELAY_ERR_ENGINE when a relay of this name runs */
function lockName(libc: Libc, name: string, scope: string): { release(): void } {
  const lock = takeName(libc, name, scope);
  if (lock !== undefined) return lock;
  throw new RelayError(
    'TICKRELAY_ERR_ENGINE',
    `a relay named "${name}" runs on this machine already; give this one another name (--name)`,
  );
}
