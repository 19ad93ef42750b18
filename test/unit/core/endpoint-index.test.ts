import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { EndpointIndex } from '../../../relay/core/endpoint-index.ts';
import { naiveSlotAt } from '../../support/naive-slot-at.ts';

test('a set without backends knows nobody', () => {
  expect(new EndpointIndex([]).slotAt(new Uint32Array(4), 0, 0)).toBe(-1);
});

test('the address counts in all of its words, and so does the port', () => {
  // Few values for each word and the port make near misses, and few backends a table so small that they collide.
  const word = fc.constantFrom(0, 1, 0xffffffff);
  const endpoint = fc
    .tuple(word, word, word, word, fc.constantFrom(0, 7777, 65535))
    .map(([a, b, c, d, port]) => new Endpoint(IpAddress.fromWords(Uint32Array.of(a, b, c, d)), port));
  const backends = fc
    .uniqueArray(endpoint, { minLength: 1, maxLength: 5, selector: String })
    .map((all) => all.map((endpoint, i) => ({ endpoint, slot: i * 255 })));
  const lookups = fc.array(fc.tuple(endpoint, fc.nat({ max: 8 })), { minLength: 50, maxLength: 50 });
  fc.assert(
    fc.property(backends, lookups, (backends, lookups) => {
      const index = new EndpointIndex(backends);
      for (const { endpoint, slot } of backends) {
        expect(index.slotAt(endpoint.ip.words, 0, endpoint.port)).toBe(slot);
        expect([...index.words.subarray(slot * 4, slot * 4 + 4)]).toEqual([...endpoint.ip.words]);
        expect(index.ports[slot]).toBe(endpoint.port);
      }
      for (const [endpoint, at] of lookups) {
        const words = new Uint32Array(12);
        words.set(endpoint.ip.words, at);
        expect(index.slotAt(words, at, endpoint.port)).toBe(naiveSlotAt(backends, endpoint));
      }
    }),
  );
});
