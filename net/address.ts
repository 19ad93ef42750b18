/**
 * Addresses as 16 bytes, IPv4 as v4-mapped IPv6 (RFC 4291 section 2.5.5.2: ::ffff:a.b.c.d), so that nothing behind this
 * file has an IPv4 path and an IPv6 path.
 *
 * On the packet path an address is four 32-bit words inside a larger Uint32Array, at a given index: word i holds bytes
 * 4i..4i+3 in the machine's (little-endian) order, which is also what the Linux kernel's jhash2 reads.
 */
import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import { endianness } from 'node:os';
import ipaddr from 'ipaddr.js';
import { RelayError } from './relay-error.ts';

assert.equal(endianness(), 'LE', 'tickrelay needs a little-endian machine');

/** Words of one address. */
export const ADDRESS_WORDS = 4;

/** Word 2 of every v4-mapped address: the bytes 00 00 ff ff. */
const V4_MAPPED_WORD = 0xffff0000;

const V4_WORDS = Uint32Array.of(0, 0, V4_MAPPED_WORD, 0);

/** An IP address: four words, and the same memory as 16 bytes. Immutable by agreement. */
export class IpAddress {
  readonly words: Uint32Array;
  #bytes: Uint8Array | undefined;

  /** @param source 16 bytes, or at least four words, which are copied. @param at the first of the words */
  constructor(source: Uint8Array | Uint32Array, at = 0) {
    const words = new Uint32Array(ADDRESS_WORDS);
    if (source instanceof Uint32Array) for (let i = 0; i < ADDRESS_WORDS; i++) words[i] = source[at + i]!;
    else {
      assert.equal(source.length, 16);
      for (let i = 0; i < 16; i++) words[i >> 2]! |= source[i]! << (8 * (i & 3));
    }
    this.words = words;
  }

  /** Parses `10.0.0.3`, `2001:db8::1`, `::ffff:10.0.0.3` or `fe80::1%eth0` (the zone is dropped). */
  static parse(text: string): IpAddress {
    // The system's own parser says what an address is: ipaddr.js would also take `10.0.0.3%x` and `::ffff:0x7f.0.0.1`.
    if (isIP(text) === 0)
      throw new RelayError(
        'TICKRELAY_ERR_ADDRESS',
        `"${text}" is not an IP address (like 10.0.0.3 or 2001:db8::1)`,
      );
    const zone = text.indexOf('%');
    const parsed = ipaddr.parse(zone === -1 ? text : text.slice(0, zone));
    const v6 = parsed instanceof ipaddr.IPv4 ? parsed.toIPv4MappedAddress() : parsed;
    return new IpAddress(Uint8Array.from(v6.toByteArray()));
  }

  static fromWords(words: Uint32Array, at = 0): IpAddress {
    return new IpAddress(words, at);
  }

  /** @param word the four octets in the order of the machine's memory */
  static fromV4Word(word: number): IpAddress {
    V4_WORDS[3] = word;
    return new IpAddress(V4_WORDS);
  }

  /** Made when it is first asked for: a view costs more than the address. */
  get bytes(): Uint8Array {
    this.#bytes ??= new Uint8Array(this.words.buffer);
    return this.#bytes;
  }

  get isV4(): boolean {
    return isV4Words(this.words, 0);
  }

  /** The kind of address, in ipaddr.js's words: unicast, private, loopback, unspecified, multicast, broadcast, linkLocal... */
  get range(): string {
    return (
      this.isV4 ? new ipaddr.IPv4([...this.bytes.subarray(12)]) : new ipaddr.IPv6([...this.bytes])
    ).range();
  }

  equals(other: IpAddress): boolean {
    return this.words.every((word, i) => word === other.words[i]);
  }

  /** IPv4 as a dotted quad, IPv6 in RFC 5952 form. */
  toString(): string {
    return formatWords(this.words, 0);
  }
}

/** An address and a port. */
export class Endpoint {
  readonly ip: IpAddress;
  readonly port: number;

  constructor(ip: IpAddress, port: number) {
    assert(Number.isInteger(port) && port >= 0 && port <= 65535);
    this.ip = ip;
    this.port = port;
  }

  /** Parses `10.0.0.3:7777` or `[2001:db8::1]:7777`. Port 0 asks the system for a free one. */
  static parse(text: string): Endpoint {
    const match = /^(?:\[(?<v6>[^\]]+)\]|(?<v4>[^:[\]]+)):(?<port>\d{1,5})$/.exec(text);
    const port = Number(match?.groups?.['port']);
    if (match === null) {
      throw new RelayError(
        'TICKRELAY_ERR_ADDRESS',
        `"${text}" is not an address with a port (like 10.0.0.3:7777 or [2001:db8::1]:7777)`,
      );
    }
    if (port > 65535) {
      throw new RelayError('TICKRELAY_ERR_ADDRESS', `"${text}" has port ${port}; the highest is 65535`);
    }
    return new Endpoint(IpAddress.parse(match.groups?.['v6'] ?? match.groups?.['v4'] ?? ''), port);
  }

  equals(other: Endpoint): boolean {
    return this.port === other.port && this.ip.equals(other.ip);
  }

  toString(): string {
    return formatEndpoint(this.ip.words, 0, this.port);
  }
}

/** A block of addresses, such as `10.0.0.0/24` or `2001:db8::/32`; a single address is a block of one. */
export class Cidr {
  readonly base: IpAddress;
  /** Length of the prefix over the 16 bytes, 0..128 (an IPv4 prefix plus 96). */
  readonly prefixBits: number;

  constructor(base: IpAddress, prefixBits: number) {
    assert(Number.isInteger(prefixBits) && prefixBits >= (base.isV4 ? 96 : 0) && prefixBits <= 128);
    this.base = base;
    this.prefixBits = prefixBits;
  }

  static parse(text: string): Cidr {
    const [address = '', prefix, ...rest] = text.split('/');
    const base = IpAddress.parse(address);
    const shared = address.includes(':') ? 0 : 96;
    const isNumber = prefix === undefined || /^\d{1,3}$/.test(prefix);
    const prefixBits = prefix === undefined ? 128 : Number(prefix) + shared;
    // A v4-mapped base with fewer bits, `::ffff:10.0.0.0/24`, would silently be a block with all of IPv4 in it.
    const least = base.isV4 ? 96 : 0;
    if (rest.length > 0 || !isNumber || prefixBits < least || prefixBits > 128) {
      throw new RelayError(
        'TICKRELAY_ERR_ADDRESS',
        `"${text}" is not a block of addresses (like 10.0.0.0/24 or 2001:db8::/32)`,
      );
    }
    return new Cidr(base, prefixBits);
  }

  contains(ip: IpAddress): boolean {
    const whole = this.prefixBits >> 3;
    for (let i = 0; i < whole; i++) if (ip.bytes[i] !== this.base.bytes[i]) return false;
    const rest = this.prefixBits & 7;
    return rest === 0 || (ip.bytes[whole]! ^ this.base.bytes[whole]!) >> (8 - rest) === 0;
  }

  toString(): string {
    return `${this.base.toString()}/${this.base.isV4 ? this.prefixBits - 96 : this.prefixBits}`;
  }
}

/** Whether the address at `words[at]` is v4-mapped. */
export function isV4Words(words: Uint32Array, at: number): boolean {
  return words[at + 2] === V4_MAPPED_WORD && words[at] === 0 && words[at + 1] === 0;
}

/** Formats the address at `words[at]`: a dotted quad for v4-mapped, else RFC 5952. */
export function formatWords(words: Uint32Array, at: number): string {
  if (isV4Words(words, at)) {
    const word = words[at + 3]!;
    return `${word & 255}.${(word >>> 8) & 255}.${(word >>> 16) & 255}.${word >>> 24}`;
  }
  const bytes = new Uint8Array(words.slice(at, at + ADDRESS_WORDS).buffer);
  return new ipaddr.IPv6([...bytes]).toRFC5952String();
}

/** Formats an address and port: `10.0.0.3:7777`, `[2001:db8::1]:7777`. */
export function formatEndpoint(words: Uint32Array, at: number, port: number): string {
  const host = formatWords(words, at);
  return isV4Words(words, at) ? `${host}:${port}` : `[${host}]:${port}`;
}

/**
 * Parses an address that the system printed into `words[at]`. Dotted quads, also v4-mapped ones, take a path without
 * allocation, since node:dgram reports every datagram's source as text.
 */
export function parseIntoWords(text: string, words: Uint32Array, at: number): void {
  const start = text.startsWith('::ffff:') ? 7 : 0;
  let word = 0;
  let octet = 0;
  let shift = 0;
  for (let i = start; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === 46) {
      word |= octet << shift;
      octet = 0;
      shift += 8;
    } else if (char >= 48 && char <= 57) {
      octet = octet * 10 + char - 48;
    } else {
      shift = -1;
      break;
    }
  }
  if (shift !== 24) {
    words.set(IpAddress.parse(text).words, at);
    return;
  }
  words[at] = 0;
  words[at + 1] = 0;
  words[at + 2] = V4_MAPPED_WORD;
  words[at + 3] = word | (octet << shift);
}
