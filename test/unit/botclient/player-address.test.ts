import { expect, test } from 'vitest';
import { playerAddresses } from '../../../botclient/player-address.ts';
import { Endpoint, IpAddress } from '../../../net/address.ts';

const list = (players: number, target: string, first?: string): string[] =>
  playerAddresses(
    players,
    Endpoint.parse(target),
    first === undefined ? undefined : IpAddress.parse(first),
  ).map((address) => address.toString());

test('on IPv4 loopback each player has its own address from 127.1.0.1 up', () => {
  expect(list(3, '127.0.0.1:7777')).toEqual(['127.1.0.1', '127.1.0.2', '127.1.0.3']);
});

test('addresses that end in .0 or .255 are left out', () => {
  expect(list(3, '127.0.0.1:7777', '127.1.0.254')).toEqual(['127.1.0.254', '127.1.1.1', '127.1.1.2']);
  expect(list(1, '127.0.0.1:7777', '127.2.0.0')).toEqual(['127.2.0.1']);
  expect(new Set(list(5000, '127.0.0.1:7777')).size).toBe(5000);
});

test('for any other target the system chooses, of the same family', () => {
  expect(list(2, '192.0.2.1:7777')).toEqual(['0.0.0.0', '0.0.0.0']);
  expect(list(2, '[::1]:7777')).toEqual(['::', '::']);
});

test('a first address that was asked for is taken for any target', () => {
  expect(list(2, '192.0.2.1:7777', '192.0.2.9')).toEqual(['192.0.2.9', '192.0.2.10']);
});

test('a first address that is IPv6, or leaves too few above it, is refused', () => {
  expect(() => list(1, '[::1]:7777', '::1')).toThrow(/not an IPv4 address/);
  expect(() => list(3, '127.0.0.1:7777', '255.255.255.254')).toThrow(/no 3 addresses from 255.255.255.254/);
});
