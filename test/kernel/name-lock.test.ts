/** The lock on a relay's name, in a BPF file system of the test's own. */
import { mkdirSync, readdirSync, rmdirSync } from 'node:fs';
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Libc, loadLibc } from '../../net/linux/libc.ts';
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

  test('a relay that looks for dead ones at that moment does not keep another from its name', () => {
    const looking = takeName(libc, path)!;
    let locks = 0;
    const later: Libc = {
      ...libc,
      flock: (fd, operation) => {
        if (++locks === 2) looking.release();
        return libc.flock(fd, operation);
      },
    };
    const lock = takeName(later, path);
    expect(lock).toBeDefined();
    expect(takeName(libc, path)).toBeUndefined();
    lock!.release();
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

  describe('a directory that its owner removes between opening and locking', () => {
    /** System calls before whose first locks the directory changes. */
    const racing = (change: () => void, locks = 1): Libc => ({
      ...libc,
      flock: (fd, operation) => {
        if (locks-- > 0) change();
        return libc.flock(fd, operation);
      },
    });
    const replace = (): void => {
      rmdirSync(path);
      mkdirSync(path);
    };

    test.each([
      ['is made anew', () => rmdirSync(path)],
      ['and that another one makes anew is locked as the other one’s', replace],
    ])('%s', (_what, change) => {
      const lock = takeName(racing(change), path)!;
      expect(takeName(libc, path)).toBeUndefined();
      lock.release();
      takeName(libc, path)!.release();
    });

    test.each([
      ['is nobody’s', () => rmdirSync(path)],
      ['and that another one makes anew is not the dead relay’s', replace],
    ])('%s, when it is asked for as a dead relay’s', (_what, change) => {
      takeName(libc, path)!.release();
      expect(takeNameOfDead(racing(change), path)).toBeUndefined();
    });

    test('again and again is an error that says so', () => {
      expect(() => takeName(racing(replace, Infinity), path)).toThrow(
        expect.objectContaining({
          code: 'TICKRELAY_ERR_ENGINE',
          message: `can't lock ${path}: it is removed again and again`,
        }),
      );
    });
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
