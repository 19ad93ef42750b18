/**
 * The programs of one relay, loaded for the kinds of interface that it has, and the links that hold them at their hooks. Links
 * that a relay before this one left pinned take the new programs in place.
 */
import { Arena } from '../../../net/linux/arena.ts';
import { errnoName, type Libc } from '../../../net/linux/libc.ts';
import { IFREQ, AF_INET, SIOCGIFHWADDR, SOCK_CLOEXEC, SOCK_DGRAM } from '../../../net/linux/abi.ts';
import { RelayError } from '../../../net/relay-error.ts';
import {
  attach,
  attachedTo,
  detach,
  HOOKS,
  type Hook,
  interfaceIndex,
  isAttachedTo,
  replaceProgram,
} from './attach.ts';
import type { PinDirectory } from './bpffs.ts';
import type { KernelMaps } from './kernel-maps.ts';
import type { Bpf } from './loader.ts';
import { assembleProgram, type ProgramName } from './program.ts';

/** Bytes of an Ethernet header, which loopback and veth have too. */
const ETHERNET_HEADER = 14;

/** Bytes before the IP header, of all kinds of interface. */
export const LINK_HEADERS = [ETHERNET_HEADER, 0] as const;

/** linux/if_arp.h: kinds of interface by the bytes before the IP header. */
const LINK_HEADER_BYTES: ReadonlyMap<number, number> = new Map([
  [1, ETHERNET_HEADER], // ARPHRD_ETHER
  [772, ETHERNET_HEADER], // ARPHRD_LOOPBACK
  [512, 0], // ARPHRD_PPP
  [519, 0], // ARPHRD_RAWIP
  [768, 0], // ARPHRD_TUNNEL
  [769, 0], // ARPHRD_TUNNEL6
  [776, 0], // ARPHRD_SIT
  [778, 0], // ARPHRD_IPGRE
  [65_534, 0], // ARPHRD_NONE: tun, WireGuard
]);

interface Target {
  readonly interface: string;
  readonly hook: Hook;
}

export class Attachments {
  readonly #bpf: Bpf;
  readonly #maps: KernelMaps;
  readonly #pins: PinDirectory | undefined;
  /** Program descriptors by hook and link header. */
  readonly #programs = new Map<string, number>();
  /** Link descriptors by `INTERFACE-HOOK`, in the order in which they were attached. */
  readonly #links = new Map<string, number>();
  /** Links with programs on the maps of a relay before this one, likewise. */
  readonly #inherited = new Map<string, number>();
  /** Links that are to take programs of this relay, likewise. */
  readonly #adopted = new Map<string, number>();
  /** Links that are pinned, and attached to no interface here. */
  readonly #strays = new Map<string, number>();
  /** Interfaces to attach to when the relay takes over; undefined when it has, or has nothing to take over. */
  #awaited: Set<string> | undefined;

  constructor(bpf: Bpf, maps: KernelMaps, pins: PinDirectory | undefined) {
    this.#bpf = bpf;
    this.#maps = maps;
    this.#pins = pins;
  }

  /**
   * Finds the pinned links, and loads programs for them. Those that share their maps with the ones that a link holds are to take their
   * place; else the old ones are to go on, on their own maps, behind those that `add` attaches, until `dropInherited`. Nothing
   * changes before `takeOver`.
   */
  adopt({ sharesMaps }: { readonly sharesMaps: boolean }): void {
    if (this.#pins === undefined) return;
    this.#awaited = new Set();
    for (const name of this.#pins.links()) {
      const link = this.#bpf.open(this.#pins.linkPath(name))!;
      const target = targetOf(name);
      // An interface that is gone, or another one under the same name, here or in the network of a relay before, has no link of ours.
      if (!HOOKS.includes(target.hook) || !isAttachedTo(this.#bpf, link, target))
        this.#strays.set(name, link);
      else {
        (sharesMaps ? this.#adopted : this.#inherited).set(name, link);
        if (sharesMaps) this.#program(target);
      }
    }
  }

  /**
   * Attaches both directions to each interface that does not have them yet; egress first, so that the first reply already
   * finds its way. Inherited programs stay behind them, and so still know the replies to what they have let in. Between `adopt` and
   * `attachAwaited` it only makes sure that this can be done.
   *
   * @throws RelayError TICKRELAY_ERR_BIND for an interface that is not there, TICKRELAY_ERR_ENGINE
   */
  add(interfaces: readonly string[]): void {
    for (const name of interfaces) interfaceIndex(this.#bpf.libc, name);
    if (this.#awaited === undefined) {
      for (const name of this.#attach(interfaces)) this.#pin(name);
      return;
    }
    this.prepare(interfaces);
    for (const name of interfaces) this.#awaited.add(name);
  }

  /** Attaches to what `add` was asked for since `adopt`. Nothing is pinned yet: it ends with the process. @throws RelayError as `add` does */
  attachAwaited(): void {
    for (const [name, link] of this.#adopted) this.#links.set(name, link);
    this.#attach([...(this.#awaited ?? [])]);
    this.#awaited = undefined;
  }

  /** Puts the links in the place of those of the relay before this one, and the programs into those that go on. */
  takeOver(): void {
    for (const [name, link] of this.#adopted) replaceProgram(this.#bpf, link, this.#program(targetOf(name)));
    for (const name of this.#links.keys()) if (!this.#adopted.has(name)) this.#pin(name);
    this.#adopted.clear();
    for (const [name, link] of this.#strays) {
      if (!this.#links.has(name)) this.#pins!.unlink(this.#pins!.linkPath(name));
      this.#bpf.closeFd(link);
    }
    this.#strays.clear();
  }

  /** Loads what `add` needs for these interfaces: to verify it takes some 0.1 s. @throws RelayError as `add` does */
  prepare(interfaces: readonly string[]): void {
    for (const name of interfaces) for (const hook of HOOKS) this.#program({ interface: name, hook });
  }

  /**
   * Attaches to these interfaces for a moment, those of them that are there, so that what the system refuses shows before anything relies
   * on it. The programs are loaded once: `add` takes the same ones. To them no packet is a listener's yet.
   *
   * @throws RelayError TICKRELAY_ERR_ENGINE
   */
  rehearse(interfaces: readonly string[]): void {
    const there = interfaces.filter((name) => this.#bpf.libc.if_nametoindex(name) !== 0);
    for (const name of there) {
      for (const hook of HOOKS) {
        const target = { interface: name, hook };
        const link = attach(this.#bpf, this.#program(target), target);
        detach(this.#bpf, link);
        this.#bpf.closeFd(link);
      }
    }
  }

  /** Forgets the links of interfaces that are gone, or are others under the same name. */
  prune(): void {
    for (const [key, link] of this.#links) {
      const index = this.#bpf.libc.if_nametoindex(key.slice(0, key.lastIndexOf('-')));
      if (index !== 0 && attachedTo(this.#bpf, link) === index) continue;
      if (this.#pins !== undefined) this.#pins.unlink(this.#pins.linkPath(key));
      this.#bpf.closeFd(link);
      this.#links.delete(key);
    }
  }

  /** Takes the programs of a relay before this one off, whose maps did not fit. */
  dropInherited(): void {
    for (const [key, link] of this.#inherited) {
      detach(this.#bpf, link);
      if (!this.#links.has(key)) this.#pins!.unlink(this.#pins!.linkPath(key));
      this.#bpf.closeFd(link);
    }
    this.#inherited.clear();
  }

  /** Takes the programs off their interfaces; ingress first, so that no reply to what still came in goes astray. */
  detach(): void {
    const links = [...this.#links, ...this.#inherited];
    for (const hook of HOOKS) {
      for (const [name, link] of links) if (name.endsWith(`-${hook}`)) detach(this.#bpf, link);
    }
  }

  /** Lets go of descriptors. Links that are pinned stay attached. */
  close(): void {
    const maps = [this.#links, this.#inherited, this.#adopted, this.#strays, this.#programs];
    for (const fd of new Set(maps.flatMap((map) => [...map.values()]))) this.#bpf.closeFd(fd);
    for (const map of maps) map.clear();
  }

  /** @returns the new links, by name */
  #attach(interfaces: readonly string[]): readonly string[] {
    const attached: string[] = [];
    for (const hook of ['egress', 'ingress'] as const) {
      for (const name of interfaces) {
        const key = `${name}-${hook}`;
        if (this.#links.has(key)) continue;
        const target = { interface: name, hook, isFirst: this.#inherited.has(key) };
        this.#links.set(key, attach(this.#bpf, this.#program(target), target));
        attached.push(key);
      }
    }
    return attached;
  }

  /** Lets a link outlive the process, in the place of one that was pinned before it. */
  #pin(name: string): void {
    if (this.#pins === undefined) return;
    const path = this.#pins.linkPath(name);
    this.#pins.unlink(path);
    this.#bpf.pin(this.#links.get(name)!, path);
  }

  #program({ interface: name, hook }: Target): number {
    const linkHeaderBytes = linkHeaderOf(this.#bpf.libc, name);
    const key = `${hook}-${linkHeaderBytes}`;
    let program = this.#programs.get(key);
    if (program === undefined) {
      program = loadProgram(this.#bpf, this.#maps, { hook, linkHeaderBytes });
      this.#programs.set(key, program);
    }
    return program;
  }
}

/** @param name of a link: `INTERFACE-HOOK` */
function targetOf(name: string): Target {
  const at = name.lastIndexOf('-');
  return { interface: name.slice(0, at), hook: name.slice(at + 1) as Hook };
}

/** @returns the descriptor of the program */
export function loadProgram(
  bpf: Bpf,
  maps: KernelMaps,
  options: { readonly hook: ProgramName; readonly linkHeaderBytes?: number },
): number {
  const { hook, linkHeaderBytes = ETHERNET_HEADER } = options;
  const { link, functions } = assembleProgram({ hook, linkHeaderBytes });
  return bpf.loadProgram({ name: `tickrelay_${hook}`, instructions: link(maps.fds), functions });
}

/** @throws RelayError TICKRELAY_ERR_ENGINE for a kind of interface that the programs can't parse */
function linkHeaderOf(libc: Libc, name: string): number {
  const kind = interfaceKind(libc, name);
  const bytes = LINK_HEADER_BYTES.get(kind);
  if (bytes !== undefined) return bytes;
  throw new RelayError(
    'TICKRELAY_ERR_ENGINE',
    `engine kernel can't read the packets of interface "${name}" (link type ${kind}); name others under kernel.interfaces`,
  );
}

/** The ARPHRD_ number of an interface. */
function interfaceKind(libc: Libc, name: string): number {
  const memory = new Arena(libc, 4_096);
  const socket = libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    memory.bytes.set(Buffer.from(name).subarray(0, IFREQ.hardwareFamily - 1), IFREQ.name);
    if (libc.ioctl(socket, SIOCGIFHWADDR, memory.address) === 0)
      return memory.u16[IFREQ.hardwareFamily >> 1]!;
    throw new RelayError(
      'TICKRELAY_ERR_BIND',
      `can't ask about interface "${name}": ${errnoName(libc.errno())}`,
    );
  } finally {
    libc.close(socket);
    memory.free();
  }
}
