/**
 * One public UDP address of the userspace engine, and the path of each datagram through it:
 *
 *  client -> backend                                backend -> client
 *   1. received on the listener socket               1. received on an upstream socket
 *   2. the router names its session                  2. the source address names the backend's slot,
 *   3. the session's upstream socket, taken             socket and slot name the session
 *      if it has none                                3. the session is alive and on that backend
 *   4. sent from there to the backend                4. sent from the listener socket to the client, from the address
 *                                                       that the client contacted last
 *
 * Each datagram that is received is counted as forwarded or under one drop reason, here or when its sending is done.
 */
import type { Endpoint } from '../../../net/address.ts';
import { DatagramBatch, type DatagramSocket, type OpenDatagramSocket } from '../../../net/datagram-socket.ts';
import { slotOf } from '../../core/backend-ref.ts';
import { DOWNSTREAM, UPSTREAM } from '../../core/counters.ts';
import { dropReason } from '../../core/drop-reason.ts';
import type { ListenerState } from '../../core/listener-state.ts';
import type { PoolSnapshot } from '../../core/pool-snapshot.ts';
import { PREFETCH_LIMIT } from '../../core/record-table.ts';
import type { Router } from '../../core/router.ts';
import { NO_UPSTREAM } from '../../core/session-table.ts';
import type { ListenerStatus, UdpListenerSpec } from '../engine.ts';
import { NO_OWNER } from './upstream-owners.ts';
import type { ReserveBounds } from './upstream-reserve.ts';
import { UpstreamSockets } from './upstream-sockets.ts';

const NO_UPSTREAM_SOCKET = dropReason('no-upstream-socket');
const UNKNOWN_UPSTREAM = dropReason('unknown-upstream');
const LATE_REPLY = dropReason('late-reply');
const AMPLIFICATION_LIMIT = dropReason('amplification-limit');
const SEND_QUEUE_FULL = dropReason('send-queue-full');
const SEND_FAILED = dropReason('send-failed');

export interface UdpListenerOptions {
  readonly spec: UdpListenerSpec;
  readonly state: ListenerState;
  readonly router: Router;
  /** Opens the public address. */
  readonly openSocket: OpenDatagramSocket;
  readonly openUpstream: OpenDatagramSocket;
  readonly maxUpstreamSockets: number;
  /** Whether one more upstream socket may be opened beside those of other listeners. */
  readonly hasRoom: () => boolean;
  /** Makes another listener close an upstream socket that only stands ready. @returns whether there is room now */
  readonly makeRoom: () => boolean;
  readonly upstreamReserve: ReserveBounds;
  readonly upstreamQuarantineMs: number;
  readonly now: () => number;
  readonly onTrouble: (error: unknown) => void;
}

export class UdpListener {
  readonly state: ListenerState;
  readonly #router: Router;
  readonly #now: () => number;
  readonly #socket: DatagramSocket;
  readonly #upstreams: UpstreamSockets;
  readonly #outgoing = new DatagramBatch(1);
  readonly #isHalfOpen = (session: number): boolean => this.#router.sessions.isHalfOpen(session);
  #spec: UdpListenerSpec;

  /** @throws RelayError TICKRELAY_ERR_BIND */
  constructor(options: UdpListenerOptions) {
    this.#spec = options.spec;
    this.state = options.state;
    this.#router = options.router;
    this.#now = options.now;
    this.#socket = options.openSocket({
      local: options.spec.listen,
      tellPaths: true,
      receiveBufferBytes: options.spec.receiveBufferBytes,
      onReceive: (batch) => this.#downstream(batch),
      onSent: (sent, failed, bytes) => this.#count(UPSTREAM, sent, failed, bytes),
      onError: options.onTrouble,
    });
    // The same functions for all of them, so that one call can tell what happened to several.
    const upstreamOptions = {
      onReceive: (batch: DatagramBatch) => this.#upstream(batch),
      onSent: (sent: number, failed: number, bytes: number) => this.#count(DOWNSTREAM, sent, failed, bytes),
      onUnreachable: (errors: number) => this.state.counters.upstreamUnreachable(errors),
      onError: options.onTrouble,
    };
    this.#upstreams = new UpstreamSockets({
      maxSockets: options.maxUpstreamSockets,
      hasRoom: options.hasRoom,
      makeRoom: options.makeRoom,
      reserve: options.upstreamReserve,
      quarantineMs: options.upstreamQuarantineMs,
      open: (local, tag) => options.openUpstream({ ...upstreamOptions, local, tag }),
      onOpenFailed: options.onTrouble,
    });
    this.#upstreams.publish(this.state.pool.snapshot, this.#now());
  }

  get local(): Endpoint {
    return this.#socket.local;
  }

  get upstreamSockets(): number {
    return this.#upstreams.size;
  }

  /** Closes an upstream socket that only stands ready. @returns whether there was one */
  giveUpReady(): boolean {
    return this.#upstreams.giveUpReady(this.#now());
  }

  get spec(): UdpListenerSpec {
    return this.#spec;
  }

  update(spec: UdpListenerSpec): void {
    if (spec.receiveBufferBytes !== this.#spec.receiveBufferBytes)
      this.#socket.resizeReceiveBuffer?.(spec.receiveBufferBytes);
    this.#spec = spec;
    this.state.apply(spec, this.#now());
  }

  publish(snapshot: PoolSnapshot): void {
    this.#upstreams.publish(snapshot, this.#now());
  }

  /** The session gives its upstream socket back. */
  detach(session: number): void {
    const { sessions } = this.#router;
    const slot = slotOf(sessions.backendRef(session));
    this.#upstreams.release(sessions.upstream(session), slot, session, this.#now());
  }

  /** The session, which has an upstream socket, goes by a new id. */
  renumber(session: number): void {
    const { sessions } = this.#router;
    this.#upstreams.renumber(sessions.upstream(session), slotOf(sessions.backendRef(session)), session);
  }

  /** The local port that the session's backend sees, or 0. */
  upstreamPort(session: number): number {
    const upstream = this.#router.sessions.upstream(session);
    return upstream === NO_UPSTREAM ? 0 : this.#upstreams.sockets[upstream]!.local.port;
  }

  sweep(nowMs: number): void {
    this.#upstreams.sweep(nowMs);
    this.state.counters.upstreamSockets = this.#upstreams.size;
    this.state.counters.kernelDrops = this.#socket.kernelDrops ?? 0;
  }

  status(): ListenerStatus {
    const { live, snapshot } = this.state.pool;
    const sessionsByBackend = new Map<string, number>();
    for (const backend of snapshot.backends) {
      if (backend !== undefined) sessionsByBackend.set(backend.id, live[backend.slot]!);
    }
    return {
      name: this.state.name,
      local: this.local,
      pool: this.#spec.pool,
      counts: this.state.counters.dump(),
      liveSessions: this.state.counters.liveSessions,
      sessionsByBackend,
      upstreamSockets: this.#upstreams.size,
      receiveBuffer: {
        askedBytes: this.#spec.receiveBufferBytes,
        grantedBytes: this.#socket.receiveBufferBytes,
      },
    };
  }

  async close(): Promise<void> {
    this.#router.removeListener(this.state, this.#now());
    await Promise.all([this.#socket.close(), this.#upstreams.close()]);
  }

  #downstream(batch: DatagramBatch): void {
    const nowMs = this.#now();
    const { state } = this;
    const { counters } = state;
    const { sessions } = this.#router;
    const { count, payloads, lengths, words, ports, paths } = batch;
    if (count > 1) sessions.prefetch(state.index, words, ports, Math.min(count, PREFETCH_LIMIT));
    for (let i = 0; i < count; i++) {
      const length = lengths[i]!;
      counters.received(DOWNSTREAM, length);
      const session = this.#router.route(state, words, i * 4, ports[i]!, length, nowMs);
      if (session < 0) {
        counters.dropped(DOWNSTREAM, ~session);
        continue;
      }
      const attached = this.#attach(session, words, i * 4, ports[i]!, nowMs);
      if (attached === -1) {
        counters.dropped(DOWNSTREAM, NO_UPSTREAM_SOCKET);
        continue;
      }
      sessions.setPath(attached, paths[i]!);
      this.#toBackend(attached, payloads[i]!, length);
    }
  }

  /**
   * Gives the session of the client at `words[at]` and `port` an upstream socket, if it has none. When they are used up, a
   * half-open session gives up its own.
   *
   * @returns the session's id, which may have changed, or -1 when no socket can be had
   */
  #attach(session: number, words: Uint32Array, at: number, port: number, nowMs: number): number {
    const { sessions } = this.#router;
    if (sessions.upstream(session) !== NO_UPSTREAM) return session;
    const slot = slotOf(sessions.backendRef(session));
    let id = session;
    let upstream = this.#upstreams.acquire(slot, id, nowMs);
    if (upstream === -1 && this.#evictHalfOpen(slot, nowMs)) {
      id = sessions.find(this.state.index, words, at, port);
      upstream = this.#upstreams.acquire(slot, id, nowMs);
    }
    if (upstream === -1) return -1;
    sessions.setUpstream(id, upstream);
    this.state.counters.upstreamSockets = this.#upstreams.size;
    return id;
  }

  #toBackend(session: number, payload: Uint8Array, length: number): void {
    const { sessions } = this.#router;
    const { words, ports } = this.state.pool.snapshot;
    const slot = slotOf(sessions.backendRef(session));
    this.#outgoing.clear();
    this.#outgoing.append(payload, length, words, slot * 4, ports[slot]!);
    const accepted = this.#upstreams.sockets[sessions.upstream(session)]!.send(this.#outgoing);
    if (accepted === 0) this.state.counters.dropped(DOWNSTREAM, SEND_QUEUE_FULL);
  }

  /** Ends a half-open session and closes its upstream socket. @returns whether there is room for another one */
  #evictHalfOpen(slot: number, nowMs: number): boolean {
    const victim = this.#upstreams.findSoleOwner(slot, this.#isHalfOpen);
    if (victim === -1) return false;
    const upstream = this.#router.sessions.upstream(victim);
    this.#router.evict(victim, nowMs);
    return this.#upstreams.closeUnowned(upstream);
  }

  #upstream(batch: DatagramBatch): void {
    const nowMs = this.#now();
    const { counters, pool } = this.state;
    const { owners } = this.#upstreams;
    const { count, payloads, lengths, words, ports, tags } = batch;
    for (let i = 0; i < count; i++) {
      const length = lengths[i]!;
      counters.received(UPSTREAM, length);
      const slot = pool.snapshot.slotAt(words, i * 4, ports[i]!);
      if (slot === -1) {
        counters.dropped(UPSTREAM, UNKNOWN_UPSTREAM);
        continue;
      }
      const session = owners.get(tags[i]!, slot);
      if (session === NO_OWNER || !this.#router.mayReply(session, slot, nowMs)) {
        counters.dropped(UPSTREAM, LATE_REPLY);
        continue;
      }
      if (this.#amplifies(session, length)) {
        counters.dropped(UPSTREAM, AMPLIFICATION_LIMIT);
        continue;
      }
      this.#toClient(session, payloads[i]!, length);
    }
  }

  #toClient(session: number, payload: Uint8Array, length: number): void {
    const { sessions } = this.#router;
    const port = sessions.clientPort(session);
    const path = sessions.path(session);
    this.#outgoing.clear();
    this.#outgoing.append(payload, length, sessions.records.words, sessions.addressAt(session), port, path);
    if (this.#socket.send(this.#outgoing) === 0) {
      this.state.counters.dropped(UPSTREAM, SEND_QUEUE_FULL);
      return;
    }
    sessions.replied(session, length);
  }

  /** A reply to a client that may be spoofed is bounded by what that client sent. */
  #amplifies(session: number, length: number): boolean {
    const { amplification } = this.state.limits;
    const { sessions } = this.#router;
    if (amplification === 0 || !sessions.isHalfOpen(session)) return false;
    return sessions.bytesUpstream(session) + length > amplification * sessions.bytesDownstream(session);
  }

  #count(direction: number, sent: number, failed: number, bytes: number): void {
    this.state.counters.forwarded(direction, sent, bytes);
    if (failed > 0) this.state.counters.dropped(direction, SEND_FAILED, failed);
  }
}
