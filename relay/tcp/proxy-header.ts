/**
 * The PROXY protocol, versions 1 and 2: how one proxy tells the next who its client is. Source: "The PROXY protocol",
 * doc/proxy-protocol.txt of HAProxy, sections 2.1 and 2.2.
 *
 * Version 1 is one line of at most 107 bytes, ended by CR LF:
 *
 *     PROXY TCP4 192.0.2.1 198.51.100.7 56324 5432
 *     PROXY UNKNOWN <anything>
 *
 * Version 2, big-endian:
 *
 *     bytes 0-11   0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a
 *     byte 12      version 2 (high 4 bits), command: 0 LOCAL, 1 PROXY
 *     byte 13      family: 0 unspecified, 1 IPv4, 2 IPv6, 3 Unix (high 4 bits); 0 unspecified, 1 stream, 2 datagram
 *     bytes 14-15  length of the rest
 *     then         source and destination address, source and destination port, then type-length-values
 *
 * LOCAL, UNKNOWN and unspecified families say nothing of a client: the connection's own addresses count.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { Endpoint, IpAddress } from '../../net/address.ts';

export type ProxyVersion = 'v1' | 'v2';

export interface ProxiedAddresses {
  readonly client: Endpoint;
  /** What the client contacted. */
  readonly destination: Endpoint;
}

/** What the first bytes of a connection say. */
export type ProxyHeader =
  /** So far so good; the header has more bytes. */
  | 'incomplete'
  | 'malformed'
  | {
      /** Bytes of the header; what follows is the client's. */
      readonly length: number;
      /** Absent where the connection's own addresses count. */
      readonly addresses?: ProxiedAddresses;
    };

const SIGNATURE = Buffer.from('0d0a0d0a000d0a515549540a', 'hex');
const V1_PREFIX = Buffer.from('PROXY ');
const V1_MAX_BYTES = 107;
const V2_FIXED_BYTES = 16;

/** The longest header of version 2 that is taken: addresses, and some kilobytes of values such as a certificate's name. */
export const MAX_HEADER_BYTES = 4_096;

/** Bytes of the addresses and ports, by family. */
const ADDRESS_BYTES = { 0x1: 4, 0x2: 16 } as const;

export function readProxyHeader(bytes: Buffer): ProxyHeader {
  if (startsAlike(bytes, SIGNATURE)) return readV2(bytes);
  return startsAlike(bytes, V1_PREFIX) ? readV1(bytes) : 'malformed';
}

export function writeProxyHeader(version: ProxyVersion, addresses: ProxiedAddresses): Buffer {
  return version === 'v1' ? writeV1(addresses) : writeV2(addresses);
}

/** Whether the shorter of both begins the longer one. */
function startsAlike(bytes: Buffer, wanted: Buffer): boolean {
  const length = Math.min(bytes.length, wanted.length);
  return bytes.subarray(0, length).equals(wanted.subarray(0, length));
}

function readV1(bytes: Buffer): ProxyHeader {
  const end = bytes.subarray(0, V1_MAX_BYTES).indexOf('\r\n');
  if (end === -1) return bytes.length < V1_MAX_BYTES ? 'incomplete' : 'malformed';
  const length = end + 2;
  const [, protocol, ...rest] = bytes.toString('latin1', 0, end).split(' ');
  if (protocol === 'UNKNOWN') return { length };
  const isAddress = protocol === 'TCP4' ? isIPv4 : protocol === 'TCP6' ? isIPv6 : undefined;
  const [source = '', destination = '', sourcePort = '', destinationPort = ''] = rest;
  const isWell =
    rest.length === 4 &&
    [source, destination].every((address) => isAddress?.(address) === true && !address.includes('%')) &&
    [sourcePort, destinationPort].every(isPort);
  if (!isWell) return 'malformed';
  const endpoint = (address: string, port: string) => new Endpoint(IpAddress.parse(address), Number(port));
  return {
    length,
    addresses: {
      client: endpoint(source, sourcePort),
      destination: endpoint(destination, destinationPort),
    },
  };
}

/** Decimal, without a zero in front. */
function isPort(text: string): boolean {
  return /^(0|[1-9]\d{0,4})$/.test(text) && Number(text) <= 65_535;
}

function readV2(bytes: Buffer): ProxyHeader {
  if (bytes.length >= 13 && (bytes[12]! >> 4 !== 2 || (bytes[12]! & 0xf) > 1)) return 'malformed';
  if (bytes.length >= 14 && (bytes[13]! >> 4 > 3 || (bytes[13]! & 0xf) > 2)) return 'malformed';
  if (bytes.length < V2_FIXED_BYTES) return 'incomplete';
  const length = V2_FIXED_BYTES + bytes.readUInt16BE(14);
  const isLocal = (bytes[12]! & 0xf) === 0;
  const size = bytes[13] === 0x11 ? ADDRESS_BYTES[1] : bytes[13] === 0x21 ? ADDRESS_BYTES[2] : undefined;
  const hasAddresses = !isLocal && size !== undefined;
  if (length > MAX_HEADER_BYTES || (hasAddresses && length < V2_FIXED_BYTES + 2 * size + 4))
    return 'malformed';
  if (bytes.length < length) return 'incomplete';
  if (!hasAddresses) return { length };
  const ports = V2_FIXED_BYTES + 2 * size;
  return {
    length,
    addresses: {
      client: new Endpoint(addressAt(bytes, V2_FIXED_BYTES, size), bytes.readUInt16BE(ports)),
      destination: new Endpoint(addressAt(bytes, V2_FIXED_BYTES + size, size), bytes.readUInt16BE(ports + 2)),
    },
  };
}

function addressAt(bytes: Buffer, at: number, size: 4 | 16): IpAddress {
  const address = bytes.subarray(at, at + size);
  return new IpAddress(
    size === 16 ? address : Buffer.concat([Buffer.from('00000000000000000000ffff', 'hex'), address]),
  );
}

function isV4({ client, destination }: ProxiedAddresses): boolean {
  return client.ip.isV4 && destination.ip.isV4;
}

function writeV1(addresses: ProxiedAddresses): Buffer {
  const { client, destination } = addresses;
  const [source, target] = [client.ip, destination.ip].map((ip) =>
    isV4(addresses) || !ip.isV4 ? ip.toString() : `::ffff:${ip.toString()}`,
  );
  const protocol = isV4(addresses) ? 'TCP4' : 'TCP6';
  return Buffer.from(`PROXY ${protocol} ${source} ${target} ${client.port} ${destination.port}\r\n`);
}

function writeV2(addresses: ProxiedAddresses): Buffer {
  const { client, destination } = addresses;
  const size = isV4(addresses) ? 4 : 16;
  const header = Buffer.alloc(V2_FIXED_BYTES + 2 * size + 4);
  header.set(SIGNATURE);
  header[12] = 0x21;
  header[13] = size === 4 ? 0x11 : 0x21;
  header.writeUInt16BE(2 * size + 4, 14);
  header.set(client.ip.bytes.subarray(16 - size), V2_FIXED_BYTES);
  header.set(destination.ip.bytes.subarray(16 - size), V2_FIXED_BYTES + size);
  header.writeUInt16BE(client.port, V2_FIXED_BYTES + 2 * size);
  header.writeUInt16BE(destination.port, V2_FIXED_BYTES + 2 * size + 2);
  return header;
}
