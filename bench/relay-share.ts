/**
 * Less than a whole processor for the relay or peer, by the quota of a control group (Linux, as root), so that the relay is at its
 * limit before the players and game servers that load it: they share the other processors, and would else end every search.
 *
 * Every relay gets 1 ms of processor time, the least quota there is, in each period of 1 ms x 100 / percent. The work of the kernel that a relay's
 * own sends and receives cause counts as its time; what players' and servers' sends do on its behalf counts as theirs, for all relays alike.
 */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RelayError } from '../net/relay-error.ts';

const CGROUPS = '/sys/fs/cgroup';
const QUOTA_US = 1_000;
/** A group that processes have just left may stay in use for a moment. */
const REMOVAL_TRIES = 50;
const REMOVAL_PAUSE_MS = 10;

/** Where groups with a quota are made, and the files that set it, in the order in which they are written. */
export interface ShareHome {
  readonly directory: string;
  readonly settings: (periodUs: number) => readonly (readonly [file: string, value: string])[];
}

/** @returns where a quota can be had, by version 2 of control groups or by version 1, or why it can't */
export function findShareHome(root = CGROUPS): ShareHome | { readonly unavailable: string } {
  const control = join(root, 'cgroup.subtree_control');
  if (existsSync(control) && readFileSync(control, 'utf8').split(/\s+/).includes('cpu')) {
    return { directory: root, settings: (periodUs) => [['cpu.max', `${QUOTA_US} ${periodUs}`]] };
  }
  const directory = join(root, 'cpu');
  if (existsSync(join(directory, 'cpu.cfs_quota_us'))) {
    return {
      directory,
      settings: (periodUs) => [
        ['cpu.cfs_period_us', `${periodUs}`],
        ['cpu.cfs_quota_us', `${QUOTA_US}`],
      ],
    };
  }
  return { unavailable: 'it needs Linux with the cpu controller of control groups' };
}

/**
 * Gives a process and its children this share of a processor together, until they end. The group is removed when this process ends.
 *
 * @throws RelayError TICKRELAY_ERR_LOAD
 */
export function limitToShare(pid: number, percent: number, home = findShareHome()): void {
  if ('unavailable' in home) throw new RelayError('TICKRELAY_ERR_LOAD', home.unavailable);
  const group = join(home.directory, `tickrelay-bench-${pid}`);
  try {
    mkdirSync(group);
    process.once('exit', () => removeGroup(group));
    for (const [file, value] of home.settings(Math.round((QUOTA_US * 100) / percent)))
      writeFileSync(join(group, file), value);
    for (const process of [pid, ...childrenOf(pid)]) writeFileSync(join(group, 'cgroup.procs'), `${process}`);
  } catch (cause) {
    throw new RelayError(
      'TICKRELAY_ERR_LOAD',
      `no share of a processor for process ${pid}: ${(cause as Error).message}`,
      {
        cause,
      },
    );
  }
}

function childrenOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return children.split(' ').filter(Boolean).map(Number);
}

function removeGroup(group: string): void {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let tries = 0; tries < REMOVAL_TRIES; tries++) {
    try {
      rmdirSync(group);
      return;
    } catch {
      Atomics.wait(pause, 0, 0, REMOVAL_PAUSE_MS);
    }
  }
}
