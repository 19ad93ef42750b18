/**
 * The relay: data planes, control plane and admin server joined. One way in and one way down, as docs/lifecycle.md
 * states:
 *
 *     start   pools are published, listeners bound, the admin server answers, what a relay before this one left is taken over; then
 *             the relay is ready
 *     drain   not ready; after a delay no new sessions or connections; those that live go on until they end or a deadline
 *     close   checks end, sessions and connections end, sockets close, the admin server last
 */
import { randomInt } from 'node:crypto';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Endpoint } from '../net/address.ts';
import { VERSION } from '../version.ts';
import { RelayError } from '../net/relay-error.ts';
import { AdminServer } from './control/admin-server.ts';
import { ConfigReloader } from './control/config-reloader.ts';
import type { ConfigOverrides, RelayConfig } from './control/config.ts';
import { ControlPlane } from './control/control-plane.ts';
import { kernelPools } from './control/kernel-room.ts';
import { Metrics } from './control/metrics.ts';
import type { Readiness, RelayView } from './control/relay-view.ts';
import { DataPlanes } from './data-planes.ts';
import { chooseEngine } from './engines/choose-engine.ts';
import { openTcpPlane } from './tcp/tcp-plane.ts';
import { TroubleLog } from './trouble-log.ts';

/** How often a draining relay looks whether its last session has ended. */
const DRAIN_POLL_MS = 100;

export interface RelayOptions {
  readonly config: RelayConfig;
  /** The file that a reload reads again; absent when there is none. */
  readonly configPath?: string | undefined;
  readonly logger: Logger;
  /** Part of `config` already. */
  readonly overrides?: ConfigOverrides;
}

export interface RelayAddresses {
  readonly listeners: ReadonlyMap<string, Endpoint>;
  readonly admin: Endpoint | undefined;
}

interface Closable {
  close(): Promise<void>;
}

type State = 'starting' | 'ready' | 'draining' | 'closed';

export class Relay {
  readonly #logger: Logger;
  readonly #planes: DataPlanes;
  readonly #engineReason: string;
  readonly #tcpReason: string;
  readonly #control: ControlPlane;
  readonly #reloader: ConfigReloader;
  readonly #admin: AdminServer;
  readonly #now = (): number => performance.now();
  #config: RelayConfig;
  #state: State = 'starting';
  #adminAddress: Endpoint | undefined;
  #closing: Promise<void> | undefined;
  readonly #loggedPlaces = new Map<string, string>();

  /**
   * @throws RelayError TICKRELAY_ERR_ENGINE when the configured engine can't run here; TICKRELAY_ERR_CONFIG when there are no
   *   descriptors for what is configured. Nothing stays open then
   */
  static async open(options: RelayOptions): Promise<Relay> {
    const opened: Closable[] = [];
    try {
      return new Relay(options, opened);
    } catch (error) {
      await Promise.allSettled(opened.reverse().map((part) => part.close()));
      throw error;
    }
  }

  /** @param opened is told of each part that holds something open, so that it can be closed if a later one fails */
  private constructor({ config, configPath, overrides, logger }: RelayOptions, opened: Closable[]) {
    this.#config = config;
    this.#logger = logger;
    const trouble = new TroubleLog(logger, this.#now);
    const { engine, reason } = chooseEngine(config.engine, {
      maxSessions: config.limits.maxSessions,
      maxUpstreamSockets: config.limits.maxUpstreamSockets,
      tcpDescriptors: tcpDescriptors(config),
      workers: config.workers,
      coalesceUs: config.coalesceUs,
      kernel: { name: config.name, ...config.kernel, pools: kernelPools(config.listeners).size },
      hashSeed: config.hashSeed,
      tableSeed: randomInt(2 ** 32),
      now: this.#now,
      onTrouble: (error) => trouble.add(error),
    });
    opened.push(engine);
    this.#engineReason = reason;
    const { plane, reason: tcpReason } = openTcpPlane({
      logger,
      hashSeed: config.hashSeed,
      isPortable: engine.name === 'dgram',
      pins: {
        request: (request) => engine.requestPin(request),
        letGo: (group, client) => engine.letPinGo(group, client),
      },
      onConnectOutcome: (pool, backend, failure) => this.#control.connected(pool, backend.id, failure),
    });
    opened.push(plane);
    this.#tcpReason = tcpReason;
    this.#planes = new DataPlanes(engine, plane);
    this.#control = new ControlPlane({
      config,
      logger,
      onSnapshot: (snapshot) => this.#planes.publish(snapshot),
      ownEndpoints: () => this.#ownEndpoints(),
    });
    opened.push(this.#control);
    this.#reloader = new ConfigReloader({
      path: configPath,
      overrides,
      logger,
      current: () => this.#config,
      apply: (next) => this.#apply(next),
    });
    const view = this.#view();
    const metrics = new Metrics({
      relay: view,
      control: this.#control,
      reloader: this.#reloader,
      version: VERSION,
    });
    this.#admin = new AdminServer({
      logger,
      relay: view,
      control: this.#control,
      reloader: this.#reloader,
      metrics,
    });
  }

  get engineName(): string {
    return this.#planes.engine.name;
  }

  /**
   * @param signal gives the start up, as a failure does
   * @returns the bound addresses
   * @throws RelayError TICKRELAY_ERR_BIND naming the address that can't be had; the signal's reason. Everything is closed again, and
   *   what a relay before this one left goes on as it was
   */
  async start(signal?: AbortSignal): Promise<RelayAddresses> {
    try {
      signal?.throwIfAborted();
      this.#control.start();
      await this.#planes.apply(this.#config.listeners, this.#config);
      this.#logTcpPlaces();
      this.#warnOfSmallBuffers();
      if (this.#config.admin !== undefined)
        this.#adminAddress = await this.#admin.listen(this.#config.admin.listen);
      // Programs are verified for a second and longer; a signal that came meanwhile is heard in a whole turn of the event loop, which
      // lies between these two.
      await setImmediate();
      await setImmediate();
      signal?.throwIfAborted();
      await this.#planes.takeOver();
    } catch (error) {
      // What went wrong first says more.
      await this.close().catch((failure: unknown) =>
        this.#logger.error({ err: failure }, 'not closed in order'),
      );
      throw error;
    }
    this.#state = 'ready';
    const addresses = { listeners: this.#planes.locals(), admin: this.#adminAddress };
    this.#logger.info(
      {
        engine: this.engineName,
        reason: this.#engineReason,
        tcpEngine: this.#planes.tcp.transport,
        listeners: Object.fromEntries(
          Array.from(addresses.listeners, ([name, local]) => [name, local.toString()]),
        ),
        receiveBufferBytes: Object.fromEntries(
          this.#planes.engine
            .listeners()
            .map(({ name, receiveBuffer }) => [name, receiveBuffer.grantedBytes]),
        ),
        admin: addresses.admin?.toString(),
      },
      'ready',
    );
    return addresses;
  }

  /** Takes the configuration file again. A bad one is logged and exported, and the old one stays. */
  async reload(): Promise<void> {
    await this.#reloader.reload().catch(() => undefined);
  }

  /** Lets the live sessions and connections go on until they end, at most for the configured deadline. */
  async drain(): Promise<void> {
    this.#state = 'draining';
    const { delayMs, deadlineMs: forMs } = this.#config.shutdown;
    this.#logger.info({ live: this.#planes.live(), delayMs, deadlineMs: forMs }, 'draining');
    // Whoever asks /readyz now and then has to learn of it while new players are still taken.
    if (delayMs > 0) await sleep(delayMs);
    const deadlineMs = this.#now() + forMs;
    await this.#planes.drain();
    while (this.#planes.live() > 0 && this.#now() < deadlineMs) {
      await sleep(Math.min(DRAIN_POLL_MS, Math.max(1, deadlineMs - this.#now())));
    }
  }

  /** Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Traffic by listener since the start, for the end of a run: final once `close` has resolved. */
  summary(): Readonly<Record<string, unknown>> {
    const { engine } = this.#planes;
    return {
      udp: Object.fromEntries(engine.listeners().map(({ name, counts }) => [name, counts])),
      tcp: Object.fromEntries(this.#planes.tcpListeners().map(({ name, counts }) => [name, counts])),
    };
  }

  async #close(): Promise<void> {
    this.#state = 'closed';
    const failures: unknown[] = [];
    for (const part of [this.#control, this.#planes, this.#admin])
      await part.close().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
  }

  /** All or nothing. A listener never lacks its pool: new pools come before the listeners, and old ones go after them. */
  async #apply(next: RelayConfig): Promise<void> {
    const opened = await this.#control.openNew(next);
    try {
      // The kernel engine's settings don't change before a restart.
      await this.#planes.apply(next.listeners, { pools: next.pools, kernel: this.#config.kernel });
    } catch (error) {
      await this.#control.abandon(opened);
      throw error;
    }
    await this.#control.applyConfig(next);
    this.#logTcpPlaces();
    this.#warnOfSmallBuffers();
    // A change of these takes effect after a restart; the reload has warned.
    const { name, engine, workers, coalesceUs, hashSeed, kernel, limits } = this.#config;
    const admin = keptAdmin(this.#config.admin, next.admin);
    this.#config = { ...next, name, engine, workers, coalesceUs, hashSeed, kernel, limits, admin };
    this.#logger.level = next.log.level;
  }

  /** Once for each listener, and again when it moves. */
  #logTcpPlaces(): void {
    for (const [listener, { isInKernel, reason }] of this.#planes.tcpPlaces()) {
      const engine = isInKernel ? 'kernel' : 'userspace';
      if (this.#loggedPlaces.get(listener) === engine) continue;
      this.#loggedPlaces.set(listener, engine);
      this.#logger.info({ listener, engine, reason }, 'tcp listener');
    }
  }

  #warnOfSmallBuffers(): void {
    for (const { name, receiveBuffer } of this.#planes.engine.listeners()) {
      const { askedBytes, grantedBytes = askedBytes } = receiveBuffer;
      if (grantedBytes >= askedBytes) continue;
      this.#logger.warn(
        `listener ${name} has a receive buffer of ${grantedBytes} bytes instead of ${askedBytes}, so bursts of datagrams ` +
          `may be lost; raise the system's limit (on Linux: sysctl -w net.core.rmem_max=${askedBytes}) and restart the ` +
          'relay, or lower receiveBufferBytes of the listener',
      );
    }
  }

  #ownEndpoints(): readonly Endpoint[] {
    const own = [...this.#planes.locals().values()];
    return this.#adminAddress === undefined ? own : [...own, this.#adminAddress];
  }

  #view(): RelayView {
    const { engine } = this.#planes;
    return {
      engine: () => ({ name: engine.name, reason: this.#engineReason }),
      tcpEngine: () => ({ name: this.#planes.tcp.transport, reason: this.#tcpReason }),
      udpListeners: () => engine.listeners(),
      tcpListeners: () => this.#planes.tcpListeners(),
      capacity: () => engine.capacity(),
      sessions: (query) => engine.sessions(query),
      connections: (query) => this.#planes.connections(query),
      endSession: (listener, client) => {
        if (engine.endSession !== undefined) return engine.endSession(listener, client);
        throw new RelayError(
          'TICKRELAY_ERR_ENGINE',
          `engine ${engine.name} can't end a single session; kernel can`,
        );
      },
      pinnedBackend: (group, pool, client) => engine.requestPin({ group, pool, client, hold: false }),
      closeConnection: (id) => this.#planes.closeConnection(id),
      readiness: () => this.#readiness(),
      config: () => this.#config,
    };
  }

  #readiness(): Readiness {
    if (this.#state !== 'ready') return { ready: false, reasons: [`the relay is ${this.#state}`] };
    const settling = this.#control.pools().filter(({ isSettling }) => isSettling);
    const reasons = settling.map(
      ({ config }) => `pool "${config.name}" is settling: its servers register again`,
    );
    return { ready: reasons.length === 0, reasons };
  }
}

/**
 * The admin server keeps its address until a restart, and so it keeps its token where a new configuration names no admin server:
 * else whoever reaches the address could do anything.
 */
function keptAdmin(current: RelayConfig['admin'], next: RelayConfig['admin']): RelayConfig['admin'] {
  return current && { ...(next ?? current), listen: current.listen };
}

/** A connection has two ends; one that waits in the queue has one. */
function tcpDescriptors({ listeners }: RelayConfig): number {
  return listeners.reduce(
    (sum, listener) =>
      sum + (listener.protocol === 'tcp' ? 2 * listener.maxConnections + listener.queue.size : 0),
    0,
  );
}
