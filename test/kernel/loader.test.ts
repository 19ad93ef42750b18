/** bpf(2) as the loader speaks it, against the running kernel. */
import { afterEach, describe, expect, test } from 'vitest';
import {
  BPF_EXIST,
  BPF_MAP_TYPE_ARRAY,
  BPF_MAP_TYPE_HASH,
  BPF_MAP_TYPE_PERCPU_ARRAY,
  BPF_NOEXIST,
} from '../../net/linux/abi.ts';
import { BpfMap, MapWalk, possibleCpus } from '../../relay/engines/kernel/bpf-map.ts';
import { whereBpf } from './where-bpf.ts';

const instruction = (code: number, registers: number, offset = 0, immediate = 0): number[] => [
  code,
  registers,
  offset & 255,
  (offset >> 8) & 255,
  ...new Uint8Array(Int32Array.of(immediate).buffer),
];
/** r0 = 2 (TC_ACT_SHOT); exit */
const DROP_ALL = Uint8Array.from([...instruction(0xb7, 0, 0, 2), ...instruction(0x95, 0)]);
/** r0 = *(u32 *)(r9 + 0): a register that nobody wrote */
const UNINITIALIZED = Uint8Array.from([...instruction(0x61, 0x90), ...instruction(0x95, 0)]);

whereBpf((bpf) => {
  const maps: BpfMap[] = [];
  afterEach(() => {
    for (const map of maps.splice(0)) map.close();
  });

  const hash = (maxEntries: number): BpfMap => {
    const map = BpfMap.create(bpf, {
      name: 'test_hash',
      type: BPF_MAP_TYPE_HASH,
      keySize: 4,
      valueSize: 8,
      maxEntries,
    });
    maps.push(map);
    return map;
  };
  const key = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer);
  const value = (number: number): Uint8Array => new Uint8Array(BigUint64Array.of(BigInt(number)).buffer);

  describe('a map', () => {
    test('keeps what is written, and forgets what is deleted', () => {
      const map = hash(4);
      const read = new Uint8Array(8);
      expect(map.lookup(key(7), read)).toBe(false);
      expect(map.update(key(7), value(70))).toBe(true);
      expect(map.lookup(key(7), read)).toBe(true);
      expect(read).toEqual(value(70));
      expect(map.delete(key(7))).toBe(true);
      expect(map.delete(key(7))).toBe(false);
    });

    test('stores under BPF_NOEXIST only what is new, under BPF_EXIST only what is there', () => {
      const map = hash(4);
      expect(map.update(key(1), value(1), BPF_EXIST)).toBe(false);
      expect(map.update(key(1), value(1), BPF_NOEXIST)).toBe(true);
      expect(map.update(key(1), value(2), BPF_NOEXIST)).toBe(false);
    });

    test('that is full says so in an error that names it', () => {
      const map = hash(2);
      map.update(key(1), value(1));
      map.update(key(2), value(2));
      expect(() => map.update(key(3), value(3))).toThrow(/test_hash: E2BIG/);
    });

    test('is walked in bounded steps, each element once', () => {
      const map = hash(10_000);
      for (let i = 0; i < 5_000; i++) map.update(key(i), value(i * 2));
      const walk = new MapWalk(bpf, map, 256);
      const seen = new Map<number, number>();
      for (let isEnd = false; !isEnd;) {
        const step = walk.step();
        isEnd = step.isEnd;
        expect(step.count).toBeLessThanOrEqual(256);
        const keys = new Uint32Array(walk.keys.slice().buffer);
        const values = new BigUint64Array(walk.values.slice().buffer);
        for (let i = 0; i < step.count; i++) seen.set(keys[i]!, Number(values[i]!));
      }
      expect(seen.size).toBe(5_000);
      expect([...seen].every(([k, v]) => v === 2 * k)).toBe(true);
      walk.close();
    });

    test('for each CPU holds a value for every CPU that may be there', () => {
      const map = BpfMap.create(bpf, {
        name: 'test_percpu',
        type: BPF_MAP_TYPE_PERCPU_ARRAY,
        keySize: 4,
        valueSize: 12,
        maxEntries: 1,
      });
      maps.push(map);
      expect(map.valueBytes).toBe(16 * possibleCpus());
      const written = new Uint8Array(map.valueBytes).map((_, i) => (i % 16 < 12 ? i : 0));
      map.updateAt(0, written);
      const read = new Uint8Array(map.valueBytes);
      map.lookupAt(0, read);
      expect(read).toEqual(written);
    });

    test('of a type or size that the kernel does not take is an error that names it', () => {
      expect(() =>
        bpf.createMap({ name: 'odd', type: BPF_MAP_TYPE_ARRAY, keySize: 3, valueSize: 4, maxEntries: 1 }),
      ).toThrow(/the map odd of 1 entries: EINVAL/);
    });
  });

  describe('a program', () => {
    test('is loaded and run on a packet', () => {
      const program = bpf.loadProgram({ name: 'drop_all', instructions: DROP_ALL });
      const packet = Uint8Array.from({ length: 60 }, (_, i) => i);
      const run = bpf.testRun(program, packet);
      expect(run.returned).toBe(2);
      expect(run.packet).toEqual(packet);
      bpf.closeFd(program);
    });

    test('that the verifier refuses is an error with the verifier’s reason', () => {
      expect(() => bpf.loadProgram({ name: 'broken', instructions: UNINITIALIZED })).toThrow(
        /load the program broken: EACCES; the verifier says:\n[^]*R9 !read_ok/,
      );
    });
  });
});
