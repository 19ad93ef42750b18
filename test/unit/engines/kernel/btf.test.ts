/** Types of functions as the kernel documents them (Documentation/bpf/btf.rst), byte for byte. */
import { expect, test } from 'vitest';
import { functionInfo, functionTypes } from '../../../../relay/engines/kernel/btf.ts';

const FUNCTIONS = [
  { at: 0, name: 'program' },
  { at: 7, name: 'next round: 2' },
];

test('each function has a name of letters, digits and _, and returns an int', () => {
  const bytes = Buffer.from(functionTypes(FUNCTIONS)).toString('hex');
  expect(bytes).toBe(
    [
      // types of 52 bytes, then names of 26
      '9feb0100180000000000000034000000340000001a000000',
      // int: its name, kind 1, 4 bytes, signed with 32 bits
      '01000000000000010400000020000001',
      // a function that returns type 1
      '000000000000000d01000000',
      // two functions of type 2
      '050000000000000c02000000',
      '0d0000000000000c02000000',
      Buffer.from('\0int\0program\0next_round_2\0').toString('hex'),
    ].join(''),
  );
});

test('each function is named by its first instruction and its type', () => {
  expect(functionInfo(FUNCTIONS)).toEqual(new Uint8Array(Uint32Array.of(0, 3, 7, 4).buffer));
});
