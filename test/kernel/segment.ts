/** TCP segments by hand, from the Ethernet header on, and their checksums computed from nothing. */
import { Endpoint } from '../../net/address.ts';
import { frame, type PacketOptions, parseIp, transportChecksum } from './packet.ts';

const TCP_BYTES = 20;
const TCP_PROTOCOL = 6;
/** RFC 9293 section 3.1. */
const CHECKSUM = { protocol: TCP_PROTOCOL, at: 16 } as const;

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
  const right = transportChecksum([source.ip, destination.ip], inner, CHECKSUM);
  inner.writeUInt16BE(options.checksum ?? right, CHECKSUM.at);
  return frame(options, inner, TCP_PROTOCOL);
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
  const { source, destination, isHeaderRight, inner: tcp } = parseIp(bytes, TCP_PROTOCOL);
  return {
    source: new Endpoint(source, tcp.readUInt16BE(0)).toString(),
    destination: new Endpoint(destination, tcp.readUInt16BE(2)).toString(),
    sequence: tcp.readUInt32BE(4),
    acknowledged: tcp.readUInt32BE(8),
    flags: tcp[13]!,
    payload: tcp.subarray((tcp[12]! >> 4) * 4),
    isRight:
      isHeaderRight && tcp.readUInt16BE(16) === transportChecksum([source, destination], tcp, CHECKSUM),
  };
}
