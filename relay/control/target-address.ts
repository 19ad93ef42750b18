/**
 * Which addresses can be a backend. A relay that sends anywhere it is told to would be a tool for scanning the network
 * behind it, and one that sends to itself would loop until it drops.
 */
import ipaddr from 'ipaddr.js';
import { networkInterfaces } from 'node:os';
import { IpAddress, type Endpoint } from '../../net/address.ts';

const UNUSABLE: Readonly<Record<string, string>> = {
  unspecified: 'is the unspecified address; a backend needs an address of its own',
  multicast: 'is a multicast address; a backend is one host',
  broadcast: 'is the broadcast address; a backend is one host',
};

/** Why nothing can be sent to this one host and port wherever the relay runs, or undefined. */
export function unusableTarget(target: Endpoint): string | undefined {
  if (target.port === 0) return 'has port 0; a backend needs a port from 1 to 65535';
  return UNUSABLE[target.ip.range];
}

/** Why this target is no single host on this machine's networks, or undefined. */
export function unusableHere(target: Endpoint, { subnets }: LocalNetwork): string | undefined {
  const subnet = subnets.find(({ broadcast }) => broadcast.equals(target.ip));
  if (subnet !== undefined) return `is the broadcast address of ${subnet.cidr}; a backend is one host`;
  return undefined;
}

/** Why this target may not register itself, or undefined: the rules above, and link-local addresses. */
export function unregistrableTarget(target: Endpoint, local: LocalNetwork): string | undefined {
  if (target.ip.range === 'linkLocal')
    return 'is a link-local address, which means another host on each network';
  return unusableTarget(target) ?? unusableHere(target, local);
}

/** What this machine's interfaces say. */
export interface LocalNetwork {
  readonly addresses: readonly IpAddress[];
  /** The IPv4 networks that have a broadcast address: all but those of one or two addresses (RFC 3021). */
  readonly subnets: readonly { readonly cidr: string; readonly broadcast: IpAddress }[];
}

/** At most a second old: every heartbeat asks for it. */
export function localNetwork(): LocalNetwork {
  const nowMs = performance.now();
  if (nowMs - known.atMs > MAX_AGE_MS) known = { atMs: nowMs, network: readInterfaces() };
  return known.network;
}

const MAX_AGE_MS = 1_000;
let known: { readonly atMs: number; readonly network: LocalNetwork } = {
  atMs: Number.NEGATIVE_INFINITY,
  network: { addresses: [], subnets: [] },
};

function readInterfaces(): LocalNetwork {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  const withBroadcast = all.filter(({ family, cidr }) => {
    return family === 'IPv4' && cidr !== null && Number(cidr.split('/')[1]) <= 30;
  });
  return {
    addresses: all.map(({ address }) => IpAddress.parse(address)),
    subnets: withBroadcast.map(({ cidr }) => ({
      cidr: `${ipaddr.IPv4.networkAddressFromCIDR(cidr!).toString()}/${cidr!.split('/')[1]!}`,
      broadcast: IpAddress.parse(ipaddr.IPv4.broadcastAddressFromCIDR(cidr!).toString()),
    })),
  };
}

/** Whether two bound addresses collide, or `target` would arrive at `own`: the same, or covered by its wildcard. */
export function covers(own: Endpoint, target: Endpoint, { addresses }: LocalNetwork): boolean {
  if (own.port !== target.port) return false;
  if (own.ip.equals(target.ip)) return true;
  if (own.ip.range !== 'unspecified' || (own.ip.isV4 && !target.ip.isV4)) return false;
  return target.ip.range === 'loopback' || addresses.some((ip) => ip.equals(target.ip));
}
