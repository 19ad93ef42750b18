/**
 * Who is let in through a listener: the limits of the listener, of each client IP and of the backends, and the queue of those
 * that wait for one of them.
 *
 *     judge -> enter -> release, and serveQueue whenever something came free
 *
 * or, where a proxy is to say first who the client is: expect -> judge -> enter -> release.
 */
import type { Endpoint } from '../../net/address.ts';
import { hashAddress } from '../core/hash.ts';
import type { BackendEntry } from '../core/pool-snapshot.ts';
import type { CloseReason } from './close-reason.ts';
import { SourceTable, type Source } from './source-table.ts';
import type { TcpConnection } from './tcp-connection.ts';
import type { TcpPool } from './tcp-pool.ts';
import type { TcpListenerSpec } from './tcp-rules.ts';

/** What a connection holds on to at its listener until it ends. */
interface Entry {
  /** Absent while a proxy has not yet said who the client is. */
  readonly source?: Source;
  /** Of the client's address. */
  readonly hash: number;
  isAdmitted: boolean;
}
type KnownEntry = Entry & { readonly source: Source };

/** A client that is let in. */
export interface Verdict {
  readonly source: Source;
  readonly hash: number;
  /** One connection is counted towards it; absent: the client waits. */
  readonly backend: BackendEntry | undefined;
}

export interface AdmissionOptions {
  /** As they are now. */
  readonly rules: () => TcpListenerSpec;
  readonly pool: TcpPool;
  readonly hashSeed: number;
  readonly now: () => number;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #entries = new Map<TcpConnection, Entry>();
  readonly #sources = new SourceTable();
  /** In the order in which they came. */
  readonly #queue = new Map<TcpConnection, KnownEntry>();
  /** Connections that wait for a PROXY header. */
  #expected = 0;
  #admitted = 0;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Connections that are let in, wait, or are to say who they are. */
  get live(): number {
    return this.#entries.size;
  }

  get queued(): number {
    return this.#queue.size;
  }

  /** Whether one more connection may wait for its PROXY header: as many as may be let in. */
  get mayExpect(): boolean {
    return this.#expected < this.#options.rules().maxConnections;
  }

  /** The connection waits for its PROXY header. */
  expect(connection: TcpConnection): void {
    this.#expected++;
    this.#entries.set(connection, { hash: 0, isAdmitted: false });
  }

  /** @returns how the client comes in, or why it is refused */
  judge(client: Endpoint): Verdict | CloseReason {
    const { limits, queue } = this.#options.rules();
    const nowMs = this.#options.now();
    const source = this.#sources.of(client.ip);
    const hash = hashAddress(client.ip.words, 0, this.#options.hashSeed);
    const isTooFast = !source.takeToken(nowMs, limits.connectionRatePerSource);
    const backend = isTooFast ? 'source-rate-limit' : this.#choose(source, hash);
    if (typeof backend !== 'string') return { source, hash, backend };
    const mayWait = backend !== 'source-rate-limit' && backend !== 'no-backend';
    // One client must not fill the queue that all share.
    const { connectionsPerSource } = limits;
    const hasTurn = connectionsPerSource === 0 || source.waiting < connectionsPerSource;
    if (mayWait && hasTurn && this.#queue.size < queue.size) return { source, hash, backend: undefined };
    this.#sources.forget(source, nowMs);
    return backend;
  }

  /** @returns a backend with one connection counted towards it, or the limit that is reached */
  #choose(source: Source, hash: number): BackendEntry | CloseReason {
    const { maxConnections, limits, algorithm, slowStartMs } = this.#options.rules();
    if (this.#admitted >= maxConnections) return 'connection-limit';
    const { connectionsPerSource } = limits;
    if (connectionsPerSource > 0 && source.admitted >= connectionsPerSource) return 'source-connection-limit';
    return this.#options.pool.acquire({ algorithm, hash, slowStartMs, nowMs: this.#options.now() });
  }

  /** Lets the client in, or lets it wait. */
  enter(connection: TcpConnection, { source, hash, backend }: Verdict): void {
    const entry = { source, hash, isAdmitted: false };
    if (this.#entries.has(connection)) this.#expected--;
    this.#entries.set(connection, entry);
    if (backend !== undefined) {
      this.#admit(connection, entry, backend);
      return;
    }
    source.waiting++;
    this.#queue.set(connection, entry);
    connection.waitFor(this.#options.rules().queue.timeoutMs);
  }

  #admit(connection: TcpConnection, entry: KnownEntry, backend: BackendEntry): void {
    entry.isAdmitted = true;
    entry.source.admitted++;
    this.#admitted++;
    connection.connectTo(backend, entry.hash);
  }

  /** The connection ended. */
  release(connection: TcpConnection): void {
    const { source, isAdmitted } = this.#entries.get(connection)!;
    this.#entries.delete(connection);
    if (source === undefined) {
      this.#expected--;
      return;
    }
    if (this.#queue.delete(connection)) source.waiting--;
    if (isAdmitted) {
      source.admitted--;
      this.#admitted--;
    }
    this.#sources.forget(source, this.#options.now());
  }

  /** Lets in those of the waiting connections that the limits now allow, the oldest first. */
  serveQueue(): void {
    for (const [connection, entry] of this.#queue) {
      if (connection.state === 'closing') continue;
      const backend = this.#choose(entry.source, entry.hash);
      if (typeof backend !== 'string') {
        this.#queue.delete(connection);
        entry.source.waiting--;
        this.#admit(connection, entry, backend);
      } else if (backend !== 'source-connection-limit') return;
    }
  }

  /** Forgets client IPs whose tokens have come back. */
  sweep(nowMs: number): void {
    this.#sources.sweep(nowMs);
  }
}
