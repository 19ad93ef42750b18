/** The runs of the benchmark that need namespaces of their own or the kernel engine, as an operator runs them, but small. */
import { execFileSync } from 'node:child_process';
import { readFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { LatencyResults } from '../../bench/latency/latency-results.ts';
import { whyNoNamespaces } from '../../bench/network-bed.ts';
import { type ManagedProcess, ProcessGroup, tickrelay } from '../../bench/process-group.ts';
import type { BenchResults } from '../../bench/results.ts';
import type { ScaleResults } from '../../bench/scale/scale-results.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';

const DEADLINE_MS = 240_000;
const unavailable = whyUnavailable() ?? whyNoNamespaces();

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
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

  const start = (...args: string[]): ManagedProcess =>
    group.start(tickrelay('benchmark', ['bench', '--quick', '--out', directory, ...args]));
  const readJson = async (name: string): Promise<unknown> =>
    JSON.parse(await readFile(join(directory, name), 'utf8'));
  const namespacesOf = ({ pid }: ManagedProcess): string[] =>
    execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => line.startsWith(`tickrelay-${pid}-`));

  test(
    'across namespaces every route carries the players, and no namespace stays',
    { timeout: DEADLINE_MS },
    async () => {
      const bench = start('--netns', '--players', '4', '--ladder', '4', '--engine', 'kernel,mmsg');
      const { code } = await bench.ended(DEADLINE_MS);
      expect(code, bench.stderr).not.toBe(2);
      const { comparison, routes } = (await readJson('results.json')) as BenchResults;
      expect(routes.map(({ name }) => name)).toEqual(['direct', 'kernel', 'mmsg']);
      for (const { route, sent, answered, wrongServer, relay } of comparison.runs) {
        expect(sent).toBeGreaterThan(0);
        expect(answered).toBeGreaterThan(0);
        expect(wrongServer).toBe(0);
        if (route !== 'direct') expect(relay!.forwarded).toBeGreaterThan(0);
      }
      expect(namespacesOf(bench)).toEqual([]);
    },
  );

  test('Ctrl-C leaves no namespace behind', { timeout: DEADLINE_MS }, async () => {
    const bench = start('--netns', '--players', '4', '--engine', 'kernel');
    await expect.poll(() => bench.stderr, { timeout: DEADLINE_MS }).toContain('round 1');
    expect(namespacesOf(bench)).toHaveLength(4);
    bench.signal('SIGINT');
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 130, signal: null });
    expect(namespacesOf(bench)).toEqual([]);
  });

  test.each([[[]], [['--netns']]])(
    'round trips with one datagram in flight are taken through every route: %j',
    { timeout: DEADLINE_MS },
    async (flags) => {
      const bench = start('--latency', '--engine', 'kernel,mmsg', ...flags);
      expect(await bench.ended(DEADLINE_MS), bench.stderr).toEqual({ code: 0, signal: null });
      const { routes, runs } = (await readJson('latency.json')) as LatencyResults;
      expect(routes.map(({ name }) => name)).toEqual(['direct', 'kernel', 'mmsg']);
      expect(runs).toHaveLength(3);
      for (const { answered, p50, p99 } of routes) {
        expect(answered).toBeGreaterThan(0);
        expect(p50).toBeGreaterThan(0);
        expect(p99).toBeGreaterThanOrEqual(p50);
      }
      expect(bench.stdout).toContain('over direct');
    },
  );

  test('sessions by the ten thousand are held, opened and swept', { timeout: DEADLINE_MS }, async () => {
    const bench = start('--scale', '10000');
    expect(await bench.ended(DEADLINE_MS), bench.stderr).toEqual({ code: 0, signal: null });
    const { lanes, churn, sweeps } = (await readJson('scale.json')) as ScaleResults;
    expect(lanes.map(({ held }) => held)).toEqual([0, 0, 1_000, 10_000, 10_000]);
    for (const { sent, lost } of lanes) expect(lost).toBeLessThan(sent);
    expect(churn.opened).toBeGreaterThan(10_000);
    expect(churn.evicted).toBe(0);
    expect(sweeps.map(({ walk, due }) => `${walk} ${due}`)).toEqual([
      'sessions none',
      'pins none',
      'sessions all',
      'reverse all',
      'pins all',
    ]);
    expect(namespacesOf(bench)).toEqual([]);
    expect(await readFile(join(directory, 'scale.html'), 'utf8')).toContain('sessions by the million');
  });

  test.each([
    [['--netns', '--tcp'], "--netns can't be had with --tcp"],
    [['--scale', '20000', '--latency'], '--scale and --latency are two runs'],
    [['--scale', '9'], '--scale takes an integer from 10000'],
  ])('refuses %j before anything is started', async (flags, problem) => {
    const bench = start(...flags);
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 2, signal: null });
    expect(bench.stderr).toContain(problem);
  });
}
