/** With sourceAddress `relay`: which of its own addresses the relay uses towards backends. */
import type { Endpoint, IpAddress } from '../../../net/address.ts';
import { AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM } from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { readLocal, writeAddress } from '../../../net/linux/mmsg-socket.ts';

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
function addressTowards(libc: Libc, target: Endpoint): IpAddress | undefined {
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
