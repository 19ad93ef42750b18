/** A process in a network of its own, with nothing but loopback, beside the test's. The file systems are the same. */
import type { ProcessSpec } from '../../bench/process-group.ts';

export function inOtherNetwork(spec: ProcessSpec): ProcessSpec {
  const command = [spec.program ?? process.execPath, ...spec.args];
  const args = ['--net', '/bin/sh', '-c', 'ip link set lo up && exec "$0" "$@"', ...command];
  return { ...spec, program: 'unshare', args };
}
