/**
 * One pool: who is in it (registration-book.ts), whether they are well (pool-health.ts), what the operator says, and the
 * snapshot of it all that the data planes obey.
 *
 * A pool that takes registrations settles first: until every server had the time to register, nobody is ready. Otherwise
 * all players of a restarted relay would be pinned to the server whose heartbeat comes first.
 */
import type { Logger } from 'pino';
import { setImmediate as setImmediatePromise } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Endpoint } from '../../net/address.ts';
import { BackendPool, type Backend } from '../core/backend-pool.ts';
import type { PoolSnapshot } from '../core/pool-snapshot.ts';
import type { BackendConfig, PoolConfig } from './config.ts';
import { SLICES } from './health-monitor.ts';
import type { LoopClock } from './loop-clock.ts';
import { PoolHealth } from './pool-health.ts';
import { poolLog, type PoolLog } from './pool-log.ts';
import type { BackendView, PoolCounts, PoolView } from './pool-view.ts';
import { RegistrationBook } from './registration-book.ts';
import type { RegistrationRequest } from './registration-request.ts';

export interface PoolControllerOptions {
  readonly config: PoolConfig;
  readonly clock: LoopClock;
  /** The addresses that the relay itself listens on, which can't be backends. */
  readonly ownEndpoints: () => readonly Endpoint[];
  /** Resolves when the data planes obey. */
  readonly onSnapshot: (snapshot: PoolSnapshot) => Promise<void>;
  readonly logger: Logger;
}

export class PoolController {
  readonly #options: PoolControllerOptions;
  readonly #pool: BackendPool;
  readonly #book: RegistrationBook;
  readonly #health: PoolHealth;
  readonly #log: PoolLog;
  #config: PoolConfig;
  /** What is published while the pool settles: nobody. */
  readonly #unsettled: PoolSnapshot;
  #isSettling: boolean;
  #settleTimer: NodeJS.Timeout | undefined;
  #published: PoolSnapshot | undefined;
  #pendingPublish: NodeJS.Immediate | undefined;
  /** Settles when the data planes obey what was published last. */
  #obeyed: Promise<void> = Promise.resolve();
  #heartbeatTimer: NodeJS.Timeout | undefined;
  /** Drains with a deadline, by backend id. */
  readonly #drains = new Map<string, { readonly timer: NodeJS.Timeout; readonly endsAtMs: number }>();
  #isClosed = false;

  constructor(options: PoolControllerOptions) {
    const { config, clock, ownEndpoints, logger } = options;
    this.#options = options;
    this.#config = config;
    this.#log = poolLog(logger, config.name);
    this.#pool = new BackendPool(config.name);
    this.#unsettled = { ...new BackendPool(config.name).snapshot(), isSettling: true };
    this.#isSettling = (config.registration?.settleMs ?? 0) > 0;
    const shared = { pool: this.#pool, clock, log: this.#log };
    this.#book = new RegistrationBook({ ...shared, config, ownEndpoints });
    this.#health = new PoolHealth({
      ...shared,
      healthCheck: config.healthCheck,
      book: this.#book,
      onOutcome: () => this.#publishSoon(),
    });
  }

  get config(): PoolConfig {
    return this.#config;
  }

  get isSettling(): boolean {
    return this.#isSettling;
  }

  /** Publishes the first snapshot and begins to check. */
  start(): void {
    if (this.#isSettling) this.#settle(this.#options.clock.nowMs());
    this.#publish();
    this.#startChecks();
  }

  /** @throws RelayError TICKRELAY_ERR_LIMIT when these static backends and the registered ones are too many */
  reserveRoom(wanted: readonly BackendConfig[]): void {
    this.#book.reserveRoom(wanted);
  }

  /** The configuration that room was reserved for does not come. */
  releaseRoom(): void {
    this.#book.releaseRoom();
  }

  /** Takes over a new configuration of the same pool. Backends that it does not change keep their slot and state. */
  async apply(config: PoolConfig): Promise<void> {
    const isNewCheck = !isDeepStrictEqual(config.healthCheck, this.#config.healthCheck);
    this.#config = config;
    this.#book.apply(config);
    if (isNewCheck) {
      this.#book.restartLeases();
      this.#health.judgeBy(config.healthCheck);
      await this.#stopChecks();
      this.#startChecks();
    }
    this.#publish();
    await this.#obeyed;
  }

  /**
   * Registers a backend, or takes the repeated request as a heartbeat.
   *
   * @throws Refusal when it can't be, with nothing changed
   */
  register(id: string, request: RegistrationRequest): void {
    if (this.#book.register(id, request) === 'renewed') this.#health.heartbeat(this.#book.memberOf(id));
    this.#publishSoon();
  }

  /** A registration was refused, here or before it came this far. */
  countRefusal(): void {
    this.#book.countRefusal();
  }

  /** @throws Refusal 404 or 409 */
  leave(id: string): void {
    this.#book.leave(id);
    this.#publishSoon();
  }

  /** A client's TCP connection to the backend opened (`failure` is undefined), or did not. */
  connected(id: string, failure: string | undefined): void {
    const member = this.#book.get(id);
    if (member !== undefined && this.#health.connected(member, failure)) this.#publishSoon();
  }

  /**
   * Keeps its players, takes no new ones.
   *
   * @param deadlineMs after which those that are left are released, too; without one they may stay until they end
   * @throws Refusal 404
   */
  drain(id: string, deadlineMs?: number): BackendView {
    this.#operate(id, { draining: true, enabled: true });
    if (deadlineMs !== undefined) {
      const timer = setTimeout(() => this.disable(id), deadlineMs).unref();
      this.#drains.set(id, { timer, endsAtMs: this.#options.clock.nowMs() + deadlineMs });
    }
    return this.backend(id);
  }

  /** Ends a drain or a disabling. @throws Refusal 404 */
  enable(id: string): BackendView {
    return this.#operate(id, { draining: false, enabled: true });
  }

  /** Releases its players at once. @throws Refusal 404 */
  disable(id: string): BackendView {
    return this.#operate(id, { draining: false, enabled: false });
  }

  /** @throws Refusal 404 */
  backend(id: string): BackendView {
    this.#book.memberOf(id);
    return this.#viewOf(this.#pool.get(id)!);
  }

  view(): PoolView {
    const backends = this.#pool.list().map((backend) => this.#viewOf(backend));
    return {
      name: this.#pool.name,
      settling: this.#isSettling,
      ready: this.#isSettling ? 0 : backends.filter(({ state }) => state === 'ready').length,
      backends,
    };
  }

  counts(): PoolCounts {
    return { checks: this.#health.counts(), registrations: this.#book.counts() };
  }

  /** Takes every backend out and publishes the empty pool: it left the configuration. */
  async remove(): Promise<void> {
    this.#book.clear();
    this.#publish();
    await this.#obeyed;
    await this.close();
  }

  /** Waits until the data planes obey all that was decided so far. */
  async obeyed(): Promise<void> {
    if (this.#pendingPublish !== undefined) await setImmediatePromise();
    await this.#obeyed;
  }

  /** Ends the checks. Idempotent. */
  close(): Promise<void> {
    this.#isClosed = true;
    clearImmediate(this.#pendingPublish);
    clearTimeout(this.#settleTimer);
    for (const id of [...this.#drains.keys()]) this.#forgetDrain(id);
    return this.#stopChecks();
  }

  /** Waits by the loop clock: heartbeats that a stalled loop has not read yet are waited for, too. */
  #settle(startedAtMs: number): void {
    const { registration } = this.#config;
    const leftMs = startedAtMs + (registration?.settleMs ?? 0) - this.#options.clock.nowMs();
    if (leftMs > 0) {
      this.#settleTimer = setTimeout(() => this.#settle(startedAtMs), leftMs).unref();
      return;
    }
    this.#isSettling = false;
    this.#log('info', { ready: this.view().ready }, 'settled: takes players');
    this.#publishSoon();
  }

  #forgetDrain(id: string): void {
    clearTimeout(this.#drains.get(id)?.timer);
    this.#drains.delete(id);
  }

  #operate(
    id: string,
    { draining, enabled }: { readonly draining: boolean; readonly enabled: boolean },
  ): BackendView {
    this.#book.memberOf(id);
    this.#forgetDrain(id);
    const isDrainChanged = this.#pool.setDraining(id, draining);
    const isEnabledChanged = this.#pool.setEnabled(id, enabled);
    const view = this.backend(id);
    if (isDrainChanged || isEnabledChanged)
      this.#log('info', { backend: id, state: view.state }, 'changed by operator');
    this.#publishSoon();
    return view;
  }

  #viewOf({ id, endpoint, weight, state }: Backend): BackendView {
    const member = this.#book.memberOf(id);
    const { origin, players, hasHeartbeat, heartbeatAtMs } = member;
    const failure = this.#health.failureOf(member);
    const nowMs = this.#options.clock.nowMs();
    const heartbeatAgeMs = Math.round(nowMs - heartbeatAtMs);
    const drain = state === 'draining' ? this.#drains.get(id) : undefined;
    return {
      id,
      address: endpoint.toString(),
      weight,
      state,
      origin,
      ...(players === undefined ? {} : { players }),
      ...(hasHeartbeat ? { heartbeatAgeMs } : {}),
      ...(failure === undefined ? {} : { failure }),
      ...(drain === undefined ? {} : { drainLeftMs: Math.max(0, Math.round(drain.endsAtMs - nowMs)) }),
    };
  }

  #startChecks(): void {
    if (this.#isClosed) return;
    const watch = (): void => this.#watchHeartbeats();
    this.#heartbeatTimer = setInterval(watch, this.#config.healthCheck.intervalMs / SLICES).unref();
    this.#health.start();
  }

  async #stopChecks(): Promise<void> {
    clearInterval(this.#heartbeatTimer);
    await this.#health.stop();
  }

  #watchHeartbeats(): void {
    this.#book.expire();
    for (const id of [...this.#drains.keys()]) if (this.#book.get(id) === undefined) this.#forgetDrain(id);
    this.#health.countMissed();
    this.#publish();
  }

  /**
   * Publishes when the loop has handled what it has read, and before it reads more: no datagram that follows a change
   * misses it, and a burst of changes costs one table instead of one for each.
   */
  #publishSoon(): void {
    this.#pendingPublish ??= setImmediate(() => this.#publish());
  }

  #publish(): void {
    clearImmediate(this.#pendingPublish);
    this.#pendingPublish = undefined;
    const snapshot = this.#isSettling ? this.#unsettled : this.#pool.snapshot();
    if (snapshot === this.#published) return;
    this.#published = snapshot;
    this.#obeyed = this.#options.onSnapshot(snapshot);
  }
}
