/** The process's limit of open descriptors: every upstream socket is one. */
import { RLIMIT, RLIMIT_NOFILE } from './abi.ts';
import { Arena } from './arena.ts';
import type { Libc } from './libc.ts';

/**
 * Raises the limit to at least `wanted`. The hard limit can be raised too by a process with CAP_SYS_RESOURCE; Node itself
 * has raised the soft limit to the hard one.
 *
 * @returns the limit in force, which may be less
 */
export function raiseDescriptorLimit(libc: Libc, wanted: number): number {
  const memory = new Arena(libc, 4096);
  const soft = RLIMIT.current >> 2;
  const hard = RLIMIT.maximum >> 2;
  try {
    libc.prlimit(0, RLIMIT_NOFILE, 0, memory.address);
    if (limitAt(memory, soft) >= wanted) return limitAt(memory, soft);
    const before = limitAt(memory, hard);
    for (const goal of [wanted, before]) {
      setLimit(memory, soft, Math.min(wanted, goal));
      setLimit(memory, hard, Math.max(before, goal));
      if (libc.prlimit(0, RLIMIT_NOFILE, memory.address, 0) === 0) break;
    }
    libc.prlimit(0, RLIMIT_NOFILE, 0, memory.address);
    return limitAt(memory, soft);
  } finally {
    memory.free();
  }
}

function limitAt({ u32 }: Arena, at: number): number {
  return u32[at]! + u32[at + 1]! * 2 ** 32;
}

function setLimit({ u32 }: Arena, at: number, value: number): void {
  u32[at] = value % 2 ** 32;
  u32[at + 1] = Math.floor(value / 2 ** 32);
}
