/** UDP packets by hand, from the Ethernet header on, and checksums computed from nothing. */
import { Endpoint, type IpAddress } from '../../net/address.ts';

export const ETHERNET_BYTES = 14;
const UDP_BYTES = 8;
const UDP_PROTOCOL = 17;

export interface PacketOptions {
  readonly source: string;
  readonly destination: string;
  readonly payload?: Uint8Array;
  /** IPv4: options, a multiple of 4 bytes. */
  readonly ipOptions?: Uint8Array;
  /** IPv4: flags and fragment offset as they stand in the header. */
  readonly fragment?: number;
  /** IPv6: extension headers in front of UDP, each with its type; their "next header" bytes are filled in. */
  readonly extensions?: readonly { readonly type: number; readonly bytes: Uint8Array }[];
  /** What stands in the UDP checksum. Default: the right one. */
  readonly checksum?: number;
  /** What stands in the UDP length, if not the right one. */
  readonly udpLength?: number;
  /** What stands in the IP header's length field, if not the right one. */
  readonly ipLength?: number;
  readonly protocol?: number;
  /** Bytes after the IP packet, as Ethernet pads short frames. */
  readonly padding?: number;
  /** First byte of the destination's link address. */
  readonly link?: number;
}

export function packet(options: PacketOptions): Uint8Array {
  const source = Endpoint.parse(options.source);
  const destination = Endpoint.parse(options.destination);
  const { payload = new Uint8Array(0), protocol = UDP_PROTOCOL } = options;
  const udp = Buffer.alloc(UDP_BYTES + payload.length);
  udp.writeUInt16BE(source.port, 0);
  udp.writeUInt16BE(destination.port, 2);
  udp.writeUInt16BE(options.udpLength ?? udp.length, 4);
  udp.set(payload, UDP_BYTES);
  udp.writeUInt16BE(options.checksum ?? udpChecksum(source.ip, destination.ip, udp), 6);
  return frame(options, udp, protocol);
}

/** Ethernet and IP headers around UDP, TCP or whatever the protocol's number says. */
export function frame(options: PacketOptions, inner: Uint8Array, protocol: number): Uint8Array {
  const source = Endpoint.parse(options.source);
  const destination = Endpoint.parse(options.destination);
  const { padding = 0, link = 0 } = options;
  const ethernet = Buffer.alloc(ETHERNET_BYTES);
  ethernet[0] = link;
  ethernet.writeUInt16BE(source.ip.isV4 ? 0x0800 : 0x86dd, 12);
  const header = source.ip.isV4
    ? ipv4Header(source.ip, destination.ip, { options, udp: inner, protocol })
    : ipv6Header(source.ip, destination.ip, { options, udp: inner, protocol });
  return Buffer.concat([ethernet, header, inner, Buffer.alloc(padding)]);
}

interface Inner {
  readonly options: PacketOptions;
  readonly udp: Uint8Array;
  readonly protocol: number;
}

function ipv4Header(
  source: IpAddress,
  destination: IpAddress,
  { options, udp, protocol }: Inner,
): Uint8Array {
  const { ipOptions = new Uint8Array(0), fragment = 0 } = options;
  const header = Buffer.alloc(20 + ipOptions.length);
  header[0] = 0x40 | (header.length / 4);
  header.writeUInt16BE(options.ipLength ?? header.length + udp.length, 2);
  header.writeUInt16BE(0x1234, 4);
  header.writeUInt16BE(fragment, 6);
  header[8] = 64;
  header[9] = protocol;
  header.set(source.bytes.subarray(12), 12);
  header.set(destination.bytes.subarray(12), 16);
  header.set(ipOptions, 20);
  header.writeUInt16BE(~sum16(header) & 0xffff, 10);
  return header;
}

function ipv6Header(
  source: IpAddress,
  destination: IpAddress,
  { options, udp, protocol }: Inner,
): Uint8Array {
  const { extensions = [] } = options;
  const types = [...extensions.map(({ type }) => type), protocol];
  const chain = extensions.map(({ bytes }, i) => {
    const filled = Uint8Array.from(bytes);
    filled[0] = types[i + 1]!;
    return filled;
  });
  const length = chain.reduce((total, { length }) => total + length, 0);
  const header = Buffer.alloc(40);
  header[0] = 0x60;
  header.writeUInt16BE(options.ipLength ?? length + udp.length, 4);
  header[6] = types[0]!;
  header[7] = 64;
  header.set(source.bytes, 8);
  header.set(destination.bytes, 24);
  return Buffer.concat([header, ...chain]);
}

/** Ones' complement sum of big-endian 16-bit words, a last odd byte padded with 0. */
export function sum16(...parts: readonly Uint8Array[]): number {
  let sum = 0;
  for (const bytes of parts) {
    for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

/** Of UDP and TCP: over the pseudo-header and what follows, whose own checksum field, at byte `at`, is taken as 0. */
export function transportChecksum(
  [source, destination]: readonly [IpAddress, IpAddress],
  inner: Uint8Array,
  { protocol, at }: { readonly protocol: number; readonly at: number },
): number {
  const bytes = Buffer.from(inner);
  bytes.writeUInt16BE(0, at);
  const pseudo = Buffer.from([0, protocol, inner.length >> 8, inner.length & 255]);
  const from = source.isV4 ? 12 : 0;
  return ~sum16(source.bytes.subarray(from), destination.bytes.subarray(from), pseudo, bytes) & 0xffff;
}

/** RFC 768: a sum of 0 is sent as 0xffff. */
function udpChecksum(source: IpAddress, destination: IpAddress, udp: Uint8Array): number {
  return transportChecksum([source, destination], udp, { protocol: UDP_PROTOCOL, at: 6 }) || 0xffff;
}

/** An IPv6 extension header of `words` times 8 bytes; its first byte is filled in by `packet`. */
export function extension(type: number, words = 1): { type: number; bytes: Uint8Array } {
  const bytes = new Uint8Array(8 * words);
  bytes[1] = words - 1;
  return { type, bytes };
}

/** An IPv6 fragment header. */
export function fragment(offsetAndMore: number): { type: number; bytes: Uint8Array } {
  const bytes = Uint8Array.from([0, 0, offsetAndMore >> 8, offsetAndMore & 255, 0, 0, 0, 7]);
  return { type: 44, bytes };
}

/**
 * Tries a frame cut off at every length, and judges each that the kernel takes: here it takes none without a whole IP header.
 *
 * @param attempt throws where the kernel takes nothing; returns what judges the outcome
 * @returns how many it took
 */
export function eachCut(whole: Uint8Array, attempt: (cut: Uint8Array) => () => void): number {
  let taken = 0;
  for (let length = ETHERNET_BYTES + 1; length < whole.length; length++) {
    let judge;
    try {
      judge = attempt(whole.subarray(0, length));
    } catch {
      continue;
    }
    taken++;
    judge();
  }
  return taken;
}

interface ParsedIp {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  /** Whether the IPv4 header's checksum is right; true for IPv6. */
  readonly isHeaderRight: boolean;
  /** From the transport's header to the end that the IP header gives. */
  readonly inner: Buffer;
}

/** Reads the IP headers of a frame whose transport is `protocol`. */
export function parseIp(bytes: Uint8Array, protocol: number): ParsedIp {
  const ip = Buffer.from(bytes).subarray(ETHERNET_BYTES);
  const isV4 = ip[0]! >> 4 === 4;
  let start = isV4 ? (ip[0]! & 15) * 4 : 40;
  for (let type = isV4 ? protocol : ip[6]!; type !== protocol;) {
    const length = type === 44 ? 8 : (ip[start + 1]! + 1) * 8;
    type = ip[start]!;
    start += length;
  }
  const address = (at: number): IpAddress => {
    const text = isV4
      ? [...ip.subarray(at, at + 4)].join('.')
      : `[${ip
          .subarray(at, at + 16)
          .toString('hex')
          .match(/.{4}/g)!
          .join(':')}]`;
    return Endpoint.parse(`${text}:1`).ip;
  };
  const [source, destination] = isV4 ? [address(12), address(16)] : [address(8), address(24)];
  return {
    source,
    destination,
    isHeaderRight: !isV4 || sum16(ip.subarray(0, (ip[0]! & 15) * 4)) === 0xffff,
    inner: ip.subarray(start, isV4 ? ip.readUInt16BE(2) : 40 + ip.readUInt16BE(4)),
  };
}

export interface Parsed {
  readonly source: string;
  readonly destination: string;
  readonly payload: Uint8Array;
  readonly checksum: number;
  /** What the UDP checksum should be. */
  readonly rightChecksum: number;
  /** Whether the IPv4 header's checksum is right; true for IPv6. */
  readonly isHeaderRight: boolean;
}

/** Reads a packet that `packet` made, or that a program rewrote. */
export function parsePacket(bytes: Uint8Array): Parsed {
  const { source, destination, isHeaderRight, inner } = parseIp(bytes, UDP_PROTOCOL);
  const udp = inner.subarray(0, inner.readUInt16BE(4));
  return {
    source: new Endpoint(source, udp.readUInt16BE(0)).toString(),
    destination: new Endpoint(destination, udp.readUInt16BE(2)).toString(),
    payload: udp.subarray(UDP_BYTES),
    checksum: udp.readUInt16BE(6),
    rightChecksum: udpChecksum(source, destination, udp),
    isHeaderRight,
  };
}
