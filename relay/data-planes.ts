/**
 * The UDP engine and the TCP side as one thing with listeners: what a configuration names, bound or not bound as a
 * whole. What changes the listeners goes one after the other: a drain or an end waits until a reload under way is
 * complete, and a reload that comes too late is refused before it has touched anything.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Endpoint } from '../net/address.ts';
import { RelayError } from '../net/relay-error.ts';
import type { KernelConfig, ListenerConfig, PoolConfig } from './control/config.ts';
import { formatPath } from './control/config-problems.ts';
import { kernelRoomProblem } from './control/kernel-room.ts';
import { pinGroupsOf } from './control/pin-groups.ts';
import type { ConnectionRows, TcpListenerView } from './control/relay-view.ts';
import { MAX_LISTENERS } from './core/limits.ts';
import type { PinGroupSpec } from './core/pin-group.ts';
import type { PoolSnapshot } from './core/pool-snapshot.ts';
import type { Engine, SessionQuery } from './engines/engine.ts';
import { placesOf, type TcpPlace } from './tcp-place.ts';
import type { TcpPlane } from './tcp/tcp-plane.ts';

/** A listener; of TCP ones where it is carried; and the address that it had under another form and keeps. */
type Placed = ListenerConfig & { readonly place?: TcpPlace; readonly local?: Endpoint | undefined };

/** What decides where TCP listeners are carried. */
export interface Surroundings {
  readonly pools: readonly PoolConfig[];
  readonly kernel: KernelConfig;
}

export class DataPlanes {
  readonly engine: Engine;
  readonly tcp: TcpPlane;
  /** What is bound now, by name. */
  readonly #listeners = new Map<string, Placed>();
  #pinGroups: readonly PinGroupSpec[] = [];
  #last: Promise<unknown> = Promise.resolve();
  #state: 'open' | 'draining' | 'closed' = 'open';

  constructor(engine: Engine, tcp: TcpPlane) {
    this.engine = engine;
    this.tcp = tcp;
  }

  /** @returns resolves when the data planes obey */
  async publish(snapshot: PoolSnapshot): Promise<void> {
    await Promise.all([this.tcp.publish(snapshot), this.engine.publish(snapshot)]);
  }

  /** The bound addresses, by listener name. */
  locals(): ReadonlyMap<string, Endpoint> {
    return new Map(
      [...this.engine.listeners(), ...this.tcpListeners()].map(({ name, local }) => [name, local]),
    );
  }

  /** Those of both places. */
  tcpListeners(): readonly TcpListenerView[] {
    return [...this.tcp.listeners(), ...(this.engine.tcp?.listeners() ?? [])];
  }

  /** Where the connections of each TCP listener are carried, by name. */
  tcpPlaces(): ReadonlyMap<string, TcpPlace> {
    return new Map(
      Array.from(this.#listeners.values()).flatMap(({ name, place }) => (place ? [[name, place]] : [])),
    );
  }

  /** @throws RelayError TICKRELAY_ERR_ADDRESS when `clientIp` is no address */
  async connections(query: SessionQuery): Promise<ConnectionRows> {
    const inUserspace = await this.tcp.connections(query);
    const limit = query.limit - inUserspace.connections.length;
    const inKernel = await this.engine.tcp?.connections({ ...query, limit });
    const listings = [inUserspace, ...(inKernel === undefined ? [] : [inKernel])];
    return {
      connections: listings.flatMap(({ connections }) => connections),
      total: listings.reduce((sum, { total }) => sum + total, 0),
      truncated: listings.some(({ truncated }) => truncated),
    };
  }

  /** @returns whether there was one with this id */
  async closeConnection(id: number): Promise<boolean> {
    return (await this.tcp.closeConnection(id)) || (await this.engine.tcp?.closeConnection(id)) === true;
  }

  /**
   * Makes the listeners those of `wanted`: all of them, or on an error none and the old ones stay.
   *
   *  1. while the old ones still run, new addresses are tried: what can't be had ends the attempt here
   *  2. listeners that are gone, or have another address, protocol, pool or place, are closed
   *  3. new ones are bound; when one fails all the same, steps 2 and 3 are undone
   *  4. those that stay take their new rules, and their sessions go on
   *
   * A listener finds the group that shares its pins when it comes, and a group goes after its last listener.
   *
   * @param surroundings absent: TCP stays in user space
   * @throws RelayError TICKRELAY_ERR_BIND naming the address that can't be had; TICKRELAY_ERR_CONFIG when the engine has no room
   *   for the pools; TICKRELAY_ERR_ENGINE when listeners would change while the relay drains, or anything after its end
   */
  apply(listeners: readonly ListenerConfig[], surroundings?: Surroundings): Promise<void> {
    return this.#inTurn(async () => {
      this.#requireRoom(listeners);
      const places = surroundings && placesOf(listeners, { ...surroundings, engine: this.engine });
      const wanted = listeners.map((listener): Placed => {
        const place = places?.get(listener.name);
        return place === undefined ? listener : { ...listener, place };
      });
      await this.#setPinGroups([...this.#listeners.values(), ...wanted]);
      try {
        await this.#apply(wanted);
      } finally {
        await this.#setPinGroups([...this.#listeners.values()]);
      }
    });
  }

  /** The start is complete: what a relay before this one left is this one's from now on. @throws RelayError */
  takeOver(): Promise<void> {
    return this.#inTurn(async () => {
      await this.engine.takeOver?.();
    });
  }

  /** No new sessions and connections from now on. */
  drain(): Promise<void> {
    return this.#inTurn(async () => {
      this.#state = 'draining';
      await this.tcp.drain();
      if (this.engine.isLasting !== true) await this.engine.drain();
    });
  }

  /** Live sessions and connections that the relay's end would end. */
  live(): number {
    const ending = this.engine.isLasting === true ? this.tcp.listeners() : this.tcpListeners();
    const connections = ending.reduce((sum, { liveConnections }) => sum + liveConnections, 0);
    return connections + (this.engine.isLasting === true ? 0 : this.engine.capacity().liveSessions);
  }

  /** Idempotent. */
  close(): Promise<void> {
    return this.#inTurn(async () => {
      this.#state = 'closed';
      const closed = await Promise.allSettled([this.engine.close(), this.tcp.close()]);
      for (const end of closed) if (end.status === 'rejected') throw end.reason;
    });
  }

  #inTurn(change: () => Promise<void>): Promise<void> {
    const turn = this.#last.then(change);
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  /** The configuration was checked for the engine that it names; the one that runs may be another. */
  #requireRoom(listeners: readonly ListenerConfig[]): void {
    const { maxPools = Number.POSITIVE_INFINITY } = this.engine;
    const problem = kernelRoomProblem(listeners, maxPools);
    if (problem === undefined) return;
    throw new RelayError('TICKRELAY_ERR_CONFIG', `${formatPath(problem.path)}: ${problem.text}`);
  }

  async #setPinGroups(listeners: readonly ListenerConfig[]): Promise<void> {
    const groups = pinGroupsOf(listeners);
    if (isDeepStrictEqual(groups, this.#pinGroups)) return;
    this.#pinGroups = groups;
    await this.engine.setPinGroups(groups);
  }

  async #apply(wanted: readonly Placed[]): Promise<void> {
    const bound = [...this.#listeners.values()];
    const kept = wanted.filter((next) => bound.some((listener) => isSame(listener, next)));
    const closing = bound
      .filter((listener) => !kept.some((next) => isSame(listener, next)))
      .map((listener) => ({ ...listener, local: this.locals().get(listener.name) }));
    const added = wanted.filter((next) => !kept.includes(next)).map((next) => movedFrom(closing, next));

    if (this.#state === 'closed' || (this.#state === 'draining' && added.length + closing.length > 0)) {
      throw new RelayError(
        'TICKRELAY_ERR_ENGINE',
        `the listeners can't be changed: the relay is ${this.#state}; start it again with the new configuration`,
      );
    }
    // A trial needs a place of its own. Where there is none, a failure is found, and undone, by the steps below.
    if (closing.length > 0 && bound.length < MAX_LISTENERS) {
      for (const listener of added)
        if (!this.#hasPortOf(closing, listener) && this.#hasRoomFor(listener)) await this.#try(listener);
    }
    for (const listener of closing) await this.#close(listener);
    await this.#openAll(added, async () => {
      // The address was free a moment ago. Another program that took it meanwhile takes it from this listener alone; the
      // next reload tries again. The first error says more than this one.
      for (const listener of closing) await this.#open(listener).catch(() => undefined);
    });
    for (const listener of kept) await this.#update(listener);
  }

  async #openAll(listeners: readonly Placed[], undo: () => Promise<void>): Promise<void> {
    const opened: Placed[] = [];
    try {
      for (const listener of listeners) {
        await this.#open(listener);
        opened.push(listener);
      }
    } catch (error) {
      for (const listener of opened) await this.#close(listener);
      await undo();
      throw error;
    }
  }

  /** Whether one of `closing` has the port, so that it can't be tried before that one is closed. */
  #hasPortOf(closing: readonly Placed[], { protocol, listen, local = listen }: Placed): boolean {
    return closing.some((one) => one.protocol === protocol && one.local?.port === local.port);
  }

  /** Whether the engine could serve the listener's pool beside those of all that are bound. */
  #hasRoomFor(listener: Placed): boolean {
    const { maxPools = Number.POSITIVE_INFINITY } = this.engine;
    const inEngine = [...this.#listeners.values(), listener].filter(
      ({ place }) => place?.isInKernel !== false,
    );
    return new Set(inEngine.map(({ pool }) => pool)).size <= maxPools;
  }

  /** Binds the address and lets go of it. */
  async #try(listener: Placed): Promise<void> {
    const trial = { ...listener, name: `${listener.name} (trial)` };
    await this.#open(trial);
    await this.#close(trial);
  }

  async #open(listener: Placed): Promise<void> {
    const spec = { ...listener, listen: listener.local ?? listener.listen };
    if (spec.protocol === 'udp') await this.engine.addListener(spec);
    else if (spec.place?.isInKernel === true) await this.engine.tcp!.addListener(spec);
    else await this.tcp.addListener(spec);
    this.#listeners.set(listener.name, listener);
  }

  async #update(listener: Placed): Promise<void> {
    if (listener.protocol === 'udp') await this.engine.updateListener(listener);
    else if (listener.place?.isInKernel === true) this.engine.tcp!.updateListener(listener);
    else await this.tcp.updateListener(listener);
    this.#listeners.set(listener.name, listener);
  }

  async #close({ name, protocol, place }: Placed): Promise<void> {
    this.#listeners.delete(name);
    if (protocol === 'udp') await this.engine.removeListener(name);
    else if (place?.isInKernel === true) await this.engine.tcp!.removeListener(name);
    else await this.tcp.removeListener(name);
  }
}

/** A listener whose address stays, and whose port the system once chose, keeps that port in another pool or place. */
function movedFrom(closing: readonly Placed[], next: Placed): Placed {
  const { name, protocol, listen } = next;
  const former = closing.find((one) => one.name === name && one.protocol === protocol);
  return former?.listen.equals(listen) === true ? { ...next, local: former.local } : next;
}

/** Whether a listener can take the other's rules in place. */
function isSame(a: Placed, b: Placed): boolean {
  const isSamePlace = a.place?.isInKernel === b.place?.isInKernel;
  return (
    isSamePlace &&
    a.name === b.name &&
    a.protocol === b.protocol &&
    a.pool === b.pool &&
    a.listen.equals(b.listen)
  );
}
