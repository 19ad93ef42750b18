/** TCP listeners that need more pools than an engine has room for. Where else they are carried, whole relays show (test/e2e). */
import { expect, test } from 'vitest';
import { parseConfig, type RelayConfig } from '../../../relay/control/config.ts';
import type { Engine } from '../../../relay/engines/engine.ts';
import { placesOf } from '../../../relay/tcp-place.ts';

/** An engine with TCP that could carry anything. */
const engineWithRoom = (maxPools: number): Engine =>
  ({ name: 'kernel', maxPools, tcp: { whyNot: () => undefined } }) as unknown as Engine;

/** Listeners in this order, each with its pool and further keys. */
const config = (...listeners: readonly (readonly [pool: string, keys: string])[]): RelayConfig => {
  const pools = [...new Set(listeners.map(([pool]) => pool))];
  const text = [
    'engine: kernel',
    'kernel: { sourceAddress: client }',
    'listeners:',
    ...listeners.map(
      ([pool, keys], i) => `  - { name: l${i}, listen: "10.0.0.1:${7000 + i}", pool: ${pool}, ${keys} }`,
    ),
    'pools:',
    ...pools.map((pool) => `  ${pool}: { backends: [ "10.0.0.3:7777" ], healthCheck: { type: none } }`),
  ].join('\n');
  return parseConfig(text).config;
};

test('those that can do without the kernel stay in user space when UDP and others have taken its pools', () => {
  const { listeners, pools, kernel } = config(
    ['a', 'protocol: tcp'],
    ['b', 'protocol: tcp'],
    ['b', 'protocol: tcp'],
    ['a', 'protocol: tcp'],
    ['c', 'protocol: tcp, engine: kernel'],
    ['d', 'protocol: udp'],
    ['d', 'protocol: tcp'],
  );
  const places = placesOf(listeners, { engine: engineWithRoom(3), pools, kernel });
  expect(Array.from(places, ([name, { isInKernel }]) => [name, isInKernel])).toEqual([
    ['l0', true],
    ['l1', false],
    ['l2', false],
    ['l3', true],
    ['l4', true],
    ['l6', true],
  ]);
  expect(places.get('l1')!.reason).toBe('the kernel has room for 3 pools, and other listeners need them all');
});
