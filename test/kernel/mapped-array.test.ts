/** Arrays that a relay shares with the programs of the one before it. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { BPF_F_MMAPABLE, BPF_MAP_TYPE_ARRAY } from '../../net/linux/abi.ts';
import type { MapSpec } from '../../relay/engines/kernel/loader.ts';
import { MappedArray } from '../../relay/engines/kernel/mapped-array.ts';
import { whereBpf } from './where-bpf.ts';

const SPEC: MapSpec = {
  name: 'shared',
  type: BPF_MAP_TYPE_ARRAY,
  keySize: 4,
  valueSize: 4,
  maxEntries: 4,
  flags: BPF_F_MMAPABLE,
};

whereBpf((bpf) => {
  let fd: number;
  let array: MappedArray;
  let programs: MappedArray;
  beforeEach(() => {
    fd = bpf.createMap(SPEC);
    array = new MappedArray(bpf.libc, SPEC, fd);
    programs = new MappedArray(bpf.libc, SPEC, fd);
  });
  afterEach(() => {
    for (const one of [array, programs]) one.unmap();
    bpf.closeFd(fd);
  });

  const all = (of: MappedArray): number[] => [0, 1, 2, 3].map((index) => of.getU32(of.at(index, 0)));

  test('what is written while the array is held is the programs’ from its release on, beside what they wrote', () => {
    [1, 2, 3, 4].forEach((value, index) => array.setU32(array.at(index, 0), value));
    array.hold();
    array.setU32(array.at(0, 0), 10);
    array.setU32(array.at(3, 0), 0);
    programs.setU32(programs.at(1, 0), 20);
    expect(all(array)).toEqual([10, 2, 3, 0]);
    expect(all(programs)).toEqual([1, 20, 3, 4]);
    array.release();
    expect(all(programs)).toEqual([10, 20, 3, 0]);
    expect(all(array)).toEqual([10, 20, 3, 0]);
  });

  test('a release without a hold changes nothing', () => {
    array.setU32(array.at(2, 0), 7);
    array.release();
    expect(all(programs)).toEqual([0, 0, 7, 0]);
  });
});
