/**
 * Players come from different addresses, since the relay pins a player by its address. On loopback every 127.x.y.z can
 * be bound without setting anything up (on Linux), so each player gets its own.
 */
import { IpAddress, type Endpoint } from '../net/address.ts';
import { RelayError } from '../net/relay-error.ts';

const FIRST_LOOPBACK_ADDRESS = IpAddress.parse('127.1.0.1');
const ANY_V4 = IpAddress.parse('0.0.0.0');
const ANY_V6 = IpAddress.parse('::');

/**
 * @param first the first player's address; by default 127.1.0.1 for a target on IPv4 loopback, and for any other target
 *   the address that the system chooses, for all players
 * @returns one address for each player, counting up from `first` and leaving out those that end in .0 or .255
 * @throws RelayError TICKRELAY_ERR_CONFIG when `first` is not IPv4, or there are not that many addresses after it
 */
export function playerAddresses(players: number, target: Endpoint, first?: IpAddress): IpAddress[] {
  const isLoopbackV4 = target.ip.isV4 && target.ip.range === 'loopback';
  if (first === undefined && !isLoopbackV4) {
    return new Array<IpAddress>(players).fill(target.ip.isV4 ? ANY_V4 : ANY_V6);
  }
  return countUp(first ?? FIRST_LOOPBACK_ADDRESS, players);
}

function countUp(first: IpAddress, count: number): IpAddress[] {
  if (!first.isV4) {
    throw new RelayError(
      'TICKRELAY_ERR_CONFIG',
      `"${first.toString()}" is not an IPv4 address to count up from`,
    );
  }
  const bytes = Uint8Array.from(first.bytes);
  const view = new DataView(bytes.buffer);
  const addresses: IpAddress[] = [];
  for (let value = view.getUint32(12); addresses.length < count; value++) {
    if (value >= 2 ** 32) {
      throw new RelayError(
        'TICKRELAY_ERR_CONFIG',
        `there are no ${count} addresses from ${first.toString()} up; start lower`,
      );
    }
    const last = value & 255;
    if (last === 0 || last === 255) continue;
    view.setUint32(12, value);
    addresses.push(new IpAddress(bytes));
  }
  return addresses;
}
