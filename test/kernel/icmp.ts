/** ICMP errors by hand, from the Ethernet header on, and their checksums computed from nothing. */
import { Endpoint, type IpAddress } from '../../net/address.ts';
import { frame, type PacketOptions, sum16, transportChecksum } from './packet.ts';

const ICMP = 1;
const ICMPV6 = 58;
const HEADER_BYTES = 8;

export interface ErrorOptions extends Omit<PacketOptions, 'source' | 'destination' | 'payload' | 'checksum'> {
  /** Addresses, an IPv6 one in brackets. */
  readonly from: string;
  readonly to: string;
  readonly type: number;
  readonly code?: number;
  /** The last two bytes of its header: the next hop's MTU in IPv4. */
  readonly mtu?: number;
  /** From the IP header of the packet that it is about. */
  readonly quoted: Uint8Array;
}

export function icmpError(options: ErrorOptions): Uint8Array {
  const { from, to, type, code = 0, mtu = 0, quoted } = options;
  const [source, destination] = [`${from}:0`, `${to}:0`];
  const inner = Buffer.alloc(HEADER_BYTES + quoted.length);
  inner[0] = type;
  inner[1] = code;
  inner.writeUInt16BE(mtu, 6);
  inner.set(quoted, HEADER_BYTES);
  const ends: [IpAddress, IpAddress] = [Endpoint.parse(source).ip, Endpoint.parse(destination).ip];
  const isV4 = ends[0].isV4;
  const checksum = isV4
    ? ~sum16(inner) & 0xffff
    : transportChecksum(ends, inner, { protocol: ICMPV6, at: 2 });
  inner.writeUInt16BE(checksum, 2);
  return frame({ ...options, source, destination }, inner, isV4 ? ICMP : ICMPV6);
}
