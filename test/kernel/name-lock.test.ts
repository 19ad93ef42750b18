/** The lock on a relay's name, in a BPF file system of the test's own. */
import { readdirSync, rmdirSync } from 'node:fs';
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadLibc } from '../../net/linux/libc.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { takeName, takeNameOfDead } from '../../relay/engines/kernel/name-lock.ts';
import { BpfFileSystem } from '../support/bpffs.ts';

const unavailable = whyUnavailable();
const loaded = loadLibc();

if (unavailable !== undefined || 'unavailable' in loaded) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const { libc } = loaded;
  let bpffs: BpfFileSystem;
  let path: string;

  beforeEach(() => {
    bpffs = new BpfFileSystem();
    path = join(bpffs.path, 'tickrelay', 'one');
  });
  afterEach(() => bpffs.close());

  test('a name has one owner at a time, and is free after it', () => {
    const lock = takeName(libc, path)!;
    expect(takeName(libc, path)).toBeUndefined();
    expect(takeNameOfDead(libc, path)).toBeUndefined();
    const other = takeName(libc, join(bpffs.path, 'tickrelay', 'two'))!;
    other.release();
    lock.release();
    const next = takeNameOfDead(libc, path)!;
    expect(takeName(libc, path)).toBeUndefined();
    next.release();
  });

  test('a relay that left nothing can’t be locked as a dead one', () => {
    expect(takeNameOfDead(libc, path)).toBeUndefined();
    expect(readdirSync(bpffs.path)).not.toContain('tickrelay');
  });

  test('a directory that was removed and made anew is another one', () => {
    const before = takeName(libc, path)!;
    rmdirSync(path);
    const after = takeName(libc, path)!;
    expect(takeName(libc, path)).toBeUndefined();
    before.release();
    expect(takeName(libc, path)).toBeUndefined();
    after.release();
  });

  test('where nothing can be written the error says so, and what helps', () => {
    execFileSync('mount', ['-o', 'remount,ro', bpffs.path]);
    expect(() => takeName(libc, path)).toThrow(
      expect.objectContaining({
        code: 'TICKRELAY_ERR_ENGINE',
        message: expect.stringMatching(/can't make or open .*kernel\.bpffs to none/) as string,
      }),
    );
  });

  test('a child of the owner does not have the lock', () => {
    const lock = takeName(libc, path)!;
    const { stdout } = spawnSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
    expect(stdout).toContain('/proc/');
    expect(stdout).not.toContain(path);
    lock.release();
  });
}
