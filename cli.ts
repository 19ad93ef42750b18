#!/usr/bin/env node
/** The command line: joins the commands of the rooms, and turns failures into one line and an exit code. */
import { closest, distance } from 'fastest-levenshtein';
import yargs, { type CommandModule } from 'yargs';
import { hideBin } from 'yargs/helpers';
import { describeFailure, EXIT_USAGE, outliveReaders } from './command-line.ts';
import { RelayError } from './net/relay-error.ts';
import { VERSION } from './version.ts';

/** Each command with its room's code, which is loaded only for the command that runs, or all of it for the overview. */
const COMMANDS: Readonly<Record<string, () => Promise<{ readonly command: unknown }>>> = {
  relay: () => import('./relay/command.ts'),
  gameserver: () => import('./gameserver/command.ts'),
  bots: () => import('./botclient/command.ts'),
  bench: () => import('./bench/command.ts'),
  config: () => import('./relay/config-command.ts'),
  detach: () => import('./relay/detach-command.ts'),
};

/** What yargs finds wrong with the command line. */
class UsageError extends Error {}

const words = hideBin(process.argv);
const named = COMMANDS[words[0] ?? ''];
const modules = await Promise.all(
  (named === undefined ? Object.values(COMMANDS) : [named]).map((load) => load()),
);

const parser = yargs(words)
  .scriptName('tickrelay')
  .usage(
    '$0 <command>\n\nA Layer-4 relay for game servers: one public address, pinned players, hidden backends.',
  )
  .command(modules.map(({ command }) => command as CommandModule))
  .demandCommand(1, `Say what to run: ${Object.keys(COMMANDS).join(', ')}`)
  .updateStrings({
    'Not enough non-option arguments: got %s, need at least %s': {
      one: 'What the command is for is missing, like the FILE in `config show FILE`: got %s arguments, need %s',
      other:
        'What the command is for is missing, like the FILE in `config show FILE`: got %s arguments, need %s',
    } as unknown as string,
  })
  .strict()
  .recommendCommands()
  .version(VERSION)
  .alias({ h: 'help', v: 'version' })
  .wrap(Math.min(110, process.stdout.columns || 110))
  .exitProcess(false)
  // yargs has a message of its own where the command line is wrong, and an error where a flag's check or a command failed.
  .fail((message, error: Error | undefined) => {
    throw error === undefined || error.name === 'YError' ? new UsageError(message) : error;
  });

/** ` (did you mean --backend?)` for an unknown flag that is nearly one of the help's, or nothing. */
async function nearestFlag(message: string): Promise<string> {
  const unknown = /^Unknown arguments?: ([^,]+)/.exec(message)?.[1];
  const known = Array.from((await parser.getHelp()).matchAll(/--([a-z-]+)/g), (match) => match[1]!);
  if (unknown === undefined || known.length === 0) return '';
  const nearest = closest(unknown, known);
  return distance(unknown, nearest) <= 2 ? ` (did you mean --${nearest}?)` : '';
}

outliveReaders();

try {
  await parser.parseAsync();
} catch (error) {
  const isUsage = error instanceof UsageError;
  const { exitCode, text } = isUsage
    ? {
        exitCode: EXIT_USAGE,
        text: `${error.message}${await nearestFlag(error.message)}\nSee tickrelay ${named === undefined ? '' : `${words[0]} `}--help`,
      }
    : describeFailure(error);
  process.stderr.write(`${text}\n`);
  process.exitCode = exitCode;
  // A failure in the middle may leave sockets open; nothing of value is.
  if (!isUsage && !(error instanceof RelayError)) process.exit(exitCode);
}
