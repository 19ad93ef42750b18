/** What an operator should know of an engine that can't see which of its addresses a client contacted. */
import type { IpAddress } from '../net/address.ts';
import type { ListenerConfig } from './control/config.ts';

/**
 * Names the UDP listeners on a wildcard address of a machine that has several addresses of one family besides loopback and
 * link-local ones: their answers may leave from another address than the client contacted, and be lost on the way.
 *
 * @param local the addresses of this machine's interfaces
 */
export function answerWarnings(listeners: readonly ListenerConfig[], local: readonly IpAddress[]): string[] {
  const routable = local.filter(({ range }) => range !== 'loopback' && range !== 'linkLocal');
  const v4 = routable.filter(({ isV4 }) => isV4);
  const v6 = routable.filter(({ isV4 }) => !isV4);
  return listeners.flatMap(({ name, protocol, listen }) => {
    if (protocol !== 'udp' || listen.ip.range !== 'unspecified') return [];
    const several = [v4, ...(listen.ip.isV4 ? [] : [v6])].filter((family) => family.length > 1).flat();
    if (several.length === 0) return [];
    return [
      `listener "${name}" on ${listen.toString()} answers from the address that the route picks, which need not be the ` +
        `one that the player contacted; take engine mmsg, or one listener for each of ${several.join(', ')}`,
    ];
  });
}
