/**
 * Whether the members of a pool are well: the verdict on each from its checks in a row, and the checks themselves.
 *
 * - A member is well until its check says otherwise.
 * - With an active check (health-checks/) every member is asked once an interval.
 * - Connections of clients that do not open take a member down at once, `connectFailures` of them in a row.
 * - With the health check `heartbeat`, each heartbeat is a success and each interval without one a failure.
 */
import type { BackendPool } from '../core/backend-pool.ts';
import { HealthTracker } from '../core/health-tracker.ts';
import type { HealthCheckConfig } from './config.ts';
import { activeCheck } from './health-checks/health-check.ts';
import { HealthMonitor, SKIPPED, type CheckOutcome } from './health-monitor.ts';
import type { LoopClock } from './loop-clock.ts';
import type { PoolLog } from './pool-log.ts';
import type { CheckResult } from './pool-view.ts';
import type { Member, RegistrationBook } from './registration-book.ts';

export interface PoolHealthOptions {
  readonly healthCheck: HealthCheckConfig;
  readonly book: RegistrationBook;
  /** Takes the verdicts. */
  readonly pool: BackendPool;
  readonly clock: LoopClock;
  /** An active check has ended, and may have changed the pool. */
  readonly onOutcome: () => void;
  readonly log: PoolLog;
}

interface Health {
  tracker: HealthTracker;
  failure: string | undefined;
  /** Intervals without a heartbeat that were recorded since the last one. */
  missed: number;
  /** Connections of clients in a row that did not open. */
  connectFailures: number;
}

export class PoolHealth {
  readonly #options: PoolHealthOptions;
  readonly #healths = new WeakMap<Member, Health>();
  readonly #counts: Record<CheckResult, number> = { ok: 0, failed: 0, skipped: 0 };
  #healthCheck: HealthCheckConfig;
  #monitor: HealthMonitor<Member> | undefined;

  constructor(options: PoolHealthOptions) {
    this.#options = options;
    this.#healthCheck = options.healthCheck;
  }

  counts(): Readonly<Record<CheckResult, number>> {
    return { ...this.#counts };
  }

  /** Why the member's last check failed, or undefined when it did not. */
  failureOf(member: Member): string | undefined {
    return this.#healthOf(member).failure;
  }

  /** Begins to ask the members, if the check is one that asks. */
  start(): void {
    const check = activeCheck(this.#healthCheck);
    if (check === undefined) return;
    const { intervalMs, timeoutMs } = this.#healthCheck;
    const { clock, book } = this.#options;
    this.#monitor = new HealthMonitor({
      check,
      intervalMs,
      timeoutMs,
      clock,
      targets: () => book.members(),
      onOutcome: (member, outcome) => this.#onOutcome(member, outcome),
    });
  }

  /** Ends the checks under way, and waits until their sockets are closed. Idempotent. */
  async stop(): Promise<void> {
    const monitor = this.#monitor;
    this.#monitor = undefined;
    await monitor?.close();
  }

  /** Judges by another check from now on. What the old one found says nothing about it, but nobody moves before it has spoken. */
  judgeBy(healthCheck: HealthCheckConfig): void {
    this.#healthCheck = healthCheck;
    const { type, rise, fall } = healthCheck;
    for (const member of this.#options.book.members()) {
      const healthy = type === 'none' || this.#healthOf(member).tracker.healthy;
      const tracker = new HealthTracker({ rise, fall, healthy });
      this.#healths.set(member, { tracker, failure: undefined, missed: 0, connectFailures: 0 });
      this.#options.pool.setHealthy(member.id, healthy);
    }
  }

  /** The member has sent a heartbeat. */
  heartbeat(member: Member): void {
    this.#healthOf(member).missed = 0;
    if (this.#healthCheck.type === 'heartbeat') this.#record(member, undefined);
  }

  /** Counts the intervals without a heartbeat, where that is the check. */
  countMissed(): void {
    const { type, intervalMs } = this.#healthCheck;
    if (type !== 'heartbeat') return;
    const nowMs = this.#options.clock.nowMs();
    for (const member of this.#options.book.members()) {
      const health = this.#healthOf(member);
      for (; health.missed < Math.floor((nowMs - member.heartbeatAtMs) / intervalMs); health.missed++)
        this.#record(member, 'no heartbeat');
    }
  }

  /**
   * A client's connection to the member opened (`failure` is undefined), or did not.
   *
   * @returns whether that took it down
   */
  connected(member: Member, failure: string | undefined): boolean {
    const { connectFailures: limit } = this.#healthCheck;
    const health = this.#healthOf(member);
    health.connectFailures = failure === undefined ? 0 : health.connectFailures + 1;
    if (failure === undefined || limit === 0 || health.connectFailures < limit) return false;
    health.connectFailures = 0;
    if (!health.tracker.fail()) return false;
    health.failure = `${limit} connections in a row did not open: ${failure}`;
    this.#options.pool.setHealthy(member.id, false);
    this.#options.log('warn', { backend: member.id, failure: health.failure }, 'unhealthy');
    return true;
  }

  #onOutcome(member: Member, outcome: CheckOutcome): void {
    // The backend may have left, and another may have its id, while it was being asked.
    if (this.#options.book.get(member.id) !== member) return;
    if (outcome === SKIPPED) this.#counts.skipped++;
    else this.#record(member, outcome);
    this.#options.onOutcome();
  }

  #record(member: Member, failure: string | undefined): void {
    const { pool, log } = this.#options;
    const health = this.#healthOf(member);
    this.#counts[failure === undefined ? 'ok' : 'failed']++;
    health.failure = failure;
    const transition = health.tracker.record(failure === undefined);
    if (transition === undefined) return;
    pool.setHealthy(member.id, transition === 'up');
    if (transition === 'up') log('info', { backend: member.id }, 'healthy');
    else log('warn', { backend: member.id, failure }, 'unhealthy');
  }

  #healthOf(member: Member): Health {
    let health = this.#healths.get(member);
    if (health === undefined) {
      const { rise, fall } = this.#healthCheck;
      const tracker = new HealthTracker({ rise, fall });
      health = { tracker, failure: undefined, missed: 0, connectFailures: 0 };
      this.#healths.set(member, health);
    }
    return health;
  }
}
