/** The benchmark and the demo as an operator runs them, with as few players as make sense. */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { mainJobHolds } from '../../bench/command.ts';
import { ProcessGroup, tickrelay, type ManagedProcess } from '../../bench/process-group.ts';
import type { BenchResults } from '../../bench/results.ts';

const DEADLINE_MS = 120_000;

const DEMO = fileURLToPath(new URL('../../dist/bench/demo.js', import.meta.url));

/** Process ids of a process's own children, from the parent's id in /proc/PID/stat (proc(5), field 4). */
function childrenOf({ pid }: ManagedProcess): number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.filter((child) => parentOf(child) === pid).map(Number);
}

function parentOf(pid: string): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The program's name before it stands in parentheses and may hold anything.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return undefined;
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

let group: ProcessGroup;
let directory: string;
beforeEach(async () => {
  group = new ProcessGroup();
  directory = await mkdtemp(join(tmpdir(), 'tickrelay-bench-'));
});
afterEach(async () => {
  await group.close();
  await rm(directory, { recursive: true });
});

describe('tickrelay bench', () => {
  const start = (...args: string[]): ManagedProcess =>
    group.start(
      tickrelay('benchmark', [
        'bench',
        '--quick',
        '--players',
        '4',
        '--ladder',
        '4',
        '--out',
        directory,
        ...args,
      ]),
    );

  it(
    'measures both routes, the ladder, the payload and the session table, and writes both files',
    { timeout: DEADLINE_MS },
    async () => {
      const { code } = await start().ended(DEADLINE_MS);
      const results = JSON.parse(await readFile(join(directory, 'results.json'), 'utf8')) as BenchResults;
      expect(code).toBe(mainJobHolds(results) ? 0 : 1);
      expect(results.comparison.routes.map(({ name }) => name)).toEqual(['direct', 'relay (dgram)']);
      for (const run of [...results.comparison.runs, ...results.payload.runs]) {
        expect(run.sent).toBeGreaterThan(0);
        expect(run.answered).toBeGreaterThan(0);
        expect(run.wrongServer).toBe(0);
      }
      expect(results.comparison.runs[1]!.relay!.forwarded).toBeGreaterThan(0);
      expect(results.payload.rows.map(({ codec }) => codec)).toEqual(['binary', 'msgpack', 'json', 'http']);
      expect(results.payload.live.map(({ name }) => name)).toEqual(['binary', 'json']);
      expect(results.sessionTable.ratio).toBeGreaterThan(0);
      expect(await readFile(join(directory, 'report.html'), 'utf8')).toMatch(
        /^<!doctype html>[^]*<\/html>\n$/,
      );
    },
  );

  it('ends every process and exits with 130 at Ctrl-C', { timeout: DEADLINE_MS }, async () => {
    const bench = start();
    await expect.poll(() => childrenOf(bench).length, { timeout: DEADLINE_MS }).toBeGreaterThan(2);
    const children = childrenOf(bench);
    bench.signal('SIGINT');
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 130, signal: null });
    expect(children.filter(isRunning)).toEqual([]);
  });

  it('refuses a wrong flag before anything is started', async () => {
    const bench = start('--engine', 'dgram,warp');
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 2, signal: null });
    expect(bench.stderr).toContain('--engine takes a list of dgram, not "warp"');
  });
});

describe('the demo', () => {
  it('plays, prints one line a second and ends by itself', { timeout: DEADLINE_MS }, async () => {
    const demo = group.start({ name: 'demo', args: [DEMO, '--duration', '2s'] });
    expect(await demo.ended(DEADLINE_MS)).toEqual({ code: 0, signal: null });
    expect(demo.stderr).toBe('');
    expect(demo.stdout).toMatch(
      /10 players \(\d\+\d\+\d\) {2}[\d,]+ datagrams\/s {2}p50 \S+ µs {2}p99 \S+ µs {2}loss/,
    );
    expect(demo.stdout).toMatch(/updates sent, \S+ lost, 0 times a wrong server/);
  });

  it('ends cleanly at Ctrl-C, and so do its relay and game servers', { timeout: DEADLINE_MS }, async () => {
    const demo = group.start({ name: 'demo', args: [DEMO] });
    await expect.poll(() => demo.stdout, { timeout: DEADLINE_MS }).toContain('datagrams/s');
    const children = childrenOf(demo);
    expect(children).toHaveLength(4);
    demo.signal('SIGINT');
    expect(await demo.ended(DEADLINE_MS)).toEqual({ code: 0, signal: null });
    expect(children.filter(isRunning)).toEqual([]);
  });
});
