/**
 * The UDP engine and the TCP side as one thing with listeners: what a configuration names, bound or not bound as a
 * whole. What changes the listeners goes one after the other: a drain or an end waits until a reload under way is
 * complete, and a reload that comes too late is refused before it has touched anything.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Endpoint } from '../net/address.ts';
import { RelayError } from '../net/relay-error.ts';
import type { ListenerConfig } from './control/config.ts';
import { pinGroupsOf } from './control/pin-groups.ts';
import { MAX_LISTENERS } from './core/limits.ts';
import type { PinGroupSpec } from './core/pin-group.ts';
import type { PoolSnapshot } from './core/pool-snapshot.ts';
import type { Engine } from './engines/engine.ts';
import type { TcpPlane } from './tcp/tcp-plane.ts';

export class DataPlanes {
  readonly engine: Engine;
  readonly tcp: TcpPlane;
  /** What is bound now, by name. */
  readonly #listeners = new Map<string, ListenerConfig>();
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
      [...this.engine.listeners(), ...this.tcp.listeners()].map(({ name, local }) => [name, local]),
    );
  }

  /**
   * Makes the listeners those of `wanted`: all of them, or on an error none and the old ones stay.
   *
   *  1. while the old ones still run, new addresses are tried: what can't be had ends the attempt here
   *  2. listeners that are gone, or have another address, protocol or pool, are closed
   *  3. new ones are bound; when one fails all the same, steps 2 and 3 are undone
   *  4. those that stay take their new rules, and their sessions go on
   *
   * A listener finds the group that shares its pins when it comes, and a group goes after its last listener.
   *
   * @throws RelayError TICKRELAY_ERR_BIND naming the address that can't be had; TICKRELAY_ERR_ENGINE when listeners would
   *   change while the relay drains, or anything after its end
   */
  apply(wanted: readonly ListenerConfig[]): Promise<void> {
    return this.#inTurn(async () => {
      await this.#setPinGroups([...this.#listeners.values(), ...wanted]);
      try {
        await this.#apply(wanted);
      } finally {
        await this.#setPinGroups([...this.#listeners.values()]);
      }
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
    const connections = this.tcp.listeners().reduce((sum, { liveConnections }) => sum + liveConnections, 0);
    return connections + (this.engine.isLasting === true ? 0 : this.engine.capacity().liveSessions);
  }

  /** Idempotent. */
  close(): Promise<void> {
    return this.#inTurn(async () => {
      this.#state = 'closed';
      await Promise.all([this.engine.close(), this.tcp.close()]);
    });
  }

  #inTurn(change: () => Promise<void>): Promise<void> {
    const turn = this.#last.then(change);
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async #setPinGroups(listeners: readonly ListenerConfig[]): Promise<void> {
    const groups = pinGroupsOf(listeners);
    if (isDeepStrictEqual(groups, this.#pinGroups)) return;
    this.#pinGroups = groups;
    await this.engine.setPinGroups(groups);
  }

  async #apply(wanted: readonly ListenerConfig[]): Promise<void> {
    const bound = [...this.#listeners.values()];
    const kept = wanted.filter((next) => bound.some((listener) => isSame(listener, next)));
    const added = wanted.filter((next) => !kept.includes(next));
    const closing = bound.filter((listener) => !kept.some((next) => isSame(listener, next)));

    if (this.#state === 'closed' || (this.#state === 'draining' && added.length + closing.length > 0)) {
      throw new RelayError(
        'TICKRELAY_ERR_ENGINE',
        `the listeners can't be changed: the relay is ${this.#state}; start it again with the new configuration`,
      );
    }
    // A trial needs a place of its own. Where there is none, a failure is found, and undone, by the steps below.
    if (closing.length > 0 && bound.length < MAX_LISTENERS) {
      for (const listener of added) if (!this.#hasPortOf(closing, listener)) await this.#try(listener);
    }
    for (const listener of closing) await this.#close(listener);
    await this.#openAll(added, async () => {
      // The address was free a moment ago. Another program that took it meanwhile takes it from this listener alone; the
      // next reload tries again. The first error says more than this one.
      for (const listener of closing) await this.#open(listener).catch(() => undefined);
    });
    for (const listener of kept) await this.#update(listener);
  }

  async #openAll(listeners: readonly ListenerConfig[], undo: () => Promise<void>): Promise<void> {
    const opened: ListenerConfig[] = [];
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
  #hasPortOf(closing: readonly ListenerConfig[], { protocol, listen }: ListenerConfig): boolean {
    const locals = this.locals();
    return closing.some(
      (listener) => listener.protocol === protocol && locals.get(listener.name)?.port === listen.port,
    );
  }

  /** Binds the address and lets go of it. */
  async #try(listener: ListenerConfig): Promise<void> {
    const trial = { ...listener, name: `${listener.name} (trial)` };
    await this.#open(trial);
    await this.#close(trial);
  }

  async #open(listener: ListenerConfig): Promise<void> {
    if (listener.protocol === 'udp') await this.engine.addListener(listener);
    else await this.tcp.addListener(listener);
    this.#listeners.set(listener.name, listener);
  }

  async #update(listener: ListenerConfig): Promise<void> {
    if (listener.protocol === 'udp') await this.engine.updateListener(listener);
    else await this.tcp.updateListener(listener);
    this.#listeners.set(listener.name, listener);
  }

  async #close({ name, protocol }: ListenerConfig): Promise<void> {
    this.#listeners.delete(name);
    if (protocol === 'udp') await this.engine.removeListener(name);
    else await this.tcp.removeListener(name);
  }
}

/** Whether a listener can take the other's rules in place. */
function isSame(a: ListenerConfig, b: ListenerConfig): boolean {
  return a.name === b.name && a.protocol === b.protocol && a.pool === b.pool && a.listen.equals(b.listen);
}
