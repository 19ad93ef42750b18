/** Headers of packets, and the numbers in them. What is wider than a byte is in network order. */
import { ADDRESS, struct, U16, U32 } from './struct.ts';

export const IPV4 = struct({
  versionAndLength: 1,
  service: 1,
  totalLength: U16,
  id: U16,
  fragment: U16,
  timeToLive: 1,
  protocol: 1,
  checksum: U16,
  source: U32,
  destination: U32,
});

export const IPV6 = struct({
  versionAndClass: 1,
  flow: 3,
  payloadLength: U16,
  nextHeader: 1,
  hopLimit: 1,
  source: ADDRESS,
  destination: ADDRESS,
});

export const UDP = struct({ source: U16, destination: U16, length: U16, checksum: U16 });

export const TCP = struct({
  source: U16,
  destination: U16,
  sequence: U32,
  acknowledged: U32,
  /** The header's length in words of 4 bytes, in the upper half. */
  offset: 1,
  flags: 1,
  window: U16,
  checksum: U16,
  urgent: U16,
});

export const EXTENSION = struct({ nextHeader: 1, length: 1, fragment: U16 });

/** Third byte of a routing header, after its type: how many stops are left. */
export const SEGMENTS_LEFT = 3;

/** Protocol numbers; IPv6's "next header" is the same. */
export const HOP_BY_HOP = 0;
export const ICMP = 1;
export const TCP_PROTOCOL = 6;
export const UDP_PROTOCOL = 17;
export const ROUTING = 43;
export const FRAGMENT = 44;
export const ICMPV6 = 58;
export const DESTINATION_OPTIONS = 60;

/** Fields in network order, as a little-endian load sees them. */
export const ETHERTYPE_IPV4 = 0x0008;
export const ETHERTYPE_IPV6 = 0xdd86;
/** The lowest bit that is set in ETHERTYPE_IPV6 and not in ETHERTYPE_IPV4, counted from 1 << 0. */
export const ETHERTYPE_IPV6_BIT = 7;
export const IPV4_FRAGMENT_OFFSET = 0xff1f;
export const IPV4_MORE_FRAGMENTS = 0x0020;
export const IPV6_FRAGMENT_OFFSET = 0xf8ff;
export const IPV6_MORE_FRAGMENTS = 0x0100;

/** Bytes 8 to 11 of a v4-mapped address. */
export const V4_MAPPED = 0xffff_0000;
