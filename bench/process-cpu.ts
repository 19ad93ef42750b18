/**
 * CPU time of a process with its children and threads, from /proc (Linux, proc(5)): the same instrument for relays and
 * peers, and reading it costs the process nothing. A reading before the load and one after it leave its start out.
 *
 * The total is the scheduler's, in ns, summed over threads (/proc/PID/task/TID/schedstat). Only the division into user and
 * system time is in the kernel's ticks of 10 ms (/proc/PID/stat).
 */
import { readdirSync, readFileSync } from 'node:fs';
import type { ProcessCpu } from './results.ts';

/** USER_HZ is 100 on every architecture that Node runs on. */
const TICK_US = 10_000;

interface ProcessStat {
  readonly parent: number;
  readonly userUs: number;
  readonly systemUs: number;
}

/** @returns what `pid` and its descendants used since they started; undefined where /proc does not say */
export function readProcessCpu(pid: number): ProcessCpu | undefined {
  const stats = readStats();
  const root = stats.get(pid);
  if (root === undefined) return undefined;
  let totalUs = 0;
  let userUs = 0;
  let systemUs = 0;
  for (const [each, stat] of stats) {
    if (!isWithin(each, pid, stats)) continue;
    totalUs += readScheduledUs(each) ?? stat.userUs + stat.systemUs;
    userUs += stat.userUs;
    systemUs += stat.systemUs;
  }
  return { totalUs, userUs, systemUs };
}

/** What was used between two readings. */
export function processCpuBetween(from: ProcessCpu, to: ProcessCpu): ProcessCpu {
  return {
    totalUs: to.totalUs - from.totalUs,
    userUs: to.userUs - from.userUs,
    systemUs: to.systemUs - from.systemUs,
  };
}

function isWithin(pid: number, ancestor: number, stats: ReadonlyMap<number, ProcessStat>): boolean {
  for (let at: number | undefined = pid; at !== undefined; at = stats.get(at)?.parent) {
    if (at === ancestor) return true;
  }
  return false;
}

/** Every process of the machine; none outside Linux. */
function readStats(): Map<number, ProcessStat> {
  const stats = new Map<number, ProcessStat>();
  for (const name of list('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const text = read(`/proc/${name}/stat`);
    if (text === undefined) continue;
    // Field 2, the program's name in parentheses, may hold anything; field 3 is the first after it.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    const field = (number: number): number => Number(fields[number - 3]);
    stats.set(Number(name), {
      parent: field(4),
      userUs: TICK_US * field(14),
      systemUs: TICK_US * field(15),
    });
  }
  return stats;
}

/** Time on a processor of every thread that lives. Undefined in a kernel without CONFIG_SCHED_INFO. */
function readScheduledUs(pid: number): number | undefined {
  let us = 0;
  for (const thread of list(`/proc/${pid}/task`)) {
    const text = read(`/proc/${pid}/task/${thread}/schedstat`);
    if (text === undefined) return undefined;
    us += Number(text.split(' ')[0]) / 1e3;
  }
  return us;
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** Undefined where it is not there, or the process ended meanwhile. */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
