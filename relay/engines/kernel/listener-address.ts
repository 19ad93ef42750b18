/** How the programs find a listener, UDP or TCP, by the address that a packet contacts: first by its port alone, then by both. */
import { Endpoint } from '../../../net/address.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { MAX_LISTENERS } from '../../core/limits.ts';
import type { MappedArray } from './mapped-array.ts';
import { LISTENER_KEY, PORT, PORT_ANY, PORT_ANY_V4, PORT_LISTENER } from './records.ts';

export const LISTENER_INDEXES: readonly number[] = Array.from({ length: MAX_LISTENERS }, (_, index) => index);

/** What makes a listener the same one for a restarted relay: then its sessions go on. */
export function identityOf({ name, pool }: { name: string; pool: string }, local: Endpoint): string {
  return `${local.toString()} ${pool} ${name}`;
}

/**
 * An index for a new listener.
 *
 * @throws RelayError TICKRELAY_ERR_LIMIT when listeners of a relay before this one still have all the others
 */
export function freeIndex(names: { isFree(index: number): boolean }, { name }: { name: string }): number {
  const index = LISTENER_INDEXES.find((i) => names.isFree(i));
  if (index !== undefined) return index;
  throw new RelayError(
    'TICKRELAY_ERR_LIMIT',
    `listener "${name}" has no place beside those of the relay before this one, which go when this one has started: ` +
      `both may have ${MAX_LISTENERS} in all; start with fewer, and add the rest by a reload after some seconds`,
  );
}

/** The address of the listener with this identity. */
export function localOf(identity: string): Endpoint {
  return Endpoint.parse(identity.split(' ')[0]!);
}

/** Key of `listeners` and `tcp_listeners`. */
export function listenerKeyOf({ ip, port }: Endpoint): Uint8Array {
  const key = new Uint8Array(LISTENER_KEY.size);
  key.set(ip.bytes, LISTENER_KEY.at.address);
  new DataView(key.buffer).setUint32(LISTENER_KEY.at.port, port, true);
  return key;
}

/** Writes which listeners have this port, for the programs' first look at a packet. */
export function announce(ports: MappedArray, names: { listener(index: number): string }, port: number): void {
  const at = ports.at(port, PORT.at.flags);
  let flags = ports.u16[at >> 1]! & ~(PORT_LISTENER | PORT_ANY | PORT_ANY_V4);
  for (const index of LISTENER_INDEXES) {
    const identity = names.listener(index);
    if (identity === '') continue;
    const local = localOf(identity);
    if (local.port === port) flags |= portFlag(local);
  }
  ports.setU16(at, flags);
}

function portFlag({ ip }: Endpoint): number {
  if (ip.range !== 'unspecified') return PORT_LISTENER;
  return ip.isV4 ? PORT_ANY_V4 : PORT_ANY;
}
