/**
 * How much the kernel's verifier has to follow until it takes a program: it is most of the time that a start takes, and kernels give
 * up at a million instructions.
 */
import { afterAll, expect, test } from 'vitest';
import { BPF_PROG_INFO } from '../../net/linux/abi.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { Bpf } from '../../relay/engines/kernel/loader.ts';
import type { ProgramName } from '../../relay/engines/kernel/program.ts';
import { LINK_HEADERS, loadProgram } from '../../relay/engines/kernel/programs.ts';

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

const unavailable = whyUnavailable();
const loaded = loadLibc();

if (unavailable !== undefined || 'unavailable' in loaded) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const bpf = new Bpf(loaded.libc);
  const maps = KernelMaps.create(bpf, { maxSessions: 64, maxPools: 2 });
  afterAll(() => {
    maps.close();
    bpf.close();
  });

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
}
