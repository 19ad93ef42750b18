/**
 * How much the kernel's verifier has to follow until it takes a program: it is most of the time that a start takes, and kernels give
 * up at a million instructions.
 */
import { expect, test } from 'vitest';
import { BPF_PROG_INFO } from '../../net/linux/abi.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import type { ProgramName } from '../../relay/engines/kernel/program.ts';
import { LINK_HEADERS, loadProgram } from '../../relay/engines/kernel/programs.ts';
import { closing } from './packet-rig.ts';
import { whereBpf } from './where-bpf.ts';

/** Some 0.1 s; other kernels' verifiers follow more or less than this one's. */
const MOST_INSTRUCTIONS = 60_000;

const PROGRAMS: readonly ProgramName[] = [
  'ingress',
  'egress',
  'steward',
  'tcp_ingress',
  'tcp_egress',
  'tcp_ingress_error',
  'tcp_egress_error',
  'tcp_steward',
];

whereBpf((bpf) => {
  const maps = closing(KernelMaps.create(bpf, { maxSessions: 64, maxPools: 2 }));

  const cases = PROGRAMS.flatMap((hook) =>
    LINK_HEADERS.map((linkHeaderBytes) => ({ hook, linkHeaderBytes })),
  );
  test.each(cases)(
    '$hook with $linkHeaderBytes bytes of link header is far from what a verifier refuses',
    (options) => {
      const program = loadProgram(bpf, maps, options);
      const instructions = bpf.info(program).getUint32(BPF_PROG_INFO.verifiedInstructions, true);
      bpf.closeFd(program);
      expect(instructions).toBeGreaterThan(0);
      expect(instructions).toBeLessThan(MOST_INSTRUCTIONS);
    },
  );
});
