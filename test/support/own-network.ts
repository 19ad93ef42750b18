/** A network namespace for one test file, so that a test may have addresses and links of its own. Gone with the process. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import type * as Koffi from 'koffi';
import { loadLibc } from '../../net/linux/libc.ts';

const CLONE_NEWNET = 0x4000_0000;

/**
 * Moves this thread, and the threads and processes that it starts from now on, into a new network namespace with nothing
 * but loopback, and runs `ip` with each line of `commands` there. vitest gives each test file a process of its own.
 *
 * @returns why it can't be done here, or undefined when it was
 */
export function enterOwnNetwork(commands: readonly string[]): string | undefined {
  const loaded = loadLibc();
  if ('unavailable' in loaded) return loaded.unavailable;
  if (spawnSync('ip', ['-V']).status !== 0) return 'there is no program ip (iproute2)';
  const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
  const unshare = koffi.load(null).func('int unshare(int)') as (flags: number) => number;
  if (unshare(CLONE_NEWNET) === -1) return 'a network namespace needs CAP_SYS_ADMIN';
  for (const command of ['link set lo up', ...commands]) {
    const { status, stderr } = spawnSync('ip', command.split(' '), { encoding: 'utf8' });
    assert.equal(status, 0, `ip ${command}: ${stderr}`);
  }
  return undefined;
}
