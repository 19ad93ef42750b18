/** Loops of programs (`loop` in program-frame.ts), run by the kernel. */
import { expect, test } from 'vitest';
import { assemble } from '../../relay/engines/kernel/assembler.ts';
import type { MapName } from '../../relay/engines/kernel/maps.ts';
import { r0, r1, r2 } from '../../relay/engines/kernel/memory.ts';
import { local, loop } from '../../relay/engines/kernel/program-frame.ts';
import { whereBpf } from './where-bpf.ts';

const PACKET = new Uint8Array(64);

whereBpf((bpf) => {
  /** What a program returns that adds up the numbers of its rounds in a local, and stops before the round `end`. */
  const sumOf = ({ most, end }: { most: number; end: number }): number => {
    const { link, functions } = assemble<MapName>([], (a) => {
      a.store(local('bytes'), 0);
      loop(a, { name: 'add up', most }, ({ stop }) => {
        a.jumpIf(r1, '>=', end, stop);
        a.load(r2, local('bytes'));
        a.alu('add', r2, r1);
        a.store(local('bytes'), r2);
      });
      a.load(r0, local('bytes'));
      a.exit();
    });
    const instructions = link({} as Record<MapName, number>);
    const program = bpf.loadProgram({ name: 'loop', instructions, functions });
    const { returned } = bpf.testRun(program, PACKET);
    bpf.closeFd(program);
    return returned;
  };

  test('a loop does all its rounds, counted from 0, with the program’s locals', () => {
    expect(sumOf({ most: 100, end: 1_000 })).toBe(4_950);
  });

  test('a loop ends where it is stopped', () => {
    expect(sumOf({ most: 100, end: 10 })).toBe(45);
  });
});
