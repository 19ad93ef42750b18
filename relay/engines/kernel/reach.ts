/**
 * Keeps the programs attached where clients and backends are, as interfaces, addresses and routes come and go, and warns of
 * backends that players could not reach.
 */
import { Endpoint, type IpAddress } from '../../../net/address.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { hasInterface, interfacesOf } from './attach.ts';
import type { ListenerTable } from './listener-table.ts';
import type { Bpf } from './loader.ts';
import type { PoolWriter } from './pool-writer.ts';
import type { Attachments } from './programs.ts';
import { whyUnreachable } from './reachability.ts';

export interface ReachOptions {
  readonly bpf: Bpf;
  readonly attachments: Attachments;
  readonly listeners: ListenerTable;
  /** Addresses of listeners of another protocol. */
  readonly otherLocals: () => readonly Endpoint[];
  /** This host's addresses towards the pool's backends, as those listeners use them. */
  readonly otherAddresses: (pool: PoolWriter) => readonly IpAddress[];
  readonly pools: () => Iterable<PoolWriter>;
  /** Whose address backends see. */
  readonly sourceAddress: 'client' | 'relay';
  /** Where clients arrive; empty: the interfaces of the listeners' addresses. */
  readonly interfaces: readonly string[];
  readonly onTrouble?: ((error: unknown) => void) | undefined;
}

export class Reach {
  readonly #options: ReachOptions;
  /** What was warned of already. */
  readonly #warned = new Set<string>();

  constructor(options: ReachOptions) {
    this.#options = options;
  }

  /** With sourceAddress `relay` replies come in where the backends are. @throws RelayError */
  reachBackends(pool: PoolWriter): void {
    const { attachments, interfaces, listeners, otherAddresses } = this.#options;
    this.#warnOfUnreachable(pool);
    const addresses = [...listeners.refresh(pool), ...otherAddresses(pool)];
    if (interfaces.length > 0) return;
    for (const ip of addresses) attachments.add(interfacesOf(new Endpoint(ip, 0), []));
  }

  /** Looks for interfaces, addresses and routes that are new: what a listener was attached to at first need not be all. */
  follow(): void {
    const { attachments, listeners, otherLocals, pools } = this.#options;
    this.#try(() => attachments.prune());
    const locals = [...listeners.all().map(({ local }) => local), ...otherLocals()];
    for (const local of locals) this.#try(() => this.#follow(local));
    for (const pool of pools()) this.reach(pool);
  }

  /** The same as `reachBackends`; what fails is reported, and tried again by `follow`. */
  reach(pool: PoolWriter): void {
    this.#try(() => this.reachBackends(pool));
  }

  /** Attaches to the listener's interfaces that are there. */
  #follow(local: Endpoint): void {
    const { attachments, bpf, interfaces: named } = this.#options;
    // An address may be without an interface for a while.
    if (named.length === 0 && !hasInterface(local)) return;
    const there = interfacesOf(local, named).filter((name) => bpf.libc.if_nametoindex(name) !== 0);
    for (const name of there) this.#try(() => attachments.add([name]));
  }

  /** Reports what fails, once. */
  #try(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#warnOnce(String(error), error);
    }
  }

  /** Once for each backend of each listener. */
  #warnOfUnreachable(pool: PoolWriter): void {
    const { listeners, sourceAddress } = this.#options;
    for (const { local, ...listener } of listeners.all()) {
      if (listener.pool !== pool) continue;
      for (const { entry } of pool.backends()) {
        const why = whyUnreachable(local, entry.endpoint, sourceAddress);
        if (why !== undefined) this.#warnOnce(why, new RelayError('TICKRELAY_ERR_ENGINE', why));
      }
    }
  }

  #warnOnce(text: string, error: unknown): void {
    if (this.#warned.has(text)) return;
    this.#warned.add(text);
    this.#options.onTrouble?.(error);
  }
}
