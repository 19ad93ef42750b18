/** The PROXY protocol byte for byte, as HAProxy's specification has it. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import {
  MAX_HEADER_BYTES,
  readProxyHeader,
  writeProxyHeader,
  type ProxyHeader,
} from '../../../relay/tcp/proxy-header.ts';

/** Hex with spaces for the eye. */
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');
const read = (bytes: Buffer | string): ProxyHeader => readProxyHeader(Buffer.from(bytes as Buffer));

function shown(header: ProxyHeader): unknown {
  if (typeof header === 'string' || header.addresses === undefined) return header;
  const { length, addresses } = header;
  return [length, addresses.client.toString(), addresses.destination.toString()];
}

const SIGNATURE = '0d0a0d0a 000d0a51 5549540a';
/** 192.0.2.1:56324 -> 198.51.100.7:5432 */
const V4 = hex(`${SIGNATURE} 21 11 000c c0000201 c6336407 dc04 1538`);
/** [2001:db8::1]:56324 -> [2001:db8::2]:5432 */
const V6 = hex(
  `${SIGNATURE} 21 21 0024 20010db8000000000000000000000001 20010db8000000000000000000000002 dc04 1538`,
);
const V1_TCP4 =
  '50524f58592054435034203139322e302e322e31203139382e35312e3130302e3720353633323420353433320d0a';

describe('version 1', () => {
  test('names IPv4 and IPv6 clients', () => {
    expect(shown(read(hex(V1_TCP4)))).toEqual([46, '192.0.2.1:56324', '198.51.100.7:5432']);
    expect(shown(read('PROXY TCP6 2001:db8::1 2001:DB8::2 1 65535\r\n'))).toEqual([
      44,
      '[2001:db8::1]:1',
      '[2001:db8::2]:65535',
    ]);
  });

  test('is followed by the bytes of the client', () => {
    expect(read('PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET /\r\n')).toMatchObject({ length: 45 });
  });

  test('with an unknown protocol leaves the addresses of the connection, whatever follows', () => {
    expect(read('PROXY UNKNOWN\r\n')).toEqual({ length: 15 });
    const longest = `PROXY UNKNOWN ${'f'.repeat(107 - 16)}\r\n`;
    expect(longest).toHaveLength(107);
    expect(read(longest)).toEqual({ length: 107 });
  });

  test.each([
    ['longer than 107 bytes', `PROXY UNKNOWN ${'f'.repeat(107 - 15)}\r\n`],
    ['without an end in 107 bytes', 'PROXY TCP4 '.padEnd(200, '1')],
    ['another protocol', 'PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n'],
    ['a lower-case word', 'proxy TCP4 192.0.2.1 198.51.100.7 1 2\r\n'],
    ['two spaces', 'PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n'],
    ['a space at the end', 'PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n'],
    ['a missing port', 'PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n'],
    ['a port above 65535', 'PROXY TCP4 192.0.2.1 198.51.100.7 65536 2\r\n'],
    ['a port with a zero in front', 'PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n'],
    ['a negative port', 'PROXY TCP4 192.0.2.1 198.51.100.7 -1 2\r\n'],
    ['an address with a zero in front', 'PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n'],
    ['an IPv6 address as TCP4', 'PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n'],
    ['an IPv4 address as TCP6', 'PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n'],
    ['an address with a zone', 'PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n'],
    ['a name', 'PROXY TCP4 localhost 198.51.100.7 1 2\r\n'],
    ['a single LF before another CR LF', 'PROXY TCP4 192.0.2.1 198.51.100.7 1 2\nx\r\n'],
    ['an HTTP request', 'GET / HTTP/1.1\r\n'],
    ['a PostgreSQL SSLRequest', hex('00000008 04d2162f')],
    ['a TLS hello', hex('16030100')],
  ])('is malformed: %s', (_what, bytes) => {
    expect(read(bytes)).toBe('malformed');
  });
});

describe('version 2', () => {
  test('names IPv4 and IPv6 clients', () => {
    expect(shown(read(V4))).toEqual([28, '192.0.2.1:56324', '198.51.100.7:5432']);
    expect(shown(read(V6))).toEqual([52, '[2001:db8::1]:56324', '[2001:db8::2]:5432']);
  });

  test('skips the values that follow the addresses', () => {
    const values = hex(`${SIGNATURE} 21 11 0013 c0000201 c6336407 dc04 1538 04 0004 00000000 ff`);
    expect(shown(read(values))).toEqual([35, '192.0.2.1:56324', '198.51.100.7:5432']);
  });

  test.each([
    ['LOCAL', `${SIGNATURE} 20 00 0000`, 16],
    ['LOCAL with addresses', `${SIGNATURE} 20 11 000c c0000201 c6336407 dc04 1538`, 28],
    ['an unspecified family', `${SIGNATURE} 21 00 0002 abcd`, 18],
    ['UDP over IPv4', `${SIGNATURE} 21 12 000c c0000201 c6336407 dc04 1538`, 28],
    ['a Unix socket', `${SIGNATURE} 21 31 00d8 ${'00'.repeat(216)}`, 232],
  ])('leaves the addresses of the connection: %s', (_what, bytes, length) => {
    expect(read(hex(bytes))).toEqual({ length });
  });

  test.each([
    ['a wrong signature', '0d0a0d0a 000d0a51 5549540b 21 11 000c c0000201 c6336407 dc04 1538'],
    ['version 1', `${SIGNATURE} 11 11 000c c0000201 c6336407 dc04 1538`],
    ['version 3', `${SIGNATURE} 31 11 000c c0000201 c6336407 dc04 1538`],
    ['an unassigned command', `${SIGNATURE} 22`],
    ['an unspecified family above 3', `${SIGNATURE} 21 41`],
    ['an unspecified protocol above 2', `${SIGNATURE} 21 13`],
    ['a length too short for its addresses', `${SIGNATURE} 21 11 000b c0000201 c6336407 dc04 15`],
    ['a length too short for IPv6', `${SIGNATURE} 21 21 000c c0000201 c6336407 dc04 1538`],
    ['a length above what is taken', `${SIGNATURE} 21 11 ffff`],
    ['a length one above what is taken', `${SIGNATURE} 20 00 0ff1`],
  ])('is malformed: %s', (_what, bytes) => {
    expect(read(hex(bytes))).toBe('malformed');
  });

  test('of the largest size is taken', () => {
    const header = Buffer.concat([hex(`${SIGNATURE} 20 00 0ff0`), Buffer.alloc(4_080)]);
    expect(header).toHaveLength(MAX_HEADER_BYTES);
    expect(read(header)).toEqual({ length: MAX_HEADER_BYTES });
  });
});

test('every header is incomplete until its last byte, and every other byte in its middle is found out or waited for', () => {
  for (const header of [V4, V6, hex(V1_TCP4), Buffer.from('PROXY UNKNOWN\r\n')]) {
    for (let length = 0; length < header.length; length++) {
      expect(read(header.subarray(0, length))).toBe('incomplete');
    }
    expect(read(header)).toMatchObject({ length: header.length });
  }
});

test('what is written is what the specification says', () => {
  const v4 = { client: Endpoint.parse('192.0.2.1:56324'), destination: Endpoint.parse('198.51.100.7:5432') };
  const v6 = {
    client: Endpoint.parse('[2001:db8::1]:56324'),
    destination: Endpoint.parse('[2001:db8::2]:5432'),
  };
  expect(writeProxyHeader('v2', v4)).toEqual(V4);
  expect(writeProxyHeader('v2', v6)).toEqual(V6);
  expect(writeProxyHeader('v1', v4)).toEqual(hex(V1_TCP4));
  expect(writeProxyHeader('v1', v6).toString()).toBe('PROXY TCP6 2001:db8::1 2001:db8::2 56324 5432\r\n');
});

test('an IPv4 client at an IPv6 address is written as IPv6', () => {
  const mixed = {
    client: Endpoint.parse('192.0.2.1:56324'),
    destination: Endpoint.parse('[2001:db8::2]:5432'),
  };
  expect(writeProxyHeader('v1', mixed).toString()).toBe(
    'PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 56324 5432\r\n',
  );
  expect(writeProxyHeader('v2', mixed).toString('hex', 12, 32)).toBe(
    '2121002400000000000000000000ffffc0000201',
  );
  for (const version of ['v1', 'v2'] as const) {
    expect(shown(read(writeProxyHeader(version, mixed)))).toMatchObject({
      1: '192.0.2.1:56324',
      2: '[2001:db8::2]:5432',
    });
  }
});

test('no bytes make the reader fail, and what it takes lies within them', () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.uint8Array({ maxLength: 300 }).map((rest) => Buffer.concat([hex(SIGNATURE), rest])),
    fc.uint8Array({ maxLength: 300 }).map((rest) => Buffer.concat([Buffer.from('PROXY '), rest])),
  );
  fc.assert(
    fc.property(bytes, (input) => {
      const header = read(Buffer.from(input));
      if (typeof header === 'string') return;
      expect(header.length).toBeGreaterThan(0);
      expect(header.length).toBeLessThanOrEqual(input.length);
    }),
    { numRuns: 2_000 },
  );
});
