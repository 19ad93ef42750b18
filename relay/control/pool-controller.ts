/**
 * One pool: its static and registered backends, their health, and the snapshot that the data planes obey.
 *
 * - Static backends begin as ready and fall after `fall` failed checks; they stay listed until the configuration drops them.
 * - A registered backend is ready at once, and leaves by itself `fall x interval` after its last heartbeat.
 * - With the health check `heartbeat`, each interval without one is a failed check.
 * - A pool that takes registrations settles first: until every server had the time to register, nobody is ready. Otherwise
 *   all players of a restarted relay would be pinned to the server whose heartbeat comes first.
 */
import type { Logger } from 'pino';
import { setImmediate as setImmediatePromise } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { BackendPool, type Backend } from '../core/backend-pool.ts';
import { HealthTracker } from '../core/health-tracker.ts';
import { MAX_BACKENDS } from '../core/limits.ts';
import type { PoolSnapshot } from '../core/pool-snapshot.ts';
import type { BackendConfig, PoolConfig } from './config.ts';
import { activeCheck } from './health-checks/health-check.ts';
import { HealthMonitor, SKIPPED, SLICES, type CheckOutcome, type CheckTarget } from './health-monitor.ts';
import type { LoopClock } from './loop-clock.ts';
import type { BackendView, CheckResult, PoolCounts, PoolView, RegistrationResult } from './pool-view.ts';
import { Refusal } from './refusal.ts';
import { checkBackendId, type RegistrationRequest } from './registration-request.ts';
import { checkTarget } from './registration-rules.ts';

export interface PoolControllerOptions {
  readonly config: PoolConfig;
  readonly clock: LoopClock;
  /** The addresses that the relay itself listens on, which can't be backends. */
  readonly ownEndpoints: () => readonly Endpoint[];
  /** Resolves when the data planes obey. */
  readonly onSnapshot: (snapshot: PoolSnapshot) => Promise<void>;
  readonly logger: Logger;
}

interface Member extends CheckTarget {
  readonly id: string;
  origin: 'static' | 'registered';
  tracker: HealthTracker;
  failure: string | undefined;
  players: number | undefined;
  /** By the loop clock; for a static backend without any, when it was added. */
  heartbeatAtMs: number;
  hasHeartbeat: boolean;
  /** Intervals without a heartbeat that were recorded since the last one. */
  missed: number;
}

export class PoolController {
  readonly #options: PoolControllerOptions;
  readonly #pool: BackendPool;
  readonly #members = new Map<string, Member>();
  readonly #checks: Record<CheckResult, number> = { ok: 0, failed: 0, skipped: 0 };
  readonly #registrations: Record<RegistrationResult, number> = {
    registered: 0,
    renewed: 0,
    left: 0,
    expired: 0,
    refused: 0,
  };
  #config: PoolConfig;
  /** What is published while the pool settles: nobody. */
  readonly #unsettled: PoolSnapshot;
  #isSettling: boolean;
  #settleTimer: NodeJS.Timeout | undefined;
  #published: PoolSnapshot | undefined;
  #pendingPublish: NodeJS.Immediate | undefined;
  /** Settles when the data planes obey what was published last. */
  #obeyed: Promise<void> = Promise.resolve();
  #monitor: HealthMonitor<Member> | undefined;
  #heartbeatTimer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(options: PoolControllerOptions) {
    this.#options = options;
    this.#config = options.config;
    this.#pool = new BackendPool(options.config.name);
    this.#unsettled = new BackendPool(options.config.name).snapshot();
    this.#isSettling = (options.config.registration?.settleMs ?? 0) > 0;
    for (const backend of options.config.backends) this.#addStatic(backend);
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
  requireRoom(wanted: readonly BackendConfig[]): void {
    const stay = [...this.#members.values()].filter(
      ({ id, endpoint, origin }) =>
        origin === 'registered' && !wanted.some((one) => one.id === id || one.endpoint.equals(endpoint)),
    );
    if (stay.length + wanted.length <= MAX_BACKENDS) return;
    throw new RelayError(
      'TICKRELAY_ERR_LIMIT',
      `pools.${this.#pool.name}.backends: ${wanted.length} backends beside ${stay.length} that registered are ` +
        `more than the ${MAX_BACKENDS} of a pool`,
    );
  }

  /** Takes over a new configuration of the same pool. Backends that it does not change keep their slot and state. */
  async apply(config: PoolConfig): Promise<void> {
    const isNewCheck = !isDeepStrictEqual(config.healthCheck, this.#config.healthCheck);
    this.#config = config;
    this.#applyBackends(config.backends);
    if (isNewCheck) {
      for (const member of this.#members.values()) this.#resetHealth(member);
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
    const result = this.#register(id, request);
    this.#registrations[result]++;
    if (result !== 'renewed')
      this.#log('info', { backend: id, address: request.endpoint.toString() }, result);
    this.#publishSoon();
  }

  /** A registration was refused, here or before it came this far. */
  countRefusal(): void {
    this.#registrations.refused++;
  }

  /** @throws Refusal 404 or 409 */
  leave(id: string): void {
    const member = this.#memberOf(id);
    if (member.origin === 'static') {
      throw new Refusal(
        409,
        'TICKRELAY_ERR_POOL',
        `backend "${id}" stands in the configuration; disable it or take it out there`,
      );
    }
    this.#remove(id);
    this.#registrations.left++;
    this.#log('info', { backend: id }, 'left');
    this.#publishSoon();
  }

  /** Keeps its players, takes no new ones. @throws Refusal 404 */
  drain(id: string): BackendView {
    return this.#operate(id, { draining: true, enabled: true });
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
    this.#memberOf(id);
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
    return { checks: { ...this.#checks }, registrations: { ...this.#registrations } };
  }

  /** Takes every backend out and publishes the empty pool: it left the configuration. */
  async remove(): Promise<void> {
    for (const id of [...this.#members.keys()]) this.#remove(id);
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

  #register(id: string, { endpoint, weight, players }: RegistrationRequest): RegistrationResult {
    const member = this.#members.get(id);
    if (member === undefined) checkBackendId(id);
    checkTarget(endpoint, {
      pool: this.#pool.name,
      registration: this.#config.registration,
      own: this.#options.ownEndpoints(),
    });
    if (member === undefined) {
      if (this.#pool.hasEndpoint(endpoint))
        conflict(`address: ${endpoint.toString()} is already in the pool under another id`);
      if (this.#pool.isFull)
        throw new Refusal(409, 'TICKRELAY_ERR_LIMIT', `the pool is full: it has ${MAX_BACKENDS} backends`);
      this.#takeHeartbeat(this.#add({ id, endpoint, weight }, 'registered'), players);
      return 'registered';
    }
    if (!member.endpoint.equals(endpoint)) this.#refuseOther(member);
    if (member.origin === 'registered') this.#pool.setWeight(id, weight);
    this.#takeHeartbeat(member, players);
    if (this.#config.healthCheck.type === 'heartbeat') this.#record(member, undefined);
    return 'renewed';
  }

  /** Two servers under one id would take the backend, and its players, from each other with every heartbeat. */
  #refuseOther({ id, origin, endpoint }: Member): never {
    const holder = endpoint.toString();
    if (origin === 'static') conflict(`backend "${id}" stands in the configuration with ${holder}`);
    conflict(
      `backend "${id}" is the server at ${holder}; take another id, or wait: ` +
        `the id is free when that one leaves, or ${this.#leaseMs}ms after its last heartbeat`,
    );
  }

  /** How long a registration holds without a heartbeat. */
  get #leaseMs(): number {
    const { fall, intervalMs } = this.#config.healthCheck;
    return fall * intervalMs;
  }

  #takeHeartbeat(member: Member, players: number | undefined): void {
    member.heartbeatAtMs = this.#options.clock.nowMs();
    member.hasHeartbeat = true;
    member.missed = 0;
    member.players = players;
  }

  #operate(
    id: string,
    { draining, enabled }: { readonly draining: boolean; readonly enabled: boolean },
  ): BackendView {
    this.#memberOf(id);
    const isDrainChanged = this.#pool.setDraining(id, draining);
    const isEnabledChanged = this.#pool.setEnabled(id, enabled);
    const view = this.backend(id);
    if (isDrainChanged || isEnabledChanged)
      this.#log('info', { backend: id, state: view.state }, 'changed by operator');
    this.#publishSoon();
    return view;
  }

  #memberOf(id: string): Member {
    const member = this.#members.get(id);
    if (member !== undefined) return member;
    throw new Refusal(404, 'TICKRELAY_ERR_POOL', `pool "${this.#pool.name}" has no such backend`);
  }

  #viewOf({ id, endpoint, weight, state }: Backend): BackendView {
    const { origin, players, failure, hasHeartbeat, heartbeatAtMs } = this.#members.get(id)!;
    const heartbeatAgeMs = Math.round(this.#options.clock.nowMs() - heartbeatAtMs);
    return {
      id,
      address: endpoint.toString(),
      weight,
      state,
      origin,
      ...(players === undefined ? {} : { players }),
      ...(hasHeartbeat ? { heartbeatAgeMs } : {}),
      ...(failure === undefined ? {} : { failure }),
    };
  }

  #applyBackends(wanted: readonly BackendConfig[]): void {
    const byId = new Map(wanted.map((backend) => [backend.id, backend]));
    const isTaken = (endpoint: Endpoint): boolean =>
      wanted.some((backend) => backend.endpoint.equals(endpoint));
    for (const { id, endpoint, origin } of [...this.#members.values()]) {
      const same = byId.get(id)?.endpoint.equals(endpoint) === true;
      const isDropped = origin === 'static' || byId.has(id) || isTaken(endpoint);
      if (!same && isDropped) this.#remove(id);
    }
    for (const backend of wanted) {
      const member = this.#members.get(backend.id);
      if (member === undefined) this.#addStatic(backend);
      else {
        member.origin = 'static';
        this.#pool.setWeight(backend.id, backend.weight);
      }
    }
  }

  #addStatic(backend: BackendConfig): void {
    if (!this.#pool.isFull) this.#add(backend, 'static');
    else this.#log('error', { backend: backend.id }, `not added: the pool has ${MAX_BACKENDS} backends`);
  }

  #add({ id, endpoint, weight }: BackendConfig, origin: 'static' | 'registered'): Member {
    this.#pool.add({ id, endpoint, weight });
    const { rise, fall } = this.#config.healthCheck;
    const member: Member = {
      id,
      endpoint,
      slot: this.#pool.get(id)!.slot,
      origin,
      tracker: new HealthTracker({ rise, fall }),
      failure: undefined,
      players: undefined,
      heartbeatAtMs: this.#options.clock.nowMs(),
      hasHeartbeat: false,
      missed: 0,
    };
    this.#members.set(id, member);
    return member;
  }

  #remove(id: string): void {
    this.#pool.remove(id);
    this.#members.delete(id);
  }

  /** What another check found says nothing about this one, but nobody moves before it has spoken. */
  #resetHealth(member: Member): void {
    const { type, rise, fall } = this.#config.healthCheck;
    const healthy = type === 'none' || member.tracker.healthy;
    member.tracker = new HealthTracker({ rise, fall, healthy });
    member.failure = undefined;
    member.heartbeatAtMs = this.#options.clock.nowMs();
    member.missed = 0;
    this.#pool.setHealthy(member.id, healthy);
  }

  #startChecks(): void {
    if (this.#isClosed) return;
    const { healthCheck } = this.#config;
    const { intervalMs, timeoutMs } = healthCheck;
    this.#heartbeatTimer = setInterval(() => this.#watchHeartbeats(), intervalMs / SLICES);
    this.#heartbeatTimer.unref();
    const check = activeCheck(healthCheck);
    if (check === undefined) return;
    this.#monitor = new HealthMonitor({
      check,
      intervalMs,
      timeoutMs,
      clock: this.#options.clock,
      targets: () => this.#members.values(),
      onOutcome: (member, outcome) => this.#onOutcome(member, outcome),
    });
  }

  async #stopChecks(): Promise<void> {
    clearInterval(this.#heartbeatTimer);
    const monitor = this.#monitor;
    this.#monitor = undefined;
    await monitor?.close();
  }

  /** Ends registrations that were not renewed, and counts intervals without a heartbeat where that is the check. */
  #watchHeartbeats(): void {
    const { type, intervalMs } = this.#config.healthCheck;
    const leaseMs = this.#leaseMs;
    const now = this.#options.clock.nowMs();
    for (const member of this.#members.values()) {
      const ageMs = now - member.heartbeatAtMs;
      if (member.origin === 'registered' && ageMs >= leaseMs) {
        this.#remove(member.id);
        this.#registrations.expired++;
        this.#log('warn', { backend: member.id }, `registration expired: no heartbeat for ${leaseMs}ms`);
      } else if (type === 'heartbeat') {
        for (; member.missed < Math.floor(ageMs / intervalMs); member.missed++)
          this.#record(member, 'no heartbeat');
      }
    }
    this.#publish();
  }

  #onOutcome(member: Member, outcome: CheckOutcome): void {
    // The backend may have left, and another may have its id, while it was being asked.
    if (this.#members.get(member.id) !== member) return;
    if (outcome === SKIPPED) this.#checks.skipped++;
    else this.#record(member, outcome);
    this.#publishSoon();
  }

  #record(member: Member, failure: string | undefined): void {
    this.#checks[failure === undefined ? 'ok' : 'failed']++;
    member.failure = failure;
    const transition = member.tracker.record(failure === undefined);
    if (transition === undefined) return;
    this.#pool.setHealthy(member.id, transition === 'up');
    if (transition === 'up') this.#log('info', { backend: member.id }, 'healthy');
    else this.#log('warn', { backend: member.id, failure }, 'unhealthy');
  }

  #log(level: 'info' | 'warn' | 'error', fields: Readonly<Record<string, unknown>>, message: string): void {
    this.#options.logger[level]({ pool: this.#pool.name, ...fields }, message);
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

function conflict(message: string): never {
  throw new Refusal(409, 'TICKRELAY_ERR_REGISTRATION', message);
}
