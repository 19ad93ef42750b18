/** `tickrelay config`: checks a configuration file, or prints it with every default, without starting anything. */
import type { Argv, CommandModule } from 'yargs';
import { describeFailure, EXIT_OK } from '../command-line.ts';
import { loadConfig, type CheckedConfig, type RelayConfig } from './control/config.ts';
import { formatConfig } from './control/config-format.ts';
import { tcpEngineNotes } from './control/tcp-needs.ts';

interface FileArguments {
  readonly file: string;
}

const fileArgument = (yargs: Argv): Argv<FileArguments> =>
  yargs
    .positional('file', { type: 'string', demandOption: true, describe: 'the configuration, in YAML' })
    .epilogue('Exit codes: 0 the configuration is right; 2 it is wrong, or cannot be read.');

const CHECK_EXAMPLE = [
  '$0 config check relay.yaml',
  'exit code 0 when it is right, 2 with every problem when not',
] as const;
const SHOW_EXAMPLE = ['$0 config show relay.yaml', 'the same configuration with every default'] as const;

const check: CommandModule<object, FileArguments> = {
  command: 'check <file>',
  describe: 'Say whether a configuration is right, and what is wrong with it',
  builder: (yargs) => fileArgument(yargs).example(...CHECK_EXAMPLE),
  handler: ({ file }) =>
    run(file, ({ config, warnings }) => {
      print(process.stdout, [
        ...warnings.map((warning) => `warning: ${warning}`),
        ...tcpEngineNotes(config).map((note) => `note: ${note}`),
        `${file}: ok, ${summary(config)}`,
      ]);
    }),
};

const show: CommandModule<object, FileArguments> = {
  command: 'show <file>',
  describe: 'Print a configuration with every default written out and every token hidden',
  builder: (yargs) => fileArgument(yargs).example(...SHOW_EXAMPLE),
  handler: ({ file }) =>
    run(file, ({ config, warnings }) => {
      print(
        process.stderr,
        warnings.map((warning) => `warning: ${warning}`),
      );
      process.stdout.write(formatConfig(config));
    }),
};

export const command: CommandModule = {
  command: 'config',
  describe: 'Check or show a configuration file',
  builder: (yargs) =>
    yargs
      .command(check)
      .command(show)
      .demandCommand(1, 'Say what to do with the file: config check FILE or config show FILE')
      .example(...CHECK_EXAMPLE)
      .example(...SHOW_EXAMPLE),
  handler: () => undefined,
};

async function run(file: string, use: (checked: CheckedConfig) => void): Promise<void> {
  try {
    use(await loadConfig(file));
    process.exitCode = EXIT_OK;
  } catch (error) {
    const { exitCode, text } = describeFailure(error);
    print(process.stderr, [text]);
    process.exitCode = exitCode;
  }
}

function print(stream: NodeJS.WritableStream, lines: readonly string[]): void {
  for (const line of lines) stream.write(`${line}\n`);
}

function summary({ listeners, pools, engine }: RelayConfig): string {
  const backends = pools.reduce((sum, pool) => sum + pool.backends.length, 0);
  const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`;
  return [
    `engine ${engine}`,
    counted(listeners.length, 'listener'),
    counted(pools.length, 'pool'),
    counted(backends, 'static backend'),
  ].join(', ');
}
