/**
 * Backends that players of other machines could not reach although everything is attached: Linux routes nothing that arrives from
 * outside to loopback, and takes what arrives from outside with one of its own addresses as its source for a forgery.
 */
import { networkInterfaces } from 'node:os';
import { type Endpoint, IpAddress } from '../../../net/address.ts';

/** @returns one sentence with the remedy, or undefined when nothing speaks against it */
export function whyUnreachable(
  listen: Endpoint,
  backend: Endpoint,
  sourceAddress: 'client' | 'relay',
): string | undefined {
  if (listen.ip.range === 'loopback') return undefined;
  const whom = `players of other machines who contact ${listen.toString()} can't reach the backend ${backend.toString()}`;
  if (backend.ip.range === 'loopback') {
    return (
      `${whom}, since Linux routes nothing from outside to loopback; let it listen on an address of an interface, ` +
      'with kernel.sourceAddress client, or take another engine'
    );
  }
  if (sourceAddress === 'relay' && isOwn(backend.ip)) {
    return `${whom}, since it is on this host, which refuses its own address from outside; set kernel.sourceAddress to client`;
  }
  return undefined;
}

function isOwn(ip: IpAddress): boolean {
  return Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address }) => IpAddress.parse(address).equals(ip)),
  );
}
