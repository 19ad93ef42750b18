/**
 * Where the programs run: tcx links (Linux >= 6.6) at both directions of the client-facing interfaces. A link is detached with
 * its last reference, which is a descriptor of this process or its pin in bpffs; replacing a link's program is one step,
 * without a packet that meets none.
 */
import { networkInterfaces } from 'node:os';
import {
  BPF_F_BEFORE,
  BPF_LINK_ATTR,
  BPF_LINK_CREATE,
  BPF_LINK_DETACH,
  BPF_LINK_INFO,
  BPF_LINK_UPDATE,
  BPF_LINK_UPDATE_ATTR,
  BPF_PROG_QUERY,
  BPF_QUERY_ATTR,
  BPF_TCX_EGRESS,
  BPF_TCX_INGRESS,
  ENOENT,
} from '../../../net/linux/abi.ts';
import { type Endpoint, IpAddress } from '../../../net/address.ts';
import { Arena } from '../../../net/linux/arena.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { type Bpf, failure } from './loader.ts';

export const HOOKS = ['ingress', 'egress'] as const;
export type Hook = (typeof HOOKS)[number];

const ATTACH_TYPE: Readonly<Record<Hook, number>> = { ingress: BPF_TCX_INGRESS, egress: BPF_TCX_EGRESS };

/** Programs that a hook takes (linux/bpf_mprog.h). */
const MOST_LINKS = 64;

/** Clients on this machine arrive here, whichever address they contact. */
export const LOOPBACK_INTERFACE = 'lo';

/**
 * The interfaces on which a listener's clients arrive: those that are named; else the one that has the address, and all
 * for a listener on every address. Loopback is always among the latter.
 *
 * @throws RelayError TICKRELAY_ERR_BIND when no interface has the address
 */
export function interfacesOf(listen: Endpoint, named: readonly string[]): readonly string[] {
  if (named.length > 0) return named;
  const all = Object.entries(networkInterfaces());
  if (listen.ip.range === 'unspecified')
    return [...new Set([...all.map(([name]) => name), LOOPBACK_INTERFACE])];
  const owner = all.find(([, addresses]) =>
    addresses?.some(({ address }) => IpAddress.parse(address).equals(listen.ip)),
  );
  // The whole of 127.0.0.0/8 is on loopback, listed or not.
  if (owner === undefined && listen.ip.range !== 'loopback') {
    throw new RelayError(
      'TICKRELAY_ERR_BIND',
      `can't find the interface of ${listen.toString()}: none that is up has the address; name it under interfaces`,
    );
  }
  return [...new Set([...(owner === undefined ? [] : [owner[0]]), LOOPBACK_INTERFACE])];
}

/** Whether some interface that is up has the address; all have an unspecified one. */
export function hasInterface({ ip }: Endpoint): boolean {
  return (
    ['unspecified', 'loopback'].includes(ip.range) ||
    Object.values(networkInterfaces()).some((addresses) =>
      addresses?.some(({ address }) => IpAddress.parse(address).equals(ip)),
    )
  );
}

/** @returns the interface's number. @throws RelayError TICKRELAY_ERR_BIND when there is none of this name */
export function interfaceIndex(libc: Libc, name: string): number {
  const index = libc.if_nametoindex(name);
  if (index !== 0) return index;
  throw new RelayError('TICKRELAY_ERR_BIND', `there is no interface "${name}"; \`ip link\` lists them`);
}

/**
 * @param target isFirst: before whatever is attached there, instead of behind it
 * @returns the new link's descriptor
 * @throws RelayError TICKRELAY_ERR_ENGINE
 */
export function attach(
  bpf: Bpf,
  program: number,
  target: { readonly interface: string; readonly hook: Hook; readonly isFirst?: boolean },
): number {
  const index = interfaceIndex(bpf.libc, target.interface);
  const fd = bpf.run(BPF_LINK_CREATE, (attributes) => {
    attributes.u32(BPF_LINK_ATTR.program, program);
    attributes.u32(BPF_LINK_ATTR.interface, index);
    attributes.u32(BPF_LINK_ATTR.attachType, ATTACH_TYPE[target.hook]);
    attributes.u32(BPF_LINK_ATTR.flags, target.isFirst === true ? BPF_F_BEFORE : 0);
  });
  if (fd < 0) throw failure(`attach to ${target.hook} of ${target.interface}`, fd);
  return fd;
}

/** Puts another program in the place of the link's, in one step. @throws RelayError TICKRELAY_ERR_ENGINE */
export function replaceProgram(bpf: Bpf, link: number, program: number): void {
  const result = bpf.run(BPF_LINK_UPDATE, (attributes) => {
    attributes.u32(BPF_LINK_UPDATE_ATTR.link, link);
    attributes.u32(BPF_LINK_UPDATE_ATTR.program, program);
  });
  if (result < 0) throw failure('replace the program of a link', result);
}

/** Takes the program off its interface, whoever else holds the link. Detaching again does no harm. */
export function detach(bpf: Bpf, link: number): void {
  bpf.run(BPF_LINK_DETACH, (attributes) => attributes.u32(0, link));
}

/** The interface that a link is attached to: its number, or 0 when the link is detached or its interface gone. */
export function attachedTo(bpf: Bpf, link: number): number {
  return bpf.info(link).getUint32(BPF_LINK_INFO.interface, true);
}

/**
 * Whether the link is at this hook of the interface of this name, in this network namespace: a link says only its interface's
 * number, which in another namespace is another interface's.
 *
 * @throws RelayError TICKRELAY_ERR_ENGINE
 */
export function isAttachedTo(
  bpf: Bpf,
  link: number,
  target: { readonly interface: string; readonly hook: Hook },
): boolean {
  const index = bpf.libc.if_nametoindex(target.interface);
  const info = bpf.info(link);
  if (index === 0 || info.getUint32(BPF_LINK_INFO.interface, true) !== index) return false;
  return linksAt(bpf, index, ATTACH_TYPE[target.hook]).includes(info.getUint32(BPF_LINK_INFO.id, true));
}

/** The ids of what is attached there; 0 for a program without a link. */
function linksAt(bpf: Bpf, index: number, attachType: number): readonly number[] {
  const memory = new Arena(bpf.libc, 4_096);
  try {
    const programs = memory.take(MOST_LINKS * 4);
    const links = memory.take(MOST_LINKS * 4);
    const result = bpf.run(BPF_PROG_QUERY, (attributes) => {
      attributes.u32(BPF_QUERY_ATTR.interface, index);
      attributes.u32(BPF_QUERY_ATTR.attachType, attachType);
      attributes.pointer(BPF_QUERY_ATTR.programIds, memory.address + programs);
      attributes.u32(BPF_QUERY_ATTR.count, MOST_LINKS);
      attributes.pointer(BPF_QUERY_ATTR.linkIds, memory.address + links);
    });
    // Where nothing was ever attached there is no list.
    if (result === -ENOENT) return [];
    if (result < 0) throw failure(`ask what is attached to interface ${index}`, result);
    return [...memory.u32.subarray(links >> 2, (links >> 2) + bpf.answer(BPF_QUERY_ATTR.count))];
  } finally {
    memory.free();
  }
}
