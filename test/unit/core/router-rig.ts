/** A router with what an engine keeps around it: listeners, a published pool, and who owns which upstream. */
import assert from 'node:assert/strict';
import { formatWords, IpAddress, Endpoint } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import { slotOf } from '../../../relay/core/backend-ref.ts';
import { DROP_REASONS } from '../../../relay/core/drop-reason.ts';
import { type ListenerRules, ListenerState, PoolView } from '../../../relay/core/listener-state.ts';
import { Router } from '../../../relay/core/router.ts';
import { NO_UPSTREAM } from '../../../relay/core/session-table.ts';

export const NO_LIMITS = { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 };

export const RULES: ListenerRules = {
  algorithm: 'ip-hash',
  idleTimeoutMs: 1_000,
  pinTimeoutMs: 3_000,
  limits: NO_LIMITS,
};

export class RouterRig {
  readonly pool = new BackendPool('game');
  readonly view = new PoolView(this.pool.snapshot());
  readonly router: Router;
  readonly listeners = new Map<string, ListenerState>();
  /** Session id by upstream, as an engine's sockets know it. */
  readonly owners = new Map<number, number>();
  readonly #clients = new Map<number, string>();
  #nextUpstream = 1;

  constructor({ maxSessions = 100, ids = ['a', 'b', 'c'] } = {}) {
    this.router = new Router({
      maxSessions,
      hashSeed: 0,
      tableSeed: 0x5eed,
      onDetach: (session) => {
        const upstream = this.router.sessions.upstream(session);
        assert.equal(this.owners.get(upstream), session, 'detached by a session that does not own it');
        this.owners.delete(upstream);
      },
      onRenumber: (session) => {
        const upstream = this.router.sessions.upstream(session);
        assert(this.owners.has(upstream), 'renumbered without an upstream');
        this.owners.set(upstream, session);
      },
    });
    for (const id of ids) this.add(id);
    this.publish();
  }

  add(id: string): void {
    const endpoint = Endpoint.parse(`10.0.1.${id.charCodeAt(0)}:7777`);
    this.pool.add({ id, endpoint, weight: 1 + (id.charCodeAt(0) % 3) });
  }

  publish(): void {
    this.view.publish(this.pool.snapshot());
  }

  listen(name: string, rules: Partial<ListenerRules> = {}): ListenerState {
    const options = { rules: { ...RULES, ...rules }, pool: this.view };
    const listener = new ListenerState(this.listeners.size, name, options);
    this.router.addListener(listener);
    this.listeners.set(name, listener);
    return listener;
  }

  /** The session's id, or the reason of the drop. Takes an upstream for the session as an engine would. */
  route(listener: ListenerState, ip: string, port: number, nowMs: number, bytes = 14): number | string {
    const { sessions } = this.router;
    const session = this.router.route(listener, IpAddress.parse(ip).words, 0, port, bytes, nowMs);
    if (session < 0) return DROP_REASONS[~session]!;
    if (sessions.upstream(session) === NO_UPSTREAM) {
      const upstream = this.#nextUpstream++;
      sessions.setUpstream(session, upstream);
      this.owners.set(upstream, session);
      this.#clients.set(upstream, this.clientOf(session));
    }
    return session;
  }

  /** The id of the backend that gets the datagram, or the reason of the drop. */
  backend(listener: ListenerState, ip: string, port: number, nowMs: number, bytes = 14): string {
    const session = this.route(listener, ip, port, nowMs, bytes);
    if (typeof session === 'string') return session;
    return this.view.snapshot.backends[slotOf(this.router.sessions.backendRef(session))]!.id;
  }

  clientOf(session: number): string {
    const { sessions } = this.router;
    const ip = formatWords(sessions.records.words, sessions.addressAt(session));
    return `${this.router.listenerOf(session).name} ${ip} ${sessions.clientPort(session)}`;
  }

  /** Live sessions by `listener ip port`. */
  sessions(): Map<string, number> {
    const { records } = this.router.sessions;
    const ids = Array.from({ length: records.places }, (_, id) => id).filter((id) => records.isLive(id));
    return new Map(ids.map((id) => [this.clientOf(id), id]));
  }

  /** Live pins by `listener ip`. */
  pins(): Map<string, number> {
    const { pins } = this.router;
    const names = [...this.listeners.keys()];
    const ids = Array.from({ length: pins.records.places }, (_, id) => id).filter((id) =>
      pins.records.isLive(id),
    );
    return new Map(
      ids.map((id) => [`${names[pins.scope(id)]!} ${formatWords(pins.records.words, id * 16)}`, id]),
    );
  }

  /** What must always hold: every figure equals a recount, and every upstream leads to the session that took it. */
  check(): void {
    const { sessions, pins } = this.router;
    const live = this.sessions();
    assert.equal(sessions.records.size, live.size);
    for (const [name, listener] of this.listeners) {
      const own = [...live.keys()].filter((client) => client.startsWith(`${name} `));
      assert.equal(listener.liveSessions, own.length, `live sessions of ${name}`);
    }
    for (const [client, pin] of this.pins()) {
      const own = [...live.keys()].filter((session) => session.startsWith(`${client} `));
      assert.equal(pins.liveSessions(pin), own.length, `live sessions of ${client}`);
    }
    const pinned = this.pins();
    for (const client of live.keys())
      assert(pinned.has(client.slice(0, client.lastIndexOf(' '))), `${client} has a pin`);
    for (const backend of this.pool.list()) {
      const own = [...live.values()].filter((id) => sessions.backendRef(id) === backend.ref);
      assert.equal(this.view.live[backend.slot], own.length, `live sessions of backend ${backend.id}`);
    }
    for (const [upstream, session] of this.owners) {
      assert.equal(sessions.upstream(session), upstream);
      assert.equal(this.clientOf(session), this.#clients.get(upstream));
    }
    const withUpstream = [...live.values()].filter((id) => sessions.upstream(id) !== NO_UPSTREAM);
    assert.equal(this.owners.size, withUpstream.length);
  }
}
