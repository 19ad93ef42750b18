/**
 * Who is in a pool: the backends of the configuration and those that registered, each with its last heartbeat.
 *
 * - A static backend stays until the configuration drops it.
 * - A registered backend belongs to the address that registered it, and leaves by itself `fall x interval` after its last
 *   heartbeat. The configuration may take it in; it is then static.
 *
 * Whether a backend is well is another matter (pool-health.ts).
 */
import type { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import type { BackendPool } from '../core/backend-pool.ts';
import { MAX_BACKENDS } from '../core/limits.ts';
import type { BackendConfig, PoolConfig } from './config.ts';
import type { LoopClock } from './loop-clock.ts';
import type { PoolLog } from './pool-log.ts';
import type { RegistrationResult } from './pool-view.ts';
import { Refusal } from './refusal.ts';
import { checkBackendId, type RegistrationRequest } from './registration-request.ts';
import { checkTarget } from './registration-rules.ts';

export interface RegistrationBookOptions {
  readonly config: PoolConfig;
  /** Where the members stand as backends. The book alone adds and removes there. */
  readonly pool: BackendPool;
  readonly clock: Pick<LoopClock, 'nowMs'>;
  /** The addresses that the relay itself listens on, which can't be backends. */
  readonly ownEndpoints: () => readonly Endpoint[];
  readonly log: PoolLog;
}

/** One backend. The same object from its arrival until it leaves. */
export interface Member {
  readonly id: string;
  readonly endpoint: Endpoint;
  /** In the pool, for the member's life. */
  readonly slot: number;
  readonly origin: 'static' | 'registered';
  /** As the server reported them. */
  readonly players: number | undefined;
  /** By the loop clock; for a static backend without any, when it was added. */
  readonly heartbeatAtMs: number;
  readonly hasHeartbeat: boolean;
}

type Entry = { -readonly [K in keyof Member]: Member[K] };

export class RegistrationBook {
  readonly #options: RegistrationBookOptions;
  readonly #pool: BackendPool;
  readonly #entries = new Map<string, Entry>();
  readonly #counts: Record<RegistrationResult, number> = {
    registered: 0,
    renewed: 0,
    left: 0,
    expired: 0,
    refused: 0,
  };
  #config: PoolConfig;
  /** Backends of a configuration that is about to be taken over; their room is theirs already. */
  #expected: readonly BackendConfig[] = [];

  constructor(options: RegistrationBookOptions) {
    this.#options = options;
    this.#config = options.config;
    this.#pool = options.pool;
    for (const backend of options.config.backends) this.#addStatic(backend);
  }

  get(id: string): Member | undefined {
    return this.#entries.get(id);
  }

  /** @throws Refusal 404 */
  memberOf(id: string): Member {
    const entry = this.#entries.get(id);
    if (entry !== undefined) return entry;
    throw new Refusal(404, 'TICKRELAY_ERR_POOL', `pool "${this.#pool.name}" has no such backend`);
  }

  members(): Iterable<Member> {
    return this.#entries.values();
  }

  counts(): Readonly<Record<RegistrationResult, number>> {
    return { ...this.#counts };
  }

  /**
   * Keeps room for the static backends of a configuration until it is applied, or the room released.
   *
   * @throws RelayError TICKRELAY_ERR_LIMIT when these and the registered ones are too many
   */
  reserveRoom(wanted: readonly BackendConfig[]): void {
    const stay = this.#stayingBeside(wanted);
    if (stay + wanted.length > MAX_BACKENDS) {
      throw new RelayError(
        'TICKRELAY_ERR_LIMIT',
        `pools.${this.#pool.name}.backends: ${wanted.length} backends beside ${stay} that registered are ` +
          `more than the ${MAX_BACKENDS} of a pool`,
      );
    }
    this.#expected = wanted;
  }

  /** The configuration that room was reserved for does not come. */
  releaseRoom(): void {
    this.#expected = [];
  }

  /** Takes over a new configuration. Backends that it does not change keep their slot and their entry. */
  apply(config: PoolConfig): void {
    this.#config = config;
    this.releaseRoom();
    const wanted = config.backends;
    const byId = new Map(wanted.map((backend) => [backend.id, backend]));
    const isTaken = (endpoint: Endpoint): boolean =>
      wanted.some((backend) => backend.endpoint.equals(endpoint));
    for (const { id, endpoint, origin } of [...this.#entries.values()]) {
      const same = byId.get(id)?.endpoint.equals(endpoint) === true;
      const isDropped = origin === 'static' || byId.has(id) || isTaken(endpoint);
      if (!same && isDropped) this.#remove(id);
    }
    for (const backend of wanted) {
      const entry = this.#entries.get(backend.id);
      if (entry === undefined) this.#addStatic(backend);
      else {
        entry.origin = 'static';
        this.#pool.setWeight(backend.id, backend.weight);
        this.#pool.setMaxConnections(backend.id, backend.maxConnections);
      }
    }
  }

  /**
   * Registers a backend, or takes the repeated request as a heartbeat.
   *
   * @throws Refusal when it can't be, with nothing changed
   */
  register(id: string, request: RegistrationRequest): 'registered' | 'renewed' {
    const result = this.#register(id, request);
    this.#counts[result]++;
    if (result === 'registered')
      this.#options.log('info', { backend: id, address: request.endpoint.toString() }, result);
    return result;
  }

  /** A registration was refused, here or before it came this far. */
  countRefusal(): void {
    this.#counts.refused++;
  }

  /** @throws Refusal 404 or 409 */
  leave(id: string): void {
    if (this.memberOf(id).origin === 'static') {
      throw new Refusal(
        409,
        'TICKRELAY_ERR_POOL',
        `backend "${id}" stands in the configuration; disable it or take it out there`,
      );
    }
    this.#remove(id);
    this.#counts.left++;
    this.#options.log('info', { backend: id }, 'left');
  }

  /** Ends the registrations that were not renewed in time. */
  expire(): void {
    const leaseMs = this.#leaseMs;
    const nowMs = this.#options.clock.nowMs();
    for (const { id, origin, heartbeatAtMs } of this.#entries.values()) {
      if (origin !== 'registered' || nowMs - heartbeatAtMs < leaseMs) continue;
      this.#remove(id);
      this.#counts.expired++;
      this.#options.log('warn', { backend: id }, `registration expired: no heartbeat for ${leaseMs}ms`);
    }
  }

  /** Waits for every next heartbeat from now on, whatever the times were before. */
  restartLeases(): void {
    for (const entry of this.#entries.values()) entry.heartbeatAtMs = this.#options.clock.nowMs();
  }

  /** Takes every backend out. */
  clear(): void {
    for (const id of [...this.#entries.keys()]) this.#remove(id);
  }

  #register(id: string, { endpoint, weight, players }: RegistrationRequest): 'registered' | 'renewed' {
    const entry = this.#entries.get(id);
    if (entry === undefined) checkBackendId(id);
    checkTarget(endpoint, {
      pool: this.#pool.name,
      registration: this.#config.registration,
      own: this.#options.ownEndpoints(),
    });
    if (entry === undefined) {
      if (this.#pool.hasEndpoint(endpoint))
        conflict(`address: ${endpoint.toString()} is already in the pool under another id`);
      if (!this.#hasRoomFor(id, endpoint))
        throw new Refusal(409, 'TICKRELAY_ERR_LIMIT', `the pool is full: it has ${MAX_BACKENDS} backends`);
      this.#takeHeartbeat(this.#add({ id, endpoint, weight, maxConnections: 0 }, 'registered'), players);
      return 'registered';
    }
    if (!entry.endpoint.equals(endpoint)) this.#refuseOther(entry);
    if (entry.origin === 'registered') this.#pool.setWeight(id, weight);
    this.#takeHeartbeat(entry, players);
    return 'renewed';
  }

  #hasRoomFor(id: string, endpoint: Endpoint): boolean {
    if (this.#pool.isFull) return false;
    const expected = this.#expected;
    const isExpected = expected.some((one) => one.id === id || one.endpoint.equals(endpoint));
    return isExpected || this.#stayingBeside(expected) + expected.length < MAX_BACKENDS;
  }

  /** Registered backends that stay when these become the static ones. */
  #stayingBeside(wanted: readonly BackendConfig[]): number {
    const ids = new Set(wanted.map(({ id }) => id));
    const addresses = new Set(wanted.map(({ endpoint }) => endpoint.toString()));
    let staying = 0;
    for (const { id, endpoint, origin } of this.#entries.values())
      if (origin === 'registered' && !ids.has(id) && !addresses.has(endpoint.toString())) staying++;
    return staying;
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

  #takeHeartbeat(entry: Entry, players: number | undefined): void {
    entry.heartbeatAtMs = this.#options.clock.nowMs();
    entry.hasHeartbeat = true;
    entry.players = players;
  }

  #addStatic(backend: BackendConfig): void {
    if (!this.#pool.isFull) this.#add(backend, 'static');
    else
      this.#options.log('error', { backend: backend.id }, `not added: the pool has ${MAX_BACKENDS} backends`);
  }

  #add({ id, endpoint, weight, maxConnections }: BackendConfig, origin: Member['origin']): Entry {
    this.#pool.add({ id, endpoint, weight, maxConnections });
    const entry: Entry = {
      id,
      endpoint,
      slot: this.#pool.get(id)!.slot,
      origin,
      players: undefined,
      heartbeatAtMs: this.#options.clock.nowMs(),
      hasHeartbeat: false,
    };
    this.#entries.set(id, entry);
    return entry;
  }

  #remove(id: string): void {
    this.#pool.remove(id);
    this.#entries.delete(id);
  }
}

function conflict(message: string): never {
  throw new Refusal(409, 'TICKRELAY_ERR_REGISTRATION', message);
}
