import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { describeRelayCpu } from '../../../bench/pinning.ts';
import { findShareHome, limitToShare, type ShareHome } from '../../../bench/relay-share.ts';

const roots: string[] = [];
const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  for (const root of roots.splice(0)) rmSync(root, { recursive: true });
});

/** A directory that stands for /sys/fs/cgroup. */
function fakeRoot(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(tmpdir(), 'tickrelay-cgroup-'));
  roots.push(root);
  mkdirSync(join(root, 'cpu'));
  for (const [file, text] of Object.entries(files)) writeFileSync(join(root, file), text);
  return root;
}

it('sets the quota in one file where version 2 of control groups has the processors', () => {
  const root = fakeRoot({ 'cgroup.subtree_control': 'cpuset cpu io memory\n' });
  const home = findShareHome(root) as ShareHome;
  expect(home.directory).toBe(root);
  expect(home.settings(4_000)).toEqual([['cpu.max', '1000 4000']]);
});

it('sets period and quota where version 1 has them, also beside a version 2 without', () => {
  const root = fakeRoot({ 'cgroup.subtree_control': 'memory\n', 'cpu/cpu.cfs_quota_us': '-1\n' });
  const home = findShareHome(root) as ShareHome;
  expect(home.directory).toBe(join(root, 'cpu'));
  expect(home.settings(2_000)).toEqual([
    ['cpu.cfs_period_us', '2000'],
    ['cpu.cfs_quota_us', '1000'],
  ]);
});

it('says what is missing where neither is there', () => {
  expect(findShareHome(fakeRoot({}))).toEqual({
    unavailable: 'it needs Linux with the cpu controller of control groups',
  });
});

it('writes the quota for the percentage, and puts the process and its children into the group', async () => {
  const root = fakeRoot({ 'cgroup.subtree_control': 'cpu' });
  const child = spawn('sh', ['-c', 'sleep 60 & echo up; wait'], { stdio: ['ignore', 'pipe', 'ignore'] });
  children.push(child);
  await once(child.stdout, 'data');
  const [, ...rest] = [child.pid!, ...readChildren(child.pid!)];
  limitToShare(child.pid!, 25, findShareHome(root));
  const [group] = readdirSync(root).filter((name) => name.startsWith('tickrelay-bench-')) as [string];
  expect(readFileSync(join(root, group, 'cpu.max'), 'utf8')).toBe('1000 4000');
  // A plain file keeps the last process that was written to it.
  expect(readFileSync(join(root, group, 'cgroup.procs'), 'utf8')).toBe(`${rest[0]}`);
  process.kill(rest[0]!, 'SIGKILL');
});

function readChildren(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
}

it('names the process where the group can not be made', () => {
  const home = { directory: join(fakeRoot({}), 'absent'), settings: () => [] };
  expect(() => limitToShare(process.pid, 25, home)).toThrow(
    `no share of a processor for process ${process.pid}: ENOENT`,
  );
});

it('is part of what a report says of the processor', () => {
  expect(describeRelayCpu({ relayCpu: 0, loadCpus: [1] })).toBe('0');
  expect(describeRelayCpu({ relayCpu: 0, loadCpus: [1], relayShare: 25 })).toBe('0 (25 % of it)');
});
