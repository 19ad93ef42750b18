/** TCP segments by hand, from the Ethernet header on, and their checksums computed from nothing. */
import { Endpoint, type IpAddress } from '../../net/address.ts';
import { ETHERNET_BYTES, frame, type PacketOptions, sum16 } from './packet.ts';

const TCP_BYTES = 20;
const TCP_PROTOCOL = 6;

export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const ACK = 16;

export interface SegmentOptions extends Omit<PacketOptions, 'udpLength' | 'protocol'> {
  readonly flags: number;
  readonly sequence?: number;
  readonly acknowledged?: number;
  /** Of the header, a multiple of 4 bytes. */
  readonly tcpOptions?: Uint8Array;
  /** What stands in the header's offset, in words, if not the right one. */
  readonly offset?: number;
}

export function segment(options: SegmentOptions): Uint8Array {
  const source = Endpoint.parse(options.source);
  const destination = Endpoint.parse(options.destination);
  const { payload = new Uint8Array(0), tcpOptions = new Uint8Array(0), flags } = options;
  const header = Buffer.alloc(TCP_BYTES + tcpOptions.length);
  header.writeUInt16BE(source.port, 0);
  header.writeUInt16BE(destination.port, 2);
  header.writeUInt32BE((options.sequence ?? 0) >>> 0, 4);
  header.writeUInt32BE((options.acknowledged ?? 0) >>> 0, 8);
  header[12] = (options.offset ?? header.length / 4) << 4;
  header[13] = flags;
  header.writeUInt16BE(0x2000, 14);
  header.set(tcpOptions, TCP_BYTES);
  const inner = Buffer.concat([header, payload]);
  inner.writeUInt16BE(options.checksum ?? tcpChecksum(source.ip, destination.ip, inner), 16);
  return frame(options, inner, TCP_PROTOCOL);
}

/** RFC 9293 section 3.1: over the pseudo-header and the segment, with its checksum field taken as 0. */
function tcpChecksum(source: IpAddress, destination: IpAddress, inner: Uint8Array): number {
  const bytes = Buffer.from(inner);
  bytes.writeUInt16BE(0, 16);
  const from = source.isV4 ? 12 : 0;
  const pseudo = Buffer.from([0, TCP_PROTOCOL, inner.length >> 8, inner.length & 255]);
  return ~sum16(source.bytes.subarray(from), destination.bytes.subarray(from), pseudo, bytes) & 0xffff;
}

export interface ParsedSegment {
  readonly source: string;
  readonly destination: string;
  readonly sequence: number;
  readonly acknowledged: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  /** Whether every checksum and length is right, computed anew. */
  readonly isRight: boolean;
}

/** Reads a packet that `segment` made, or that a program rewrote or made. */
export function parseSegment(bytes: Uint8Array): ParsedSegment {
  const ip = Buffer.from(bytes).subarray(ETHERNET_BYTES);
  const isV4 = ip[0]! >> 4 === 4;
  let start = isV4 ? (ip[0]! & 15) * 4 : 40;
  for (let type = isV4 ? TCP_PROTOCOL : ip[6]!; type !== TCP_PROTOCOL;) {
    const length = type === 44 ? 8 : (ip[start + 1]! + 1) * 8;
    type = ip[start]!;
    start += length;
  }
  const end = isV4 ? ip.readUInt16BE(2) : 40 + ip.readUInt16BE(4);
  const tcp = ip.subarray(start, end);
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
  const isHeaderRight = !isV4 || sum16(ip.subarray(0, (ip[0]! & 15) * 4)) === 0xffff;
  return {
    source: new Endpoint(source, tcp.readUInt16BE(0)).toString(),
    destination: new Endpoint(destination, tcp.readUInt16BE(2)).toString(),
    sequence: tcp.readUInt32BE(4),
    acknowledged: tcp.readUInt32BE(8),
    flags: tcp[13]!,
    payload: tcp.subarray((tcp[12]! >> 4) * 4),
    isRight: isHeaderRight && tcp.readUInt16BE(16) === tcpChecksum(source, destination, tcp),
  };
}
