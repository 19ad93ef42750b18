/**
 * One processor for the relay or peer, all others for players and game servers (taskset, util-linux): what one relay worker
 * carries on one processor, with nobody else on it.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { ProcessSpec } from './process-group.ts';
import { limitToShare } from './relay-share.ts';
import type { Pinning } from './results.ts';

/** @returns why processes can't be pinned here, or how they are */
export function choosePinning(): Pinning | { readonly unavailable: string } {
  const [relayCpu, ...loadCpus] = allowedCpus();
  if (relayCpu === undefined || loadCpus.length === 0) {
    return { unavailable: 'it needs Linux and two processors' };
  }
  const { status } = spawnSync('taskset', ['-c', `${relayCpu}`, 'true'], { stdio: 'ignore' });
  return status === 0 ? { relayCpu, loadCpus } : { unavailable: 'it needs taskset, of util-linux' };
}

/** The spec on these processors only, or as it is where there are none. taskset becomes the program: the pid stays. */
export function pinned(spec: ProcessSpec, cpus: readonly number[] | undefined): ProcessSpec {
  if (cpus === undefined) return spec;
  return {
    ...spec,
    program: 'taskset',
    args: ['-c', cpus.join(','), spec.program ?? process.execPath, ...spec.args],
  };
}

/**
 * Moves a running process with all its threads to these processors. Programs that start together start faster on all
 * processors, and are pinned when they are ready.
 */
export function pinRunning(pid: number | undefined, cpus: readonly number[] | undefined): void {
  if (pid === undefined || cpus === undefined) return;
  spawnSync('taskset', ['-a', '-c', '-p', cpus.join(','), `${pid}`], { stdio: 'ignore' });
}

/** Moves a running relay or peer to its processor, and bounds it to its share. @throws RelayError TICKRELAY_ERR_LOAD */
export function confineRelay(pid: number | undefined, pinning: Pinning | undefined): void {
  if (pid === undefined || pinning === undefined) return;
  pinRunning(pid, [pinning.relayCpu]);
  if (pinning.relayShare !== undefined) limitToShare(pid, pinning.relayShare);
}

/** What a report says of a relay's processor: its number, and how much of it. */
export function describeRelayCpu({ relayCpu, relayShare }: Pinning): string {
  return relayShare === undefined ? `${relayCpu}` : `${relayCpu} (${relayShare} % of it)`;
}

/** Processors of a list like `0-3,8`, as the kernel writes it. */
export function parseCpuList(list: string): number[] {
  return [...list.matchAll(/(\d+)(?:-(\d+))?/g)].flatMap(([, from, to = from]) => {
    const [first, last] = [Number(from), Number(to)];
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/** Those that this process may run on; none outside Linux. */
function allowedCpus(): number[] {
  try {
    const status = readFileSync('/proc/self/status', 'utf8');
    return parseCpuList(/^Cpus_allowed_list:\s*(\S+)/m.exec(status)?.[1] ?? '');
  } catch {
    return [];
  }
}
