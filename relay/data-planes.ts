/**
 * The UDP engine and the TCP side as one thing with listeners: what a configuration names, bound or not bound as a
 * whole.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Endpoint } from '../net/address.ts';
import type { ListenerConfig } from './control/config.ts';
import type { PoolSnapshot } from './core/pool-snapshot.ts';
import type { Engine } from './engines/engine.ts';
import type { TcpEngine } from './tcp/tcp-engine.ts';

export class DataPlanes {
  readonly engine: Engine;
  readonly tcp: TcpEngine;
  #listeners: readonly ListenerConfig[] = [];

  constructor(engine: Engine, tcp: TcpEngine) {
    this.engine = engine;
    this.tcp = tcp;
  }

  publish(snapshot: PoolSnapshot): void {
    this.engine.publish(snapshot);
    this.tcp.publish(snapshot);
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
   *  1. listeners with another address, protocol or pool are closed, and bound as new ones
   *  2. new ones are bound; when one fails, the steps so far are undone
   *  3. those that stay take their new rules, and their sessions go on
   *  4. those that are gone are closed
   *
   * @throws RelayError TICKRELAY_ERR_BIND naming the address that can't be had
   */
  async apply(wanted: readonly ListenerConfig[]): Promise<void> {
    const before = new Map(this.#listeners.map((listener) => [listener.name, listener]));
    const replaced = wanted
      .filter(({ name }) => before.has(name))
      .filter((next) => !isSame(before.get(next.name)!, next));
    const added = wanted.filter((next) => !before.has(next.name) || replaced.includes(next));
    const kept = wanted.filter((next) => !added.includes(next));
    const names = new Set(wanted.map(({ name }) => name));
    const gone = this.#listeners.filter(({ name }) => !names.has(name));

    for (const { name } of replaced) await this.#close(before.get(name)!);
    await this.#openAll(added, async () => {
      for (const { name } of replaced) await this.#open(before.get(name)!);
    });
    for (const listener of kept) this.#update(listener);
    for (const listener of gone) await this.#close(listener);
    this.#listeners = wanted;
  }

  drain(): void {
    this.engine.drain();
    this.tcp.drain();
  }

  /** Live sessions and connections. */
  live(): number {
    const connections = this.tcp.listeners().reduce((sum, { liveConnections }) => sum + liveConnections, 0);
    return this.engine.capacity().liveSessions + connections;
  }

  async close(): Promise<void> {
    await Promise.all([this.engine.close(), this.tcp.close()]);
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

  #open(listener: ListenerConfig): Promise<Endpoint> {
    return listener.protocol === 'udp' ? this.engine.addListener(listener) : this.tcp.addListener(listener);
  }

  #update(listener: ListenerConfig): void {
    if (listener.protocol === 'udp') this.engine.updateListener(listener);
    else this.tcp.updateListener(listener);
  }

  #close(listener: ListenerConfig): Promise<void> {
    const { name } = listener;
    return listener.protocol === 'udp' ? this.engine.removeListener(name) : this.tcp.removeListener(name);
  }
}

/** Whether a listener can take the other's rules in place. */
function isSame(a: ListenerConfig, b: ListenerConfig): boolean {
  return (
    a.protocol === b.protocol &&
    a.pool === b.pool &&
    isDeepStrictEqual(a.listen.toString(), b.listen.toString())
  );
}
