/**
 * All pools: decides who is ready and publishes it. The data planes obey what `onSnapshot` hands them.
 *
 * Sequence: constructor -> start (publishes every pool) -> close. In between, as often as the configuration changes:
 * openNew -> (the listeners change) -> applyConfig, or abandon when they could not.
 */
import type { Logger } from 'pino';
import type { Endpoint } from '../../net/address.ts';
import type { PoolSnapshot } from '../core/pool-snapshot.ts';
import type { PoolConfig, RelayConfig } from './config.ts';
import { LoopClock } from './loop-clock.ts';
import { PoolController } from './pool-controller.ts';
import { Refusal } from './refusal.ts';

export interface ControlPlaneOptions {
  readonly config: RelayConfig;
  /** Called with every change of a pool, and once for each pool by `start`. Resolves when the data planes obey. */
  readonly onSnapshot: (snapshot: PoolSnapshot) => Promise<void>;
  /** The bound addresses of the relay, listeners and admin, which can't be registered as backends. */
  readonly ownEndpoints: () => readonly Endpoint[];
  readonly logger: Logger;
  /** Milliseconds that never go backwards. Default: performance.now. */
  readonly monotonic?: () => number;
}

export class ControlPlane {
  readonly #options: ControlPlaneOptions;
  readonly #clock: LoopClock;
  readonly #pools = new Map<string, PoolController>();
  #isStarted = false;

  constructor(options: ControlPlaneOptions) {
    this.#options = options;
    this.#clock = new LoopClock(options.monotonic);
    for (const config of options.config.pools) this.#open(config);
  }

  /** Publishes every pool and begins to check the backends. */
  start(): void {
    this.#isStarted = true;
    for (const pool of this.#pools.values()) pool.start();
  }

  /**
   * Opens the pools that a new configuration adds, so that they are there before their listeners, and keeps room in the
   * others for the backends that it gives them.
   *
   * @returns their names, for `abandon`
   * @throws RelayError TICKRELAY_ERR_LIMIT when the configuration's backends have no room beside the registered ones
   */
  async openNew({ pools }: Pick<RelayConfig, 'pools'>): Promise<readonly string[]> {
    try {
      for (const config of pools) this.#pools.get(config.name)?.reserveRoom(config.backends);
    } catch (error) {
      await this.abandon([]);
      throw error;
    }
    const opened = pools.filter(({ name }) => !this.#pools.has(name)).map((config) => this.#open(config));
    if (this.#isStarted) for (const pool of opened) pool.start();
    await Promise.all(opened.map((pool) => pool.obeyed()));
    return opened.map(({ config }) => config.name);
  }

  /** The new configuration does not come: what `openNew` opened and kept for it is given back. */
  async abandon(opened: readonly string[]): Promise<void> {
    for (const pool of this.#pools.values()) pool.releaseRoom();
    await this.#drop(opened);
  }

  /** Takes pools away: each is published empty. */
  async #drop(names: readonly string[]): Promise<void> {
    const gone = this.pools().filter(({ config }) => names.includes(config.name));
    for (const { config } of gone) this.#pools.delete(config.name);
    await Promise.all(gone.map((pool) => pool.remove()));
  }

  /**
   * Takes over the pools of a new configuration, after `openNew`. Backends that it does not change keep their players,
   * registered ones stay, and only pools whose health check changed begin it anew. A pool that is gone is published empty.
   */
  async applyConfig({ pools }: Pick<RelayConfig, 'pools'>): Promise<void> {
    const kept = new Set(pools.map(({ name }) => name));
    await Promise.all([
      this.#drop([...this.#pools.keys()].filter((name) => !kept.has(name))),
      ...pools.map((config) => this.#pools.get(config.name)?.apply(config)),
    ]);
  }

  /** @throws Refusal 404 */
  pool(name: string): PoolController {
    const pool = this.#pools.get(name);
    if (pool !== undefined) return pool;
    throw new Refusal(
      404,
      'TICKRELAY_ERR_POOL',
      `there is no such pool "${name}"; the pools are ${[...this.#pools.keys()].join(', ')}`,
    );
  }

  pools(): readonly PoolController[] {
    return [...this.#pools.values()];
  }

  /** A client's TCP connection to a backend opened (`failure` is undefined), or did not. */
  connected(pool: string, backend: string, failure: string | undefined): void {
    this.#pools.get(pool)?.connected(backend, failure);
  }

  /** Ends every check. What was published last stays in force. Idempotent. */
  async close(): Promise<void> {
    this.#clock.close();
    await Promise.all(this.pools().map((pool) => pool.close()));
  }

  #open(config: PoolConfig): PoolController {
    const { onSnapshot, ownEndpoints, logger } = this.#options;
    const pool = new PoolController({ config, clock: this.#clock, onSnapshot, ownEndpoints, logger });
    this.#pools.set(config.name, pool);
    return pool;
  }
}
