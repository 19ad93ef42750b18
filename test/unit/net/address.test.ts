import { isIP } from 'node:net';
import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { describe, expect, test } from 'vitest';
import {
  Cidr,
  Endpoint,
  formatEndpoint,
  formatWords,
  IpAddress,
  isV4Words,
  parseIntoWords,
} from '../../../net/address.ts';
import { RelayError } from '../../../net/relay-error.ts';

const hex = (ip: IpAddress): string => Buffer.from(ip.bytes).toString('hex');

/** Any address, often v4-mapped or nearly so, as its 16 bytes in hex. */
const anyIp = fc
  .oneof(
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
    fc
      .uint8Array({ minLength: 4, maxLength: 4 })
      .map((v4) => [...Buffer.from('00000000000000000000ffff', 'hex'), ...v4]),
    fc.array(fc.constantFrom(0, 0, 0, 1, 255), { minLength: 16, maxLength: 16 }),
  )
  .map((bytes) => new IpAddress(Uint8Array.from(bytes)));

/** Text that often is an address, and often nearly one. */
const nearlyAddress = fc.oneof(
  fc.ipV4(),
  fc.ipV6(),
  fc
    .array(fc.constantFrom('', '0', '1', 'ffff', 'abcd', '00001', '10.0.0.1', '256.1.1.1', '1.2.3', '%lo'), {
      minLength: 1,
      maxLength: 9,
    })
    .map((groups) => groups.join(':')),
  fc.string({ unit: fc.constantFrom('0', '1', '2', '5', '9', 'a', 'f', ':', '.', '%', 'x'), maxLength: 16 }),
  fc.ipV4().map((v4) => `::ffff:${v4}`),
);

const refusal = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(RelayError);
    expect((error as RelayError).code).toBe('TICKRELAY_ERR_ADDRESS');
    return (error as RelayError).message;
  }
  return 'accepted';
};

describe('an IP address', () => {
  test.each([
    ['10.0.0.3', '00000000000000000000ffff0a000003', '10.0.0.3'],
    ['0.0.0.0', '00000000000000000000ffff00000000', '0.0.0.0'],
    ['255.255.255.255', '00000000000000000000ffffffffffff', '255.255.255.255'],
    ['::ffff:10.0.0.3', '00000000000000000000ffff0a000003', '10.0.0.3'],
    ['::FFFF:a00:3', '00000000000000000000ffff0a000003', '10.0.0.3'],
    ['0:0:0:0:0:ffff:10.0.0.3', '00000000000000000000ffff0a000003', '10.0.0.3'],
    ['::', '00000000000000000000000000000000', '::'],
    ['::1', '00000000000000000000000000000001', '::1'],
    ['2001:DB8::1', '20010db8000000000000000000000001', '2001:db8::1'],
    ['fe80::1%eth0', 'fe800000000000000000000000000001', 'fe80::1'],
    ['64:ff9b::1.2.3.4', '0064ff9b000000000000000001020304', '64:ff9b::102:304'],
    // RFC 5952: no leading zeros, the longest run of zeros shortened, of equal ones the first, never a single one.
    ['2001:0db8:0000:0000:0001:0000:0000:0001', '20010db8000000000001000000000001', '2001:db8::1:0:0:1'],
    ['2001:0:0:1:0:0:0:1', '20010000000000010000000000000001', '2001:0:0:1::1'],
    ['2001:db8:0:1:1:1:1:1', '20010db8000000010001000100010001', '2001:db8:0:1:1:1:1:1'],
  ])('%s has the bytes %s and prints as %s', (text, bytes, printed) => {
    const ip = IpAddress.parse(text);
    expect(hex(ip)).toBe(bytes);
    expect(ip.toString()).toBe(printed);
    expect(IpAddress.parse(printed).equals(ip)).toBe(true);
  });

  test.each([
    ...[
      '',
      ' ',
      '10.0.0',
      '10.0.0.256',
      '010.0.0.3',
      '0x7f.0.0.1',
      '2130706433',
      '10.0.0.3 ',
      '10.0.0.3%eth0',
    ],
    ...['::ffff:010.0.0.3', '::ffff:0x7f.0.0.1', '::1%', '1::2::3', ':::', '12345::', '[::1]', 'localhost'],
  ])('%j is refused by name', (text) => {
    expect(refusal(() => IpAddress.parse(text))).toBe(
      `"${text}" is not an IP address (like 10.0.0.3 or 2001:db8::1)`,
    );
  });

  test('is what the system takes for one', () => {
    fc.assert(
      fc.property(nearlyAddress, (text) => {
        expect(refusal(() => IpAddress.parse(text)) === 'accepted').toBe(isIP(text) !== 0);
      }),
      { numRuns: 2_000 },
    );
  });

  test('survives printing and parsing, as words too', () => {
    fc.assert(
      fc.property(anyIp, fc.nat(5), (ip, at) => {
        expect(hex(IpAddress.parse(ip.toString()))).toBe(hex(ip));
        const words = new Uint32Array(at + 4);
        words.set(ip.words, at);
        expect(formatWords(words, at)).toBe(ip.toString());
        expect(IpAddress.fromWords(words, at).equals(ip)).toBe(true);
        expect(isV4Words(words, at)).toBe(hex(ip).startsWith('00000000000000000000ffff'));
      }),
    );
  });

  test('is read into words just as it is parsed', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          nearlyAddress.filter((text) => isIP(text) !== 0),
          anyIp.map(String),
        ),
        (text) => {
          const words = new Uint32Array(6).fill(7);
          parseIntoWords(text, words, 1);
          expect([...words]).toEqual([7, ...IpAddress.parse(text).words, 7]);
        },
      ),
      { numRuns: 1_000 },
    );
  });

  test.each(['::ffff:5', '::ffff:1.2.3.4', 'fe80::1%eth0', '0.0.0.0', '255.255.255.255'])(
    'the system’s %s becomes its words',
    (text) => {
      const words = new Uint32Array(4);
      parseIntoWords(text, words, 0);
      expect(words).toEqual(IpAddress.parse(text).words);
    },
  );

  test.each(['', '5', '1.2.3', '1.2.3.4.5', '1.2.3.4x', '::ffff:1.2.3'])(
    '%j is no address for words',
    (text) => {
      expect(refusal(() => parseIntoWords(text, new Uint32Array(4), 0))).toContain(`"${text}"`);
    },
  );

  test.each([
    ['10.0.0.3', 'private'],
    ['::ffff:10.0.0.3', 'private'],
    ['127.9.0.1', 'loopback'],
    ['::1', 'loopback'],
    ['0.0.0.0', 'unspecified'],
    ['::', 'unspecified'],
    ['224.0.0.1', 'multicast'],
    ['ff02::1', 'multicast'],
    ['255.255.255.255', 'broadcast'],
    ['169.254.0.1', 'linkLocal'],
    ['fe80::1', 'linkLocal'],
    ['8.8.8.8', 'unicast'],
  ])('%s is %s', (text, range) => {
    expect(IpAddress.parse(text).range).toBe(range);
  });

  test('keeps its own copy of the bytes', () => {
    const bytes = new Uint8Array(16);
    const ip = new IpAddress(bytes);
    bytes[15] = 1;
    expect(ip.toString()).toBe('::');
  });
});

describe('an endpoint', () => {
  test.each([
    ['10.0.0.3:7777', '10.0.0.3:7777'],
    ['0.0.0.0:0', '0.0.0.0:0'],
    ['[2001:db8::1]:65535', '[2001:db8::1]:65535'],
    ['[::ffff:10.0.0.3]:53', '10.0.0.3:53'],
    ['[fe80::1%lo]:5', '[fe80::1]:5'],
  ])('%s prints as %s', (text, printed) => {
    const endpoint = Endpoint.parse(text);
    expect(endpoint.toString()).toBe(printed);
    expect(formatEndpoint(endpoint.ip.words, 0, endpoint.port)).toBe(printed);
    expect(Endpoint.parse(printed).equals(endpoint)).toBe(true);
  });

  test.each([
    ...['', '10.0.0.3', '10.0.0.3:', ':7777', '10.0.0.3:-1', '10.0.0.3:7777 ', '10.0.0.3:1e3'],
    ...['::1:7777', '[::1]', '[::1]7777', '[]:1', '10.0.0.3:000080', '[::1]]:5'],
  ])('%j is refused by name', (text) => {
    expect(refusal(() => Endpoint.parse(text))).toBe(
      `"${text}" is not an address with a port (like 10.0.0.3:7777 or [2001:db8::1]:7777)`,
    );
  });

  test('a port that there is not is named', () => {
    const text = '10.0.0.3:65536';
    expect(refusal(() => Endpoint.parse(text))).toBe(`"${text}" has port 65536; the highest is 65535`);
  });

  test('a host name is refused as an address', () => {
    expect(refusal(() => Endpoint.parse('localhost:80'))).toContain('"localhost" is not an IP address');
  });

  test('survives printing and parsing', () => {
    fc.assert(
      fc.property(anyIp, fc.nat(65_535), (ip, port) => {
        const endpoint = new Endpoint(ip, port);
        expect(Endpoint.parse(endpoint.toString()).equals(endpoint)).toBe(true);
        expect(new Endpoint(ip, (port + 1) % 65_536).equals(endpoint)).toBe(false);
      }),
    );
  });
});

describe('a block of addresses', () => {
  test.each([
    ['10.0.0.0/24', '10.0.0.0', '10.0.0.255', '10.0.1.0'],
    ['10.0.0.128/25', '10.0.0.128', '10.0.0.255', '10.0.0.127'],
    ['10.1.2.3/9', '10.0.0.0', '10.127.255.255', '10.128.0.0'],
    ['10.0.0.7', '10.0.0.7', '10.0.0.7', '10.0.0.6'],
    ['10.0.0.7/32', '10.0.0.7', '10.0.0.7', '10.0.0.8'],
    ['0.0.0.0/0', '0.0.0.0', '255.255.255.255', '::1'],
    ['::ffff:10.0.0.0/104', '10.0.0.0', '10.255.255.255', '11.0.0.0'],
    ['2001:db8::/32', '2001:db8::', '2001:db8:ffff::', '2001:db9::'],
    ['2001:db8::/33', '2001:db8::', '2001:db8:7fff::', '2001:db8:8000::'],
    ['::1/128', '::1', '::1', '::2'],
    ['fe80::/10', 'fe80::', 'febf:ffff::', 'fec0::'],
  ])('%s contains %s and %s, not %s', (block, first, last, outside) => {
    const cidr = Cidr.parse(block);
    expect(cidr.contains(IpAddress.parse(first))).toBe(true);
    expect(cidr.contains(IpAddress.parse(last))).toBe(true);
    expect(cidr.contains(IpAddress.parse(outside))).toBe(false);
  });

  test('of all IPv6 has IPv4 in it too', () => {
    expect(Cidr.parse('::/0').contains(IpAddress.parse('10.0.0.1'))).toBe(true);
  });

  test.each([
    ...['10.0.0.0/', '10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/8/8', '10.0.0.0/8.5', '10.0.0.0/1e1', '::/129'],
    ...['10.0.0.0/ 8', '::ffff:10.0.0.0/24', '::ffff:10.0.0.0/95'],
  ])('%j is refused by name', (text) => {
    expect(refusal(() => Cidr.parse(text))).toBe(
      `"${text}" is not a block of addresses (like 10.0.0.0/24 or 2001:db8::/32)`,
    );
  });

  test('contains what shares its first bits, and prints as it parses', () => {
    const bits = ({ bytes }: IpAddress): string =>
      Array.from(bytes, (b) => b.toString(2).padStart(8, '0')).join('');
    const block = anyIp.chain((base) =>
      fc.record({ base: fc.constant(base), prefix: fc.integer({ min: base.isV4 ? 96 : 0, max: 128 }) }),
    );
    fc.assert(
      fc.property(block, anyIp, fc.nat(127), ({ base, prefix }, other, flipped) => {
        const near = Uint8Array.from(base.bytes);
        near[flipped >> 3]! ^= 0x80 >> (flipped & 7);
        const cidr = new Cidr(base, prefix);
        for (const ip of [other, new IpAddress(near)]) {
          expect(cidr.contains(ip)).toBe(bits(ip).slice(0, prefix) === bits(base).slice(0, prefix));
          const v6 = (of: IpAddress) => new ipaddr.IPv6([...of.bytes]);
          expect(cidr.contains(ip)).toBe(v6(ip).match(v6(base), prefix));
        }
        const again = Cidr.parse(cidr.toString());
        expect([hex(again.base), again.prefixBits]).toEqual([hex(base), prefix]);
      }),
      { numRuns: 1_000 },
    );
  });
});
