/** The benchmark and the demo as an operator runs them, with as few players as make sense. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { postgresPrograms } from '../../bench/postgres-cluster.ts';
import { ProcessGroup, tickrelay, type ManagedProcess } from '../../bench/process-group.ts';
import type {
  BenchResults,
  MostPlayersResults,
  SessionLoadResults,
  SoakResults,
} from '../../bench/results.ts';
import { WORKLOADS, type TcpResults } from '../../bench/tcp/tcp-results.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';

const DEADLINE_MS = 240_000;

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
    group.start(tickrelay('benchmark', ['bench', '--out', directory, ...args]));
  const readJson = async (name: string): Promise<unknown> =>
    JSON.parse(await readFile(join(directory, name), 'utf8'));

  it(
    'compares every engine and installed peer, and writes both files',
    { timeout: DEADLINE_MS },
    async () => {
      const bench = start(
        ...['--quick', '--peers', 'auto', '--players', '4', '--loads', '4,8'],
        ...['--ladder', '8', '--dial', '0,200'],
      );
      const { code } = await bench.ended(DEADLINE_MS);
      const results = (await readJson('results.json')) as BenchResults;
      // What the exit code says, counted here from the single runs.
      const own = results.comparison.runs.filter(
        ({ route, players }) => ['kernel', 'mmsg', 'dgram'].includes(route) && players === 4,
      );
      const isGood = own.every(({ lost, wrongServer }) => lost === 0 && wrongServer === 0);
      expect(own.length).toBeGreaterThanOrEqual(2);
      expect(code).toBe(isGood ? 0 : 1);

      const names = results.routes.map(({ name }) => name);
      const peers = hasNginx() ? ['nginx'] : [];
      const kernel = whyUnavailable() === undefined ? ['kernel'] : [];
      expect(names).toEqual(['direct', ...kernel, 'mmsg', 'dgram', ...peers]);
      expect(results.absent.map(({ name }) => name)).toEqual(hasNginx() ? [] : ['nginx']);
      expect(results.comparison.runs.map(({ route }) => route)).toEqual([...names, ...names]);
      expect(results.comparison.loads.map(({ players }) => players)).toEqual([4, 8]);
      for (const { route, processCpu, sent, answered, wrongServer } of results.comparison.runs) {
        expect(sent).toBeGreaterThan(0);
        expect(answered).toBeGreaterThan(0);
        expect(wrongServer).toBe(0);
        if (route !== 'direct') expect(processCpu!.totalUs).toBeGreaterThan(0);
      }
      expect(results.comparison.runs[1]!.relay!.forwarded).toBeGreaterThan(0);
      expect(results.comparison.loads[0]!.standings.map(({ figure }) => figure)).toContain('process CPU');
      expect(results.ladders.map(({ route }) => route)).toEqual(names);
      expect(results.dial.settings.map(({ name }) => name)).toEqual([
        'mmsg --coalesce 0',
        'mmsg --coalesce 200',
      ]);
      expect(results.payload.rows.map(({ codec }) => codec)).toEqual(['binary', 'msgpack', 'json', 'http']);
      expect(results.sessionTable.batched.ratio).toBeGreaterThan(0);
      expect(await readFile(join(directory, 'report.html'), 'utf8')).toMatch(
        /^<!doctype html>[^]*<\/html>\n$/,
      );
    },
  );

  it(
    'goes on without a peer that does not start, says why, climbs, and plays with two encodings',
    { timeout: DEADLINE_MS },
    async () => {
      const bench = group.start({
        ...tickrelay('benchmark', [
          ...['bench', '--players', '4', '--rounds', '1', '--loads', '4', '--ladder', '8'],
          ...['--out', directory, '--engine', 'dgram', '--peers', 'nginx', '--no-pin'],
        ]),
        env: { PATH: await pathWithBrokenNginx() },
      });
      await bench.ended(DEADLINE_MS);
      const results = (await readJson('results.json')) as BenchResults;
      expect(results.routes.map(({ name }) => name)).toEqual(['direct', 'dgram']);
      expect(results.absent).toEqual([
        { name: 'nginx', reason: expect.stringContaining('this nginx is broken') as string },
      ]);
      expect(results.ladders.map(({ route }) => route)).toEqual(['direct', 'dgram']);
      for (const { steps } of results.ladders) expect(steps.map(({ run }) => run.players)).toContain(8);
      expect(results.payload.live.map(({ name }) => name)).toEqual(['binary', 'json']);
    },
  );

  it(
    'soaks one engine: samples of memory and descriptors, and every update answered',
    { timeout: DEADLINE_MS },
    async () => {
      const bench = start('--soak', '20s', '--players', '20', '--engine', 'mmsg');
      const { code } = await bench.ended(DEADLINE_MS);
      const { run, samples, growth, route } = (await readJson('soak.json')) as SoakResults;
      expect(route.name).toBe('mmsg');
      expect(run.sent).toBeGreaterThan(0);
      expect(run).toMatchObject({ lost: 0, wrongServer: 0 });
      expect(code).toBe(0);
      expect(samples.length).toBeGreaterThan(5);
      for (const { residentBytes, openDescriptors } of samples) {
        expect(residentBytes).toBeGreaterThan(0);
        expect(openDescriptors).toBeGreaterThan(0);
      }
      expect(growth).toMatchObject({ isFlat: true });
      expect(bench.stdout).toContain('Resident memory went from');
      expect(await readFile(join(directory, 'soak.html'), 'utf8')).toContain('tickrelay soak');
    },
  );

  it('opens sessions and says what they cost the relay process', { timeout: DEADLINE_MS }, async () => {
    const bench = start('--sessions', '300', '--engine', 'mmsg');
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 0, signal: null });
    const { before, during, addresses } = (await readJson('sessions.json')) as SessionLoadResults;
    expect([before.liveSessions, during.liveSessions, addresses]).toEqual([0, 300, 20]);
    // They play on two servers, and two sessions on different servers may share a socket.
    expect(during.upstreamSockets - before.upstreamSockets).toBeGreaterThanOrEqual(150);
    expect(during.openDescriptors! - before.openDescriptors!).toBeGreaterThanOrEqual(150);
    expect(during.residentBytes).toBeGreaterThan(0);
    expect(bench.stdout).toContain('All 300 sessions were answered and live at once');
    expect(await readFile(join(directory, 'sessions.html'), 'utf8')).toContain('live sessions');
  });

  it('searches for the most players of each route', { timeout: DEADLINE_MS }, async () => {
    const bench = start('--most', '4', '--engine', 'dgram', '--peers', 'none');
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 0, signal: null });
    const { carried, top } = (await readJson('most-players.json')) as MostPlayersResults;
    expect(top).toBe(4);
    expect(carried.map(({ route }) => route.name)).toEqual(['direct', 'dgram']);
    for (const { runs } of carried) expect(runs.map(({ players }) => players)).toContain(4);
    expect(bench.stdout).toContain('The most players of each route');
    expect(await readFile(join(directory, 'most-players.html'), 'utf8')).toContain('the most players');
  });

  it('ends every process and exits with 130 at Ctrl-C', { timeout: DEADLINE_MS }, async () => {
    const bench = start('--quick', '--players', '4');
    await expect.poll(() => childrenOf(bench).length, { timeout: DEADLINE_MS }).toBeGreaterThan(2);
    const children = childrenOf(bench);
    bench.signal('SIGINT');
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 130, signal: null });
    expect(children.filter(isRunning)).toEqual([]);
  });

  it.each([
    ['--engine', 'dgram,warp', '--engine takes a list of kernel, mmsg, dgram, not "warp"'],
    ['--peers', 'apache', '--peers takes a list of nginx, not "apache"'],
    ['--loads', '300,100', '--loads takes ascending integers from 2 to 10000'],
    ['--soak', '1s', '--soak 1s is too short: at least 3000ms'],
    ['--sessions', '99', '--sessions takes an integer from 100 to 65536'],
    ['--share', '100', '--share takes an integer from 1 to 99'],
  ])('refuses %s %s before anything is started', async (flag, value, problem) => {
    const bench = start(flag, value);
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 2, signal: null });
    expect(bench.stderr).toContain(problem);
  });
});

const hasNginx = (): boolean => existsSync('/usr/sbin/nginx');

/** A search path on which nginx claims to be whole and then does not start. */
async function pathWithBrokenNginx(): Promise<string> {
  const says = 'echo "nginx version: nginx/0.0.1 --with-stream "';
  const script = `#!/bin/sh\n[ "$1" = -V ] && { ${says}; exit 0; }\necho "this nginx is broken" >&2\nexit 1\n`;
  await writeFile(join(directory, 'nginx'), script, { mode: 0o755 });
  return `${directory}:${process.env['PATH'] ?? ''}`;
}

describe('the login path', () => {
  it('is measured through every route that is installed', { timeout: DEADLINE_MS }, async ({ skip }) => {
    if (postgresPrograms() === undefined) return skip('there is no PostgreSQL server in /usr/lib/postgresql');
    const bench = group.start(tickrelay('bench', ['bench', '--tcp', '--quick', '--out', directory]));
    expect(await bench.ended(DEADLINE_MS)).toEqual({ code: 0, signal: null });
    const results = JSON.parse(readFileSync(join(directory, 'tcp.json'), 'utf8')) as TcpResults;
    const names = results.routes.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(['direct', 'userspace']));
    expect(names.length + results.absent.length).toBe(6);
    for (const name of names) {
      const runs = results.runs.filter(({ route }) => route === name);
      expect(runs.map(({ workload }) => workload)).toEqual([...WORKLOADS]);
      for (const { units, unitsPerSecond, latencyUs, workload, cpu } of runs) {
        expect(units).toBeGreaterThan(0);
        expect(unitsPerSecond).toBeGreaterThan(0);
        expect(latencyUs === undefined).toBe(workload === 'bulk' || workload === 'upload');
        expect(cpu === undefined).toBe(name === 'direct');
      }
    }
    expect(bench.stdout).toContain('Select-only transactions over connections that stay');
    expect(readFileSync(join(directory, 'tcp.html'), 'utf8')).toContain('<table>');
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
    expect(demo.stdout).toContain('10 players logged in');
    expect(demo.stdout).toMatch(/updates sent, \S+ lost, 0 times a wrong server/);
    expect(demo.stdout).toContain('10 of 10 played on the server where they logged in');
  });

  it('ends cleanly at Ctrl-C, and so do its relay and game servers', { timeout: DEADLINE_MS }, async () => {
    const demo = group.start({ name: 'demo', args: [DEMO] });
    await expect.poll(() => demo.stdout, { timeout: DEADLINE_MS }).toContain('datagrams/s');
    const children = childrenOf(demo);
    // Relay, three game servers, and the database where PostgreSQL is installed.
    expect(children).toHaveLength(postgresPrograms() === undefined ? 4 : 5);
    demo.signal('SIGINT');
    expect(await demo.ended(DEADLINE_MS)).toEqual({ code: 0, signal: null });
    expect(children.filter(isRunning)).toEqual([]);
  });
});
