/**
 * Which source the packets of a listener have towards backends, as the programs find it in the listener's rules: the client's own,
 * or this host's address and one of the listener's relay ports. Listeners of UDP and of TCP have one of these each, since a port
 * of one is none of the other.
 *
 * The rules outlive the process, and are where a relay that takes listeners over finds the ports of each: its sessions have them.
 */
import type { IpAddress } from '../../../net/address.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { LISTENER_INDEXES } from './listener-address.ts';
import type { MappedArray } from './mapped-array.ts';
import type { PoolWriter } from './pool-writer.ts';
import { PORT, PORT_RELAY, SOURCE_CLIENT, SOURCE_RELAY } from './records.ts';
import { keptRange, newRange, type PortRange, sizeOf, type Surroundings } from './relay-ports.ts';
import { relayAddresses } from './relay-source.ts';

/** With sourceAddress `relay`. */
export interface RelaySource {
  readonly libc: Libc;
  /** The ports of all listeners of one protocol. */
  readonly ports: PortRange;
  /** How many one listener may have. Default: no bound. */
  readonly most?: number;
}

/** The maps of one protocol. */
export interface SourceMaps {
  readonly protocol: 'UDP' | 'TCP';
  readonly rules: MappedArray;
  /** Offsets of the fields of `rules`. */
  readonly at: Readonly<
    Record<'sourceAddress' | 'firstRelayPort' | 'relayPorts' | 'relayV4' | 'relayV6', number>
  >;
  readonly ports: MappedArray;
  /** Identities by index; empty where no listener is. */
  readonly names: { listener(index: number): string };
}

export class ListenerSource {
  readonly #maps: SourceMaps;
  readonly #relay: RelaySource | undefined;

  /** @param relay absent: backends see the clients' own addresses */
  constructor(maps: SourceMaps, relay?: RelaySource) {
    this.#maps = maps;
    this.#relay = relay;
  }

  /** Whether sessions that the listener with this index has can go on: with the source that backends know them by. */
  canKeep(index: number): boolean {
    if (this.#relay === undefined) return this.#rangeOf(index) === undefined;
    return this.#keptRange(index) !== undefined;
  }

  /**
   * The relay ports of a listener, which `give` makes its own. Undefined: it needs none.
   *
   * @param isNew the listener has none; else it has those in its rules, and `canKeep`
   * @throws RelayError TICKRELAY_ERR_LIMIT when none are left
   */
  choose(index: number, { name, isNew }: { name: string; isNew: boolean }): PortRange | undefined {
    if (this.#relay === undefined) return undefined;
    const range = isNew ? newRange(this.#around(index, this.#relay)) : this.#keptRange(index);
    if (range !== undefined) return range;
    const { first, last } = this.#relay.ports;
    throw new RelayError(
      'TICKRELAY_ERR_LIMIT',
      `kernel.relayPorts: ${first}-${last} has no port left for ${this.#maps.protocol} listener "${name}": ` +
        `${this.#others(index).length} others have them all; there should be a wider range, or fewer listeners`,
    );
  }

  /** Replies to these ports are the listener's from now on. Its identity is known already, so that the ports count as taken. */
  give(index: number, range: PortRange | undefined): void {
    const { rules, at } = this.#maps;
    if (range !== undefined) {
      this.#mark(index, range, true);
      rules.setU16(rules.at(index, at.firstRelayPort), range.first);
      rules.setU16(rules.at(index, at.relayPorts), sizeOf(range));
    }
    rules.setU32(rules.at(index, at.sourceAddress), this.#relay === undefined ? SOURCE_CLIENT : SOURCE_RELAY);
  }

  /** The listener has no ports any more. */
  release(index: number): void {
    const range = this.#rangeOf(index);
    if (range !== undefined) this.#mark(index, range, false);
  }

  /** This host's addresses towards the pool's backends. */
  addresses(pool: PoolWriter): readonly IpAddress[] {
    return Object.values(this.#relayAddresses(pool)).filter((ip) => ip !== undefined);
  }

  /** Writes them into the rules. */
  writeAddresses(index: number, pool: PoolWriter): void {
    const { rules, at } = this.#maps;
    for (const [field, ip] of Object.entries(this.#relayAddresses(pool))) {
      const to = rules.at(index, at[field as 'relayV4' | 'relayV6']);
      if (ip === undefined) rules.bytes.fill(0, to, to + 16);
      else rules.bytes.set(ip.bytes, to);
    }
  }

  #relayAddresses(pool: PoolWriter): Partial<ReturnType<typeof relayAddresses>> {
    if (this.#relay === undefined) return {};
    return relayAddresses(this.#relay.libc, pool.endpoints());
  }

  #keptRange(index: number): PortRange | undefined {
    const own = this.#rangeOf(index);
    return own && this.#relay && keptRange(own, this.#around(index, this.#relay));
  }

  #around(index: number, { ports: whole, most = Number.POSITIVE_INFINITY }: RelaySource): Surroundings {
    const taken = this.#others(index).map((other) => this.#rangeOf(other)!);
    return { whole, taken, most };
  }

  /** Other listeners that have relay ports, those of a relay before this one among them. */
  #others(index: number): readonly number[] {
    return LISTENER_INDEXES.filter(
      (other) =>
        other !== index && this.#maps.names.listener(other) !== '' && this.#rangeOf(other) !== undefined,
    );
  }

  /** What the rules say. */
  #rangeOf(index: number): PortRange | undefined {
    const { rules, at } = this.#maps;
    const u16 = (field: number): number => rules.u16[rules.at(index, field) >> 1]!;
    const first = u16(at.firstRelayPort);
    const size = u16(at.relayPorts);
    const isRelay = rules.getU32(rules.at(index, at.sourceAddress)) === SOURCE_RELAY;
    return isRelay && size > 0 ? { first, last: first + size - 1 } : undefined;
  }

  #mark(index: number, { first, last }: PortRange, isIts: boolean): void {
    const { ports } = this.#maps;
    for (let port = first; port <= last; port++) {
      const at = ports.at(port, PORT.at.flags) >> 1;
      ports.setU16(ports.at(port, PORT.at.listener), isIts ? index : 0);
      ports.u16[at] = isIts ? ports.u16[at]! | PORT_RELAY : ports.u16[at]! & ~PORT_RELAY;
    }
  }
}
