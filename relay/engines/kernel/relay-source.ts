/**
 * With sourceAddress `relay`: which of its own addresses and ports the relay uses towards backends.
 *
 * The ports are divided by the listener's index, so that a listener that is adopted has the same ones as before.
 */
import type { Endpoint, IpAddress } from '../../../net/address.ts';
import { AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM } from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { readLocal, writeAddress } from '../../../net/linux/mmsg-socket.ts';
import { RelayError } from '../../../net/relay-error.ts';

/** Ports from `first` to `last`, both included. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** Listeners that the ports are divided among, those of UDP and those of TCP each. */
export const SHARES = 4;

/**
 * The ports of the listener with this index.
 *
 * @param most what it may use, however many there are
 * @throws RelayError TICKRELAY_ERR_LIMIT when there are more listeners than shares, or fewer ports
 */
export function portsOf(index: number, { first, last }: PortRange, most: number): PortRange {
  const share = Math.floor((last - first + 1) / SHARES);
  if (index >= SHARES || share === 0) {
    throw new RelayError(
      'TICKRELAY_ERR_LIMIT',
      `kernel.relayPorts: ${first}-${last} has no ports for another listener; they are divided among ${SHARES}`,
    );
  }
  const own = first + index * share;
  return { first: own, last: own + Math.min(share, most) - 1 };
}

/** This host's addresses towards the first backend of each family. */
export function relayAddresses(
  libc: Libc,
  backends: readonly Endpoint[],
): Readonly<Record<'relayV4' | 'relayV6', IpAddress | undefined>> {
  const towards = (isV4: boolean): IpAddress | undefined => {
    const first = backends.find(({ ip }) => ip.isV4 === isV4);
    return first && addressTowards(libc, first);
  };
  return { relayV4: towards(true), relayV6: towards(false) };
}

/** The address from which this host would send to `target`, or undefined when it has no route. */
export function addressTowards(libc: Libc, target: Endpoint): IpAddress | undefined {
  const memory = new Arena(libc, 4_096);
  const socket = libc.socket(target.ip.isV4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    // Connecting a UDP socket sends nothing; it only asks the routes.
    const length = writeAddress(memory, target);
    return libc.connect(socket, memory.address, length) === 0 ? readLocal(libc, socket).ip : undefined;
  } finally {
    libc.close(socket);
    memory.free();
  }
}
