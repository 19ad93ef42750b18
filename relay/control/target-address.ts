/**
 * Which addresses can be a backend. A relay that sends anywhere it is told to would be a tool for scanning the network
 * behind it, and one that sends to itself would loop until it drops.
 */
import { networkInterfaces } from 'node:os';
import { IpAddress, type Endpoint } from '../../net/address.ts';

const UNUSABLE: Readonly<Record<string, string>> = {
  unspecified: 'is the unspecified address; a backend needs an address of its own',
  multicast: 'is a multicast address; a backend is one host',
  broadcast: 'is the broadcast address; a backend is one host',
};

/** Why nothing can be sent to this one host and port, or undefined. */
export function unusableTarget(target: Endpoint): string | undefined {
  if (target.port === 0) return 'has port 0; a backend needs a port from 1 to 65535';
  return UNUSABLE[target.ip.range];
}

/** Why this target may not register itself, or undefined: `unusableTarget`, and link-local addresses. */
export function unregistrableTarget(target: Endpoint): string | undefined {
  if (target.ip.range === 'linkLocal')
    return 'is a link-local address, which means another host on each network';
  return unusableTarget(target);
}

/** The addresses of this machine's interfaces, at most a second old: every heartbeat asks for them. */
export function interfaceAddresses(): readonly IpAddress[] {
  const nowMs = performance.now();
  if (nowMs - known.atMs > MAX_AGE_MS) {
    const lists = Object.values(networkInterfaces());
    known = {
      atMs: nowMs,
      addresses: lists.flatMap((list) => (list ?? []).map(({ address }) => IpAddress.parse(address))),
    };
  }
  return known.addresses;
}

const MAX_AGE_MS = 1_000;
let known: { readonly atMs: number; readonly addresses: readonly IpAddress[] } = {
  atMs: Number.NEGATIVE_INFINITY,
  addresses: [],
};

/** Whether two bound addresses collide, or `target` would arrive at `own`: the same, or covered by its wildcard. */
export function covers(own: Endpoint, target: Endpoint, local: readonly IpAddress[]): boolean {
  if (own.port !== target.port) return false;
  if (own.ip.equals(target.ip)) return true;
  if (own.ip.range !== 'unspecified' || (own.ip.isV4 && !target.ip.isV4)) return false;
  return target.ip.range === 'loopback' || local.some((ip) => ip.equals(target.ip));
}
