/** Instructions as RFC 9669 encodes them, byte for byte, and the mistakes that the assembler refuses. */
import { expect, test } from 'vitest';
import { assemble, type Assembler } from '../../../../relay/engines/kernel/assembler.ts';
import {
  field,
  Frame,
  memory,
  part,
  r0,
  r1,
  r10,
  r2,
  r3,
  r6,
} from '../../../../relay/engines/kernel/memory.ts';
import { struct, U16, U32, U64 } from '../../../../relay/engines/kernel/struct.ts';

const RECORD = struct({ count: U64, port: U16, flags: U16, ref: U32 });

type Program = (a: Assembler<'sessions' | 'pins'>) => void;

const assembled = (program: Program) => assemble(['sessions', 'pins'], program);
const bytesOf = (program: Program): string[] =>
  Buffer.from(assembled(program).link({ sessions: 0x11, pins: 0x12345678 }))
    .toString('hex')
    .match(/.{16}/g)!;

/** The instructions before `mov r0, 0; exit`. */
const encoded = (program: Program): string[] =>
  bytesOf((a) => {
    program(a);
    a.mov(r0, 0);
    a.exit();
  }).slice(0, -2);

const CASES: Readonly<Record<string, readonly [Program, ...string[]]>> = {
  'mov r1, r2': [(a) => a.mov(r1, r2), 'bf21000000000000'],
  'mov r1, -1': [(a) => a.mov(r1, -1), 'b7010000ffffffff'],
  'add r3, r1': [(a) => a.alu('add', r3, r1), '0f13000000000000'],
  'sub r3, 8': [(a) => a.alu('sub', r3, 8), '1703000008000000'],
  'mul, div, or, and of 64 bits': [
    (a) => {
      a.alu('mul', r1, r2);
      a.alu('div', r1, 3);
      a.alu('or', r1, r2);
      a.alu('and', r1, 0xff);
    },
    '2f21000000000000',
    '3701000003000000',
    '4f21000000000000',
    '57010000ff000000',
  ],
  'shifts, xor, mod of 32 bits': [
    (a) => {
      a.alu32('shiftLeft', r1, 31);
      a.alu32('shiftRight', r1, 4);
      a.alu32('xor', r1, r2);
      a.alu32('mod', r1, 65_537);
    },
    '640100001f000000',
    '7401000004000000',
    'ac21000000000000',
    '9401000001000100',
  ],
  'a 32-bit immediate from 2^31 up': [(a) => a.alu32('add', r1, 0xdeadbeef), '04010000efbeadde'],
  'to network order': [
    (a) => {
      a.swapBytes(r1, 16);
      a.swapBytes(r1, 32);
      a.swapBytes(r1, 64);
    },
    'dc01000010000000',
    'dc01000020000000',
    'dc01000040000000',
  ],
  'loads of 1, 2, 4, 8 bytes': [
    (a) => {
      a.load(r2, memory(r1, 1, 1));
      a.load(r2, memory(r1, 2, 2));
      a.load(r2, memory(r1, 0x7fff, 4));
      a.load(r2, memory(r1, -0x8000, 8));
    },
    '7112010000000000',
    '6912020000000000',
    '6112ff7f00000000',
    '7912008000000000',
  ],
  'stores of registers and numbers': [
    (a) => {
      a.store(memory(r10, -1, 1), r2);
      a.store(memory(r10, -8, 8), r2);
      a.store(memory(r10, -4, 4), 0xffffffff);
      a.store(memory(r1, 2, 2), 0x1234);
    },
    '732affff00000000',
    '7b2af8ff00000000',
    '620afcffffffffff',
    '6a01020034120000',
  ],
  'atomics: add, fetch and add, compare and exchange': [
    (a) => {
      a.atomicAdd(memory(r1, 8, 8), r2);
      a.fetchAdd(memory(r1, 8, 4), r2);
      a.compareExchange(memory(r1, 8, 8), r2);
    },
    'db21080000000000',
    'c321080001000000',
    'db210800f1000000',
  ],
  'a map, by descriptor': [(a) => a.loadMap(r1, 'pins'), '1811000078563412', '0000000000000000'],
  'the value of an array map': [
    (a) => a.loadMapValue(r6, 'sessions', 40),
    '1826000011000000',
    '0000000028000000',
  ],
  '64 bits': [(a) => a.loadWide(r1, 0x8899_aabb_ccdd_eeffn), '18010000ffeeddcc', '00000000bbaa9988'],
  'a field of a record': [(a) => a.load(r1, field(r6, RECORD, 'ref')), '61610c0000000000'],
  'part of a field': [(a) => a.load(r1, part(field(r6, RECORD, 'count'), 4, 4)), '6161040000000000'],
  'a local, from the bottom of the frame': [
    (a) => a.store(new Frame(RECORD).at('port'), r1),
    '6b1af8ff00000000',
  ],
  'the address of a local': [
    (a) => a.addressOf(r2, new Frame(RECORD).at('ref')),
    'bfa2000000000000',
    '07020000fcffffff',
  ],
  'a call': [(a) => a.call(5), '8500000005000000'],
};

test.each(Object.entries(CASES))('%s', (_name, [program, ...bytes]) => {
  expect(encoded(program)).toEqual(bytes);
});

test('jumps count the instructions after the next, forwards and backwards', () => {
  const bytes = bytesOf((a) => {
    a.label('again');
    a.jumpIf(r1, '==', 0, 'end');
    a.jumpIf(r1, 'signed <', r2, 'again');
    a.jumpIf32(r1, 'has', 0x8000_0000, 'end');
    a.jumpIf32(r1, '<=', r2, 'again');
    a.jump('end');
    a.label('end');
    a.mov(r0, 0);
    a.exit();
  });
  expect(bytes).toEqual([
    '1501040000000000',
    'cd21feff00000000',
    '4601020000000080',
    'be21fcff00000000',
    '0500000000000000',
    'b700000000000000',
    '9500000000000000',
  ]);
});

test('a wide instruction counts as two', () => {
  const bytes = bytesOf((a) => {
    a.jumpIf(r1, '!=', 0, 'end');
    a.loadWide(r2, 1n);
    a.label('end');
    a.mov(r0, 0);
    a.exit();
  });
  expect(bytes[0]).toBe('5501020000000000');
});

test('a subprogram is called by its distance', () => {
  const bytes = bytesOf((a) => {
    a.callSubprogram('zero');
    a.exit();
    a.label('zero');
    a.mov(r0, 0);
    a.exit();
  });
  expect(bytes.slice(0, 2)).toEqual(['8510000001000000', '9500000000000000']);
});

test('a subprogram stands behind the program, whose address is loaded by its distance', () => {
  const program: Program = (a) => {
    a.subprogram('one', () => {
      a.mov(r0, 1);
      a.exit();
    });
    a.loadSubprogram(r2, 'one');
    a.mov(r0, 0);
    a.exit();
  };
  expect(bytesOf(program)).toEqual([
    '1842000003000000',
    '0000000000000000',
    'b700000000000000',
    '9500000000000000',
    'b700000001000000',
    '9500000000000000',
  ]);
  expect(assembled(program).functions).toEqual([
    { at: 0, name: 'program' },
    { at: 4, name: 'one' },
  ]);
});

test('in the frame of a register what is on the stack is found by it', () => {
  const inFrame = encoded((a) => {
    a.inFrame(r6, () => {
      a.load(r1, memory(r10, -8, 8));
      a.store(memory(r10, -8, 8), r1);
      a.addressOf(r2, memory(r10, -8, 8));
      a.atomicAdd(memory(r10, -8, 8), r1);
      a.load(r1, memory(r3, 0, 8));
    });
    a.load(r1, memory(r10, -8, 8));
  });
  expect(inFrame).toEqual([
    '7961f8ff00000000',
    '7b16f8ff00000000',
    'bf62000000000000',
    '07020000f8ffffff',
    'db16f8ff00000000',
    '7931000000000000',
    '79a1f8ff00000000',
  ]);
});

test('each instruction has the line that asked for it', () => {
  const { lines } = assembled((a) => {
    a.loadMap(r1, 'pins');
    a.mov(r0, 0);
    a.exit();
  });
  const [first, second, third, last] = lines().map((line) =>
    Number(/^assembler\.test\.ts:(\d+)$/.exec(line)?.[1]),
  );
  expect(second).toBe(first);
  expect(third).toBe(first! + 1);
  expect(last).toBe(first! + 2);
});

const MISTAKES: Readonly<Record<string, readonly [Program, RegExp]>> = {
  'writing r10': [(a) => a.mov(r10, 0), /r10 is read-only/],
  'an immediate beyond 32 bits': [
    (a) => a.mov(r1, 2 ** 31),
    /2147483648 does not fit into 32 bits with a sign/,
  ],
  'a fraction': [(a) => a.mov(r1, 0.5), /0\.5 does not fit/],
  'a shift by all bits': [(a) => a.alu32('shiftLeft', r1, 32), /a shift of 32 bits by 32/],
  'a division by 0': [(a) => a.alu('div', r1, 0), /division by 0/],
  'a load of 16 bytes': [(a) => a.load(r1, memory(r2, 0, 16)), /16 bytes can't be read/],
  'an offset beyond 16 bits': [(a) => a.load(r1, memory(r2, 0x8000, 1)), /32768 does not fit into 16 bits/],
  'a store above the stack': [(a) => a.store(memory(r10, -4, 8), r1), /bytes -4 to 3 of the stack/],
  'a store below the stack': [(a) => a.store(memory(r10, -520, 8), r1), /bytes -520 to -513 of the stack/],
  'an unaligned local': [
    (a) => a.load(r1, memory(r10, -12, 8)),
    /8 bytes at -12 of the stack, which is not aligned/,
  ],
  'an atomic on 2 bytes': [(a) => a.atomicAdd(memory(r1, 0, 2), r2), /atomic operation on 2 bytes/],
  'an unknown map': [(a) => a.loadMap(r1, 'flows' as 'pins'), /no map "flows"/],
  'a label twice': [
    (a) => {
      a.label('x');
      a.label('x');
    },
    /"x" is there already/,
  ],
  'a jump to nowhere': [(a) => a.jumpIf(r1, '==', 0, 'nowhere'), /no label "nowhere"/],
  'what nothing reaches': [
    (a) => {
      a.jump('end');
      a.mov(r1, 1);
      a.label('end');
    },
    /nothing reaches/,
  ],
  'a jump too far': [
    (a) => {
      a.jumpIf(r1, '==', 0, 'far');
      for (let i = 0; i < 0x8000; i++) a.mov(r1, 0);
      a.label('far');
    },
    /32768 instructions away/,
  ],
};

test.each(Object.entries(MISTAKES))('%s is refused, with the line', (_name, [program, problem]) => {
  const attempt = (): unknown => encoded(program);
  expect(attempt).toThrow(problem);
  expect(attempt).toThrow(/^assembler\.test\.ts:\d+: /);
});

test('a program without an end is refused', () => {
  expect(() => bytesOf((a) => a.mov(r0, 0))).toThrow(/the end is reached without an exit/);
});

test('a record with a number off its alignment is refused', () => {
  expect(() => struct({ a: U16, b: U32 })).toThrow(/b is at 2/);
});
