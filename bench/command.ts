/** `tickrelay bench`: runs the benchmark, prints its tables, and writes results.json and report.html. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ArgumentsCamelCase, CommandModule, InferredOptionTypes } from 'yargs';
import { createLogger, EXIT_FAILED, EXIT_FORCED, onStopSignal } from '../command-line.ts';
import { RelayError } from '../net/relay-error.ts';
import { countSteps, runBenchmark } from './benchmark.ts';
import { makePlan } from './plan.ts';
import { ProcessGroup } from './process-group.ts';
import { createProgress } from './progress.ts';
import { renderReport } from './report/report.ts';
import { DIRECT, type BenchResults, type Plan } from './results.ts';
import { ENGINES } from './routes.ts';

/** The generators share these out, and each player needs an id. */
const MAX_PLAYERS = 10_000;

const options = {
  players: {
    describe: `Players of the main comparison, 2 to ${MAX_PLAYERS}`,
    default: 100,
    requiresArg: true,
    type: 'number',
    coerce: integer('--players', 2, MAX_PLAYERS),
  },
  ladder: {
    describe: 'Players of each step of the ladder',
    defaultDescription: '50,100,150,... up to 1000',
    requiresArg: true,
    type: 'string',
    coerce: ladderSteps,
  },
  rounds: {
    describe: 'Rounds of the comparison, direct and relayed in turns, 1 to 100',
    defaultDescription: '3, with --quick 1',
    requiresArg: true,
    type: 'number',
    coerce: integer('--rounds', 1, 100),
  },
  engine: {
    describe: `Engines of the relay to compare: ${Object.keys(ENGINES).join(', ')}`,
    default: 'dgram',
    requiresArg: true,
    type: 'string',
    coerce: engineNames,
  },
  seed: {
    describe: "Of the players' paths",
    default: 1,
    requiresArg: true,
    type: 'number',
    coerce: integer('--seed', 0, 0xffff_ffff),
  },
  out: { describe: 'Directory of the results', default: 'bench-results', requiresArg: true, type: 'string' },
  quick: {
    describe: 'Fewer and shorter runs, under 20 s: rough figures',
    type: 'boolean',
    default: false,
  },
} as const;

type Arguments = ArgumentsCamelCase<InferredOptionTypes<typeof options>>;

export const command: CommandModule<object, Arguments> = {
  command: 'bench',
  describe: 'Measure what the relay costs and carries on this machine',
  builder: (yargs) =>
    yargs
      .options(options)
      .example('$0 bench', 'everything, in about a minute')
      .example('$0 bench --quick', 'rough figures in under 20 s')
      .example('$0 bench --players 200 --rounds 10 --ladder 200,250,300', 'a closer look at one load')
      .epilogue(
        'Prints tables on standard output and writes results.json and report.html to --out. ' +
          'docs/benchmarking.md explains every figure.\n\n' +
          'Exit codes: 0 the relay lost no update of the main comparison and moved nobody to another server; ' +
          '1 it did, or a process failed; 2 a flag is wrong; 130 ended by a signal.',
      ),
  handler: runBench,
};

/** @throws RelayError TICKRELAY_ERR_LOAD when a process failed, with what it wrote on standard error */
export async function runBench(args: Arguments): Promise<void> {
  const logger = createLogger('bench');
  const plan = makePlan({
    players: args.players,
    engines: args.engine,
    seed: args.seed,
    quick: args.quick,
    rounds: args.rounds,
    ladder: args.ladder,
  });
  const results = await measure(plan);
  if (results === undefined) {
    logger.warn('ended by a signal; nothing was written');
    process.exitCode = EXIT_FORCED;
    return;
  }
  const report = renderReport(results);
  await mkdir(args.out, { recursive: true });
  const write = async (name: string, content: string): Promise<string> => {
    const path = join(args.out, name);
    await writeFile(path, content);
    return path;
  };
  const written = [
    await write('results.json', `${JSON.stringify(results, undefined, 2)}\n`),
    await write('report.html', report.html),
  ];
  process.stdout.write(`${report.text}\nWrote ${written.join(' and ')}.\n`);
  if (!mainJobHolds(results)) {
    logger.error('the relay lost updates or moved players: see the first section of the report');
    process.exitCode = EXIT_FAILED;
  }
}

/** @returns undefined when a signal ended it */
async function measure(plan: Plan): Promise<BenchResults | undefined> {
  const group = new ProcessGroup();
  const abort = new AbortController();
  const progress = createProgress(countSteps(plan));
  const forget = onStopSignal(() => {
    abort.abort();
    // Whoever waits for a child now learns that it ended.
    void group.close();
  });
  try {
    return await runBenchmark({ plan, progress, group, signal: abort.signal });
  } catch (error) {
    if (abort.signal.aborted) return undefined;
    throw error;
  } finally {
    progress.close();
    await group.close();
    forget();
  }
}

/** Whether every relay answered every update of the main comparison, each from the player's own server. */
export function mainJobHolds({ comparison }: BenchResults): boolean {
  return comparison.routes
    .filter(({ name }) => name !== DIRECT)
    .every(({ lost, wrongServer }) => lost === 0 && wrongServer === 0);
}

function integer(flag: string, min: number, max: number): (value: number) => number {
  return (value) => {
    if (Number.isInteger(value) && value >= min && value <= max) return value;
    throw wrongFlag(flag, `takes an integer from ${min} to ${max}, not ${value}`);
  };
}

function ladderSteps(text: string): readonly number[] {
  const steps = text.split(',').map(Number);
  const isAscending = steps.every((players, i) => i === 0 || players > steps[i - 1]!);
  if (
    isAscending &&
    steps.every((players) => Number.isInteger(players) && players >= 1 && players <= MAX_PLAYERS)
  ) {
    return steps;
  }
  throw wrongFlag('--ladder', `takes ascending numbers of players like 50,100,200, not "${text}"`);
}

function engineNames(text: string): readonly string[] {
  const names = text.split(',');
  const unknown = names.find((name) => !(name in ENGINES));
  if (unknown === undefined) return names;
  throw wrongFlag('--engine', `takes a list of ${Object.keys(ENGINES).join(', ')}, not "${unknown}"`);
}

function wrongFlag(flag: string, problem: string): RelayError {
  return new RelayError('TICKRELAY_ERR_CONFIG', `${flag} ${problem}`);
}
