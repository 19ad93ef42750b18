/** Where the figures come from: the machine, the versions, and how busy its processors are. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, platform, release, totalmem, type } from 'node:os';
import { fileURLToPath } from 'node:url';
import { VERSION } from '../version.ts';
import type { Machine } from './results.ts';

/** The package's directory: above bench/ when run from source, above dist/bench/ when built. */
const PACKAGE = new URL(import.meta.url.endsWith('.ts') ? '..' : '../..', import.meta.url);

/** From this share of busy time before the load on, figures say little about the relay. */
export const SHARED_MACHINE = 0.25;

export function describeMachine(busyBefore: number): Machine {
  return {
    cpuModel: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    kernel: `${type()} ${release()}`,
    platform: `${platform()} ${process.arch}`,
    node: process.version,
    tickrelay: VERSION,
    commit: readCommit(),
    busyBefore,
  };
}

/** CPU time of the whole machine since boot, in ms, summed over its processors. */
export interface CpuTimes {
  readonly busyMs: number;
  readonly totalMs: number;
}

/** USER_HZ is 100 on every architecture that Node runs on. */
const TICK_MS = 10;

export function readCpuTimes(): CpuTimes {
  try {
    return parseCpuTimes(readFileSync('/proc/stat', 'utf8'));
  } catch {
    return portableCpuTimes();
  }
}

/**
 * Busy is user, nice, system and interrupt time, soft interrupts among it, in which the network does much of its work. Time
 * that a hypervisor gave to others is neither busy nor idle.
 *
 * @param text of /proc/stat (Linux, proc(5))
 */
export function parseCpuTimes(text: string): CpuTimes {
  const [user = 0, nice = 0, system = 0, idle = 0, ioWait = 0, irq = 0, softIrq = 0] = text
    .slice(0, text.indexOf('\n'))
    .split(/\s+/)
    .slice(1)
    .map(Number);
  const busyMs = TICK_MS * (user + nice + system + irq + softIrq);
  return { busyMs, totalMs: busyMs + TICK_MS * (idle + ioWait) };
}

/** Without soft interrupts. */
function portableCpuTimes(): CpuTimes {
  let busyMs = 0;
  let totalMs = 0;
  for (const { times } of cpus()) {
    const busy = times.user + times.nice + times.sys + times.irq;
    busyMs += busy;
    totalMs += busy + times.idle;
  }
  return { busyMs, totalMs };
}

/** The CPU time between two readings, and its share of what the machine has. */
export function cpuSpent(from: CpuTimes, to: CpuTimes): { readonly busyMs: number; readonly share: number } {
  const busyMs = to.busyMs - from.busyMs;
  return { busyMs, share: busyMs / Math.max(1, to.totalMs - from.totalMs) };
}

/**
 * UDP datagrams over IPv4 that found a full receive buffer since boot: RcvbufErrors of /proc/net/snmp (Linux,
 * net/ipv4/proc.c). Undefined elsewhere.
 */
export function readBufferOverflows(): number | undefined {
  try {
    const lines = readFileSync('/proc/net/snmp', 'utf8').split('\n');
    const [names = [], values = []] = lines
      .filter((line) => line.startsWith('Udp: '))
      .map((line) => line.split(' '));
    const value = values[names.indexOf('RcvbufErrors')];
    return value === undefined ? undefined : Number(value);
  } catch {
    return undefined;
  }
}

function readCommit(): string | undefined {
  try {
    const git = (...args: string[]): string =>
      execFileSync('git', args, {
        cwd: fileURLToPath(PACKAGE),
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim();
    const changed = git('status', '--porcelain', '--untracked-files=no') === '' ? '' : ' with local changes';
    return `${git('rev-parse', '--short=12', 'HEAD')}${changed}`;
  } catch {
    return undefined;
  }
}
