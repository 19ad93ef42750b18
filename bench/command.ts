/**
 * `tickrelay bench`: runs the benchmark, prints its tables, and writes results.json and report.html; or runs the soak, and
 * writes soak.json and soak.html; or another run of its own (RUNS), with files of its own.
 */
import { access, constants, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ArgumentsCamelCase, CommandModule, InferredOptionTypes } from 'yargs';
import { createLogger, EXIT_FAILED, EXIT_FORCED, onStopSignal } from '../command-line.ts';
import { countSteps, runBenchmark } from './benchmark.ts';
import { requireSingle, wrongFlag } from '../flag-values.ts';
import { LIST_FLAGS, options } from './flags.ts';
import { countLatencySteps, runLatencyBenchmark } from './latency/latency-benchmark.ts';
import type { LoadContext } from './load-run.ts';
import { choosePinning } from './pinning.ts';
import { findShareHome } from './relay-share.ts';
import { countMostPlayersSteps, findMostPlayers } from './most-players.ts';
import { makePlan } from './plan.ts';
import { DIAL_ENGINE, PEERS } from './routes.ts';
import { ProcessGroup } from './process-group.ts';
import { createProgress, type Progress } from './progress.ts';
import type { Report } from './report/report.ts';
import type { BenchResults, Pinning, Plan, SoakResults } from './results.ts';
import { countScaleSteps, runScaleBenchmark } from './scale/scale-benchmark.ts';
import { runSessionLoad, SESSION_LOAD_STEPS } from './session-load.ts';
import { LOOPBACK, openNamespaces, type Site } from './site.ts';
import { runSoak, SOAK_STEPS } from './soak.ts';
import { countTcpSteps, runTcpBenchmark } from './tcp/tcp-benchmark.ts';
import type { TcpPlan } from './tcp/tcp-results.ts';

/** The reports draw with a large library, which neither `--help` nor a wrong flag should wait for. */
const reports = () => import('./report/report.ts');

type Arguments = ArgumentsCamelCase<InferredOptionTypes<typeof options>>;

export const command: CommandModule<object, Arguments> = {
  command: 'bench',
  describe: 'Measure what the relay costs and carries on this machine',
  builder: (yargs) =>
    yargs
      .options(options)
      .example('$0 bench', 'everything, in a minute and a half')
      .example('$0 bench --quick', 'rough figures in under 20 s')
      .example('$0 bench --loads 100,300,600 --rounds 9', 'a closer look at three loads')
      .example('$0 bench --engine mmsg --peers none --dial 0,50,200', 'what waiting for more datagrams saves')
      .example('$0 bench --tcp', 'what the login path costs, beside HAProxy and nginx')
      .example('$0 bench --soak 10m', 'whether memory or descriptors grow')
      .example('$0 bench --sessions 20000', 'what so many live sessions cost')
      .example('$0 bench --most 2000', 'how many players each engine and peer carries')
      .example('$0 bench --latency', 'what each route adds to a round trip, in microseconds')
      .example('$0 bench --netns', 'as root: everything, with namespaces in the place of loopback')
      .example('$0 bench --scale 1000000', 'as root: sessions by the million in the engine kernel')
      .epilogue(
        'Prints tables on standard output and writes results.json and report.html, soak.json and soak.html, ' +
          'sessions.json and sessions.html, most-players.json and most-players.html, scale.json and scale.html, latency.json and latency.html, or tcp.json and tcp.html to --out. docs/benchmarking.md explains every figure.\n\n' +
          'Exit codes: 0 the relay lost no update of the main load and moved nobody to another server; ' +
          '1 it did, or a process failed; 2 a flag is wrong; 130 ended by a signal.',
      ),
  handler: runBench,
};

/** @throws RelayError TICKRELAY_ERR_LOAD when a process failed, with what it wrote on standard error */
export async function runBench(args: Arguments): Promise<void> {
  requireSingle(args, LIST_FLAGS);
  const plan = planOf(args);
  const others = OTHER_RUNS.filter((name) => args[name] !== undefined && args[name] !== false);
  if (others.length > 1) {
    const [one, other] = others as [string, string];
    throw wrongFlag(`--${one}`, `and --${other} are two runs; give one of them`);
  }
  const [asked] = others;
  if (args.netns && asked !== undefined && !NETNS_RUNS.includes(asked)) {
    throw wrongFlag('--netns', `can't be had with --${asked}`);
  }
  await prepareDirectory(args.out);
  await (asked === undefined ? benchAll(args, plan) : RUNS[asked](args, plan));
}

/** Runs that take the place of the benchmark as a whole, by their flags. */
const OTHER_RUNS = ['soak', 'sessions', 'most', 'scale', 'latency', 'tcp'] as const;
/** Those that can be had across namespaces. */
const NETNS_RUNS: readonly string[] = ['soak', 'latency'];

const RUNS: Readonly<Record<(typeof OTHER_RUNS)[number], (args: Arguments, plan: Plan) => Promise<void>>> = {
  soak: benchSoak,
  sessions: benchSessions,
  most: benchMostPlayers,
  scale: benchScale,
  latency: benchLatency,
  tcp: benchTcp,
};

async function benchAll({ out }: Arguments, plan: Plan): Promise<void> {
  const results = await guarded(plan, countSteps(plan), (context) => runBenchmark({ ...context, plan }));
  if (results === undefined) return;
  await publish(out, {
    name: 'results',
    page: 'report',
    results,
    report: (await reports()).renderReport(results),
  });
  judge(mainJobHolds(results), 'the relay lost updates or moved players: see the main load in the report');
}

async function benchSoak({ out, soak }: Arguments, plan: Plan): Promise<void> {
  const results = await guarded(plan, SOAK_STEPS, (context) =>
    runSoak({ ...context, plan, durationMs: soak! }),
  );
  if (results === undefined) return;
  await publish(out, {
    name: 'soak',
    page: 'soak',
    results,
    report: (await reports()).renderSoakReport(results),
  });
  judge(soakHolds(results), 'the relay lost updates, moved players or grew');
}

async function benchSessions({ out, sessions }: Arguments, plan: Plan): Promise<void> {
  const [engine] = plan.engines as [string];
  const results = await guarded(plan, SESSION_LOAD_STEPS, (context) =>
    runSessionLoad({ ...context, engine, sessions: sessions! }),
  );
  if (results === undefined) return;
  const report = (await reports()).renderSessionLoadReport(results);
  await publish(out, { name: 'sessions', page: 'sessions', results, report });
  judge(results.during.liveSessions === sessions, 'the relay did not hold all sessions at once');
}

async function benchMostPlayers({ out, most }: Arguments, plan: Plan): Promise<void> {
  const results = await guarded(plan, countMostPlayersSteps(plan), (context) =>
    findMostPlayers({ ...context, plan, top: most! }),
  );
  if (results === undefined) return;
  const report = (await reports()).renderMostPlayersReport(results);
  await publish(out, { name: 'most-players', page: 'most-players', results, report });
}

async function benchScale(
  { out, scale, quick, rounds = quick ? 1 : 3 }: Arguments,
  plan: Plan,
): Promise<void> {
  const results = await guarded(plan, countScaleSteps({ rounds }), (context) =>
    runScaleBenchmark({ ...context, sessions: scale!, rounds, quick }),
  );
  if (results === undefined) return;
  await publish(out, {
    name: 'scale',
    page: 'scale',
    results,
    report: (await reports()).renderScaleReport(results),
  });
}

async function benchLatency({ out, rounds }: Arguments, plan: Plan): Promise<void> {
  const asked = { plan, rounds };
  const results = await guarded(plan, countLatencySteps(asked), (context) =>
    runLatencyBenchmark({ ...context, ...asked }),
  );
  if (results === undefined) return;
  await publish(out, {
    name: 'latency',
    page: 'latency',
    results,
    report: (await reports()).renderLatencyReport(results),
  });
}

async function benchTcp(args: Arguments, plan: Plan): Promise<void> {
  const tcpPlan = tcpPlanOf(args);
  const results = await guarded(plan, countTcpSteps(tcpPlan), (context) =>
    runTcpBenchmark({ ...context, plan: tcpPlan }),
  );
  if (results === undefined) return;
  await publish(args.out, {
    name: 'tcp',
    page: 'tcp',
    results,
    report: (await reports()).renderTcpReport(results),
  });
}

function planOf({ engine, dial, pin, share, ...asked }: Arguments): Plan {
  if (dial !== undefined && !engine.includes(DIAL_ENGINE)) {
    throw wrongFlag('--dial', `turns --coalesce of the engine ${DIAL_ENGINE}, which must be in --engine`);
  }
  const { players, loads, ladder, rounds, seed, quick, netns } = asked;
  const peers = asked.peers ?? (quick ? [] : Object.keys(PEERS));
  const given = { players, loads, ladder, rounds, peers, seed, quick, netns };
  return makePlan({ ...given, engines: engine, dialUs: dial ?? [], pinning: pinning(pin, share) });
}

function tcpPlanOf({ rounds, quick }: Arguments): TcpPlan {
  const MIB = 2 ** 20;
  return quick
    ? { rounds: rounds ?? 1, clients: 4, durationS: 1, bulkBytes: 64 * MIB }
    : { rounds: rounds ?? 3, clients: 4, durationS: 3, bulkBytes: 1024 * MIB };
}

/** @param asked undefined when neither --pin nor --no-pin was given */
function pinning(asked: boolean | undefined, share: number | undefined): Pinning | undefined {
  if (share !== undefined) return { ...sharedProcessor(asked), relayShare: share };
  if (asked === false) return undefined;
  const choice = choosePinning();
  if (!('unavailable' in choice)) return choice;
  if (asked === true) throw wrongFlag('--pin', `can't be had here: ${choice.unavailable}`);
  return undefined;
}

/** @param pin undefined when neither --pin nor --no-pin was given */
function sharedProcessor(pin: boolean | undefined): Pinning {
  if (pin === false) throw wrongFlag('--share', 'is a part of the processor that --no-pin does not name');
  const choice = choosePinning();
  if ('unavailable' in choice) throw wrongFlag('--share', `can't be had here: ${choice.unavailable}`);
  const home = findShareHome();
  if ('unavailable' in home) throw wrongFlag('--share', `can't be had here: ${home.unavailable}`);
  return choice;
}

/** Runs it with its children, which end with it. @returns undefined when a signal ended it; that is logged */
async function guarded<T>(
  plan: Plan,
  steps: number,
  run: (context: LoadContext & { readonly progress: Progress }) => Promise<T>,
): Promise<T | undefined> {
  const group = new ProcessGroup();
  const abort = new AbortController();
  const progress = createProgress(steps);
  let site: Site | undefined;
  const forget = onStopSignal(() => {
    abort.abort();
    // Whoever waits for a child now learns that it ended.
    void group.close();
  });
  try {
    site = plan.netns ? openNamespaces() : LOOPBACK;
    return await run({ progress, group, signal: abort.signal, pinning: plan.pinning, site });
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    createLogger('bench').warn('ended by a signal; nothing was written');
    process.exitCode = EXIT_FORCED;
    return undefined;
  } finally {
    progress.close();
    await group.close();
    await site?.close();
    forget();
  }
}

interface Publication {
  readonly name: string;
  readonly page: string;
  readonly results: object;
  readonly report: Report;
}

/** Finds out before the work whether its results can be written. */
async function prepareDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { recursive: true });
    await access(directory, constants.W_OK);
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException;
    throw wrongFlag('--out', `${directory} can't be written to: ${code}; name a directory that can`);
  }
}

async function publish(directory: string, { name, page, results, report }: Publication): Promise<void> {
  const [json, html] = [join(directory, `${name}.json`), join(directory, `${page}.html`)];
  await writeFile(json, `${JSON.stringify(results, undefined, 2)}\n`);
  await writeFile(html, report.html);
  process.stdout.write(`${report.text}\nWrote ${json} and ${html}.\n`);
}

function judge(holds: boolean, problem: string): void {
  if (holds) return;
  createLogger('bench').error(problem);
  process.exitCode = EXIT_FAILED;
}

/** Whether every relay of ours answered every update of the main load, each from the player's own server. */
export function mainJobHolds({ comparison, routes, plan }: BenchResults): boolean {
  const own = new Set(routes.filter(({ kind }) => kind === 'engine').map(({ name }) => name));
  const [lowest] = plan.loads;
  const main = plan.loads.includes(plan.players) ? plan.players : lowest;
  return comparison.loads
    .filter(({ players }) => players === main)
    .flatMap((load) => load.routes)
    .filter(({ name }) => own.has(name))
    .every(({ lost, wrongServer }) => lost === 0 && wrongServer === 0);
}

function soakHolds({ run, growth }: SoakResults): boolean {
  return run.lost === 0 && run.wrongServer === 0 && growth.isFlat;
}
