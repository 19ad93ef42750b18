/**
 * Golden vectors from a C program around the kernel's jhash2, and those that lookup3.c itself publishes.
 * docs/hashing.md lists them for other implementations.
 */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IpAddress } from '../../../net/address.ts';
import { hashAddress, hashKey, hashWords } from '../../../relay/core/hash.ts';
import { naiveJhash2 } from '../../support/naive-jhash2.ts';

const u32 = fc.nat({ max: 0xffffffff });

describe('hashWords', () => {
  // The words 1, 2, ... up to the length, with the seeds 0, 1 and 0xdeadbeef.
  test.each([
    [0, 0xdeadbeef, 0xdeadbef0, 0xbd5b7dde],
    [1, 0x72a82a9b, 0x76efdf8d, 0xc393af12],
    [2, 0x8b4c7979, 0x73989811, 0x104adc6d],
    [3, 0xa46158f5, 0x0e3bbaf2, 0x27983d68],
    [4, 0x66491246, 0x044ec9ea, 0xda03e646],
    [5, 0x629129c0, 0x8e2bb0bc, 0x9e1ca3c8],
    [6, 0xe3e36b25, 0xa6d49185, 0xe9d2defd],
    [7, 0x3e606a2c, 0x397376cb, 0xf53cb6a6],
    [8, 0x84ce8c3e, 0x3395cdee, 0xd91a76c5],
  ])('hashes %i words as the kernel does', (length, seed0, seed1, seedDeadbeef) => {
    const words = Uint32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    expect(hashWords(words, length, 0)).toBe(seed0);
    expect(hashWords(words, length, 1)).toBe(seed1);
    expect(hashWords(words, length, 0xdeadbeef)).toBe(seedDeadbeef);
  });

  test('gives the values that lookup3.c prints for its own self test', () => {
    // 30 bytes, padded to 8 words: lookup3 counts bytes, jhash2 whole words, so the seed makes up for the other 2.
    const text = new Uint8Array(32);
    new TextEncoder().encodeInto('Four score and seven years ago', text);
    const words = new Uint32Array(text.buffer);
    expect(hashWords(words, 8, -2)).toBe(0x17770551);
    expect(hashWords(words, 8, 1 - 2)).toBe(0xcd628161);
  });

  test('agrees with the naive twin for any words, length and seed', () => {
    fc.assert(
      fc.property(fc.array(u32, { maxLength: 20 }), u32, (words, seed) => {
        expect(hashWords(Uint32Array.from(words), words.length, seed)).toBe(naiveJhash2(words, seed));
      }),
    );
  });
});

describe('hashAddress and hashKey', () => {
  test('hash an address as the kernel does', () => {
    for (const { address, seed0, seed1 } of publishedVectors('Addresses')) {
      const { words } = IpAddress.parse(address);
      expect(hashAddress(words, 0, 0) >>> 0, address).toBe(seed0);
      expect(hashAddress(words, 0, 0x9e3779b9) >>> 0, address).toBe(seed1);
    }
  });

  test('hash an address and a port as the kernel does', () => {
    for (const { address, seed0, seed1 } of publishedVectors('Addresses with port 7777')) {
      const { words } = IpAddress.parse(address);
      expect(hashKey(words, 0, 7777, 0) >>> 0, address).toBe(seed0);
      expect(hashKey(words, 0, 7777, 0x9e3779b9) >>> 0, address).toBe(seed1);
    }
  });

  test('are the general hash of 4 and of 5 words, at any place in an array', () => {
    const address = fc.tuple(u32, u32, u32, u32);
    fc.assert(
      fc.property(address, u32, u32, fc.nat({ max: 9 }), (words, tag, seed, at) => {
        const place = new Uint32Array(20).fill(0xabababab);
        place.set(words, at);
        expect(hashAddress(place, at, seed) >>> 0).toBe(naiveJhash2(words, seed));
        expect(hashKey(place, at, tag, seed) >>> 0).toBe(naiveJhash2([...words, tag], seed));
      }),
    );
  });

  test('give a v4-mapped address the hash of its IPv4 address', () => {
    const plain = IpAddress.parse('192.0.2.1');
    const mapped = IpAddress.parse('::ffff:192.0.2.1');
    expect(hashAddress(mapped.words, 0, 7)).toBe(hashAddress(plain.words, 0, 7));
  });
});

/** The rows of one table of docs/hashing.md. */
function publishedVectors(heading: string): { address: string; seed0: number; seed1: number }[] {
  const page = readFileSync(new URL('../../../docs/hashing.md', import.meta.url), 'utf8');
  const section = page.split(`### ${heading}\n`)[1]!.split('\n#')[0]!;
  const rows = [...section.matchAll(/^\| `([^`]+)` +\| `[^`]+` +\| `(\w{8})` +\| `(\w{8})` +\|$/gm)];
  expect(rows).toHaveLength(10);
  return rows.map(([, address, seed0, seed1]) => ({
    address: address!,
    seed0: parseInt(seed0!, 16),
    seed1: parseInt(seed1!, 16),
  }));
}
