/**
 * One relay of a name at a time: its maps and links have one owner. The lock is an flock(2) on the relay's directory in the BPF
 * file system, so that it reaches as far as what it guards: into every network namespace and container that has the file system.
 * The system lets go of it with the process, however that ends.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, statSync } from 'node:fs';
import { EAGAIN, LOCK_EX, LOCK_NB } from '../../../net/linux/abi.ts';
import { errnoName, type Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';

/** A directory that is removed at the moment in which it is locked is looked for again; so often at most. */
const ATTEMPTS = 100;

/** Another relay that looks for dead ones has the lock for well under a millisecond: so often is tried, with so many ms between. */
const TRIALS = 3;
const TRIAL_PAUSE_MS = 20;

export interface NameLock {
  release(): void;
}

/**
 * @param path the relay's directory, which is made
 * @returns the lock, or undefined when another process has it
 * @throws RelayError TICKRELAY_ERR_ENGINE
 */
export function takeName(libc: Libc, path: string): NameLock | undefined {
  for (let trial = 1; ; trial++) {
    const lock = makeAndLock(libc, path);
    if (lock !== undefined || trial === TRIALS) return lock;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, TRIAL_PAUSE_MS);
  }
}

/** The same for a relay that may have left something. @returns undefined also when the directory is not there */
export function takeNameOfDead(libc: Libc, path: string): NameLock | undefined {
  const locked = lockDirectory(libc, path);
  return locked === 'gone' ? undefined : locked;
}

function makeAndLock(libc: Libc, path: string): NameLock | undefined {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    // Nothing in it yet: else its owner could not remove it.
    try {
      mkdirSync(path, { recursive: true });
    } catch (error) {
      throw unusable(path, error);
    }
    const locked = lockDirectory(libc, path);
    if (locked !== 'gone') return locked;
  }
  throw new RelayError('TICKRELAY_ERR_ENGINE', `can't lock ${path}: it is removed again and again`);
}

function lockDirectory(libc: Libc, path: string): NameLock | 'gone' | undefined {
  // Node opens with O_CLOEXEC, so that no child keeps the lock.
  const fd = openDirectory(path);
  if (fd === undefined) return 'gone';
  if (libc.flock(fd, LOCK_EX | LOCK_NB) === -1) {
    const errno = libc.errno();
    closeSync(fd);
    if (errno === EAGAIN) return undefined;
    throw new RelayError('TICKRELAY_ERR_ENGINE', `can't lock ${path}: ${errnoName(errno)}`);
  }
  // Its owner may have removed it between the two calls, and a third one made it anew.
  if (statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino)
    return { release: () => closeSync(fd) };
  closeSync(fd);
  return 'gone';
}

function openDirectory(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw unusable(path, error);
  }
}

function unusable(path: string, error: unknown): RelayError {
  const { code, message } = error as NodeJS.ErrnoException;
  return new RelayError(
    'TICKRELAY_ERR_ENGINE',
    `can't make or open ${path} (${code ?? message}); the relay's user must be able to write to the BPF file system: run as root, ` +
      'or mount one for it and name that (kernel.bpffs), or set kernel.bpffs to none',
  );
}
