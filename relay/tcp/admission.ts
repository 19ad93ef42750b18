/**
 * Who is let in through a listener: the limits of the listener, of each client IP and of the backends, and the queue of those
 * that wait for one of them.
 *
 *     judge -> enter -> release, and serveQueue whenever something came free
 *
 * or, where a proxy is to say first who the client is: expect -> judge -> enter -> release.
 *
 * In a pin group a client that enters is asked for its pin first. It takes its place at the listener at once, so that those
 * who come meanwhile see it, and the backend that the pin names takes the place of the one that was chosen.
 */
import type { Endpoint } from '../../net/address.ts';
import { hashAddress } from '../core/hash.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import type { CloseReason } from '../core/close-reason.ts';
import type { SharedPins } from './shared-pins.ts';
import { SourceTable, type Source } from './source-table.ts';
import type { TcpConnection } from './tcp-connection.ts';
import type { TcpCounters } from './tcp-counters.ts';
import type { NoBackend, TcpPool } from './tcp-pool.ts';
import type { TcpListenerSpec } from './tcp-rules.ts';

/** What a connection holds on to at its listener until it ends. */
export interface AdmissionEntry {
  /** Absent while a proxy has not yet said who the client is. */
  readonly source: Source | undefined;
  /** Of the client's address. */
  readonly hash: number;
  isAdmitted: boolean;
  /** The group whose pin of this client it holds. */
  heldGroup: string | undefined;
}
type KnownEntry = AdmissionEntry & { readonly source: Source };

/** A client that is let in, or waits. */
export interface Verdict {
  readonly source: Source;
  readonly hash: number;
  /** A backend, with one connection counted towards it, or the limit that is reached. */
  readonly choice: BackendEntry | CloseReason;
}

export interface AdmissionOptions {
  /** Its rules may change. */
  readonly listener: { readonly rules: TcpListenerSpec };
  readonly pool: TcpPool;
  readonly counters: Pick<TcpCounters, 'queued'>;
  readonly hashSeed: number;
  readonly now: () => number;
  /** Absent: nothing is pinned. */
  readonly pins: SharedPins | undefined;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #sources = new SourceTable();
  /** In the order in which they came. */
  readonly #queue = new Map<TcpConnection, KnownEntry>();
  #live = 0;
  /** Connections that wait for a PROXY header. */
  #expected = 0;
  #admitted = 0;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Connections that are let in, wait, or are to say who they are. */
  get live(): number {
    return this.#live;
  }

  /** Whether one more connection may wait for its PROXY header: as many as may be let in. */
  get mayExpect(): boolean {
    return this.#expected < this.#options.listener.rules.maxConnections;
  }

  /** The connection waits for its PROXY header. */
  expect(connection: TcpConnection): void {
    this.#expected++;
    this.#live++;
    connection.entry = { source: undefined, hash: 0, isAdmitted: false, heldGroup: undefined };
  }

  /** @returns how the client comes in, or why it is refused */
  judge(client: Endpoint): Verdict | CloseReason {
    const { limits } = this.#options.listener.rules;
    const nowMs = this.#options.now();
    const source = this.#sources.of(client.ip);
    const hash = hashAddress(client.ip.words, 0, this.#options.hashSeed);
    const isTooFast = !source.takeToken(nowMs, limits.connectionRatePerSource);
    const choice = isTooFast ? 'source-rate-limit' : this.#choose(source, hash);
    const isIn = typeof choice !== 'string' || this.#mayWait(choice, source);
    if (isIn || this.#groupFor(choice) !== undefined) return { source, hash, choice };
    this.#sources.forget(source, nowMs);
    return choice;
  }

  #mayWait(reason: CloseReason, source: Source): boolean {
    if (reason === 'source-rate-limit' || reason === 'no-backend') return false;
    const { limits, queue } = this.#options.listener.rules;
    // One client must not fill the queue that all share.
    const { connectionsPerSource } = limits;
    const hasTurn = connectionsPerSource === 0 || source.waiting < connectionsPerSource;
    return hasTurn && this.#queue.size < queue.size;
  }

  /** The group whose pin is to be asked for: not for a client that the limits keep out, whatever its backend would be. */
  #groupFor(choice: BackendEntry | CloseReason): string | undefined {
    const isForBackend =
      typeof choice !== 'string' || choice === 'no-backend' || choice === 'backend-connection-limit';
    return isForBackend && this.#options.pins !== undefined
      ? this.#options.listener.rules.pinGroup
      : undefined;
  }

  /** @returns a backend with one connection counted towards it, or the limit that is reached */
  #choose(source: Source, hash: number): BackendEntry | CloseReason {
    const { maxConnections, limits, algorithm, slowStartMs } = this.#options.listener.rules;
    if (this.#admitted >= maxConnections) return 'connection-limit';
    const { connectionsPerSource } = limits;
    if (connectionsPerSource > 0 && source.admitted >= connectionsPerSource) return 'source-connection-limit';
    return this.#options.pool.acquire({ algorithm, hash, slowStartMs, nowMs: this.#options.now() });
  }

  /** Lets the client in, or lets it wait. */
  enter(connection: TcpConnection, { source, hash, choice }: Verdict): void {
    const entry: KnownEntry = { source, hash, isAdmitted: false, heldGroup: undefined };
    if (connection.entry === undefined) this.#live++;
    else this.#expected--;
    connection.entry = entry;
    this.#proceed(connection, entry, choice);
  }

  #proceed(connection: TcpConnection, entry: KnownEntry, choice: BackendEntry | CloseReason): void {
    const group = this.#groupFor(choice);
    if (group !== undefined) void this.#askPin(connection, entry, group, choice as BackendEntry | NoBackend);
    else if (typeof choice === 'string') this.#wait(connection, entry);
    else {
      this.#count(entry, 1);
      connection.connectTo(choice, entry.hash);
    }
  }

  /** The connection goes where its client's pin says. Where there is none to follow, it goes on with what was chosen. */
  async #askPin(
    connection: TcpConnection,
    entry: KnownEntry,
    group: string,
    choice: BackendEntry | NoBackend,
  ): Promise<void> {
    const { pool } = this.#options;
    const pins = this.#options.pins!;
    const client = connection.client.ip.words;
    const proposal = typeof choice === 'string' ? undefined : choice.id;
    this.#count(entry, 1);
    const id = await pins.request({ group, client, pool: pool.name, proposal, hold: true });
    const backend = pool.follow(id, choice);
    const isGone = connection.state === 'closing';
    if (typeof backend !== 'string' && !isGone) {
      entry.heldGroup = group;
      connection.connectTo(backend, entry.hash);
      // The pool may have changed meanwhile.
      if (!pool.isUsable(backend)) connection.backendLost();
      return;
    }
    if (id !== undefined) pins.letGo(group, client);
    if (typeof backend !== 'string') {
      pool.release(backend);
      this.serveQueue();
    } else if (!isGone) {
      this.#count(entry, -1);
      if (this.#mayWait(backend, entry.source)) this.#wait(connection, entry);
      else connection.close(backend);
    }
  }

  #wait(connection: TcpConnection, entry: KnownEntry): void {
    entry.source.waiting++;
    this.#queue.set(connection, entry);
    this.#options.counters.queued = this.#queue.size;
    connection.waitFor(this.#options.listener.rules.queue.timeoutMs);
  }

  #leaveQueue(connection: TcpConnection, source: Source): void {
    if (this.#queue.size === 0 || !this.#queue.delete(connection)) return;
    source.waiting--;
    this.#options.counters.queued = this.#queue.size;
  }

  /** The connection takes a place, or gives it back. */
  #count(entry: KnownEntry, by: 1 | -1): void {
    entry.isAdmitted = by === 1;
    entry.source.admitted += by;
    this.#admitted += by;
  }

  /**
   * The backend that the pin names could not be reached: the client's pin moves with its connection, if it may.
   *
   * @returns resolves when it has; undefined where nothing is pinned
   */
  retried(
    connection: TcpConnection,
    failed: BackendEntry,
    other: BackendEntry,
  ): Promise<unknown> | undefined {
    const group = connection.entry?.heldGroup;
    if (group === undefined) return undefined;
    const { pool, pins } = this.#options;
    const client = connection.client.ip.words;
    const backends = { proposal: other.id, instead: failed.id };
    return pins!.request({ group, client, pool: pool.name, ...backends, hold: false });
  }

  /** The connection ended. */
  release(connection: TcpConnection): void {
    const entry = connection.entry!;
    connection.entry = undefined;
    this.#live--;
    if (!isKnown(entry)) {
      this.#expected--;
      return;
    }
    const { source, isAdmitted, heldGroup } = entry;
    this.#leaveQueue(connection, source);
    if (isAdmitted) this.#count(entry, -1);
    if (heldGroup !== undefined) this.#options.pins!.letGo(heldGroup, connection.client.ip.words);
    this.#sources.forget(source, this.#options.now());
  }

  /** Lets in those of the waiting connections that the limits now allow, the oldest first. */
  serveQueue(): void {
    if (this.#queue.size === 0) return;
    for (const [connection, entry] of this.#queue) {
      if (connection.state === 'closing') continue;
      const backend = this.#choose(entry.source, entry.hash);
      if (typeof backend !== 'string') {
        this.#leaveQueue(connection, entry.source);
        this.#proceed(connection, entry, backend);
      } else if (backend !== 'source-connection-limit') return;
    }
  }

  /** Forgets client IPs whose tokens have come back. */
  sweep(nowMs: number): void {
    this.#sources.sweep(nowMs);
  }
}

function isKnown(entry: AdmissionEntry): entry is KnownEntry {
  return entry.source !== undefined;
}
