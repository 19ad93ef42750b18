/**
 * What every command shares: exit codes, the logger, the line that says a process is ready, and one
 * way to end. Results go to standard output, everything else to standard error, so that output can be piped.
 */
import { closeSync, openSync } from 'node:fs';
import { devNull } from 'node:os';
import { isatty } from 'node:tty';
import { pino, type Logger } from 'pino';
import { RelayError } from './net/relay-error.ts';

/** Exit codes, documented in `--help` and docs/errors.md. */
export const EXIT_OK = 0;
/** The work failed: an address was taken, a peer could not be reached, a claim did not hold. */
export const EXIT_FAILED = 1;
/** The command line or the configuration is wrong; nothing was started. */
export const EXIT_USAGE = 2;
/** Ended by a second signal before the work was done (128 + SIGINT). */
export const EXIT_FORCED = 130;

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** What makes log lines readable, loaded only where somebody reads them. */
const pretty = process.stderr.isTTY ? (await import('pino-pretty')).default : undefined;

/** The process's logger: JSON lines on standard error, or readable lines where that is a terminal. */
export function createLogger(name: string, level: LogLevel = 'info'): Logger {
  const stream =
    pretty === undefined
      ? pino.destination({ dest: 2, sync: true })
      : pretty({ destination: 2, sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l' });
  return pino({ name, level }, stream);
}

/** Prints one JSON line on standard output: a `ready` or `summary` event that another program waits for. */
export function printEvent(event: 'ready' | 'summary', fields: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
}

/**
 * Calls `stop` at the first of these signals and ends the process at the second. SIGHUP, where it is one of them, never
 * is the second: a closing terminal sends it, and its shell may send it again.
 *
 * @returns a function that takes the handlers away again
 */
export function onStopSignal(
  stop: (signal: NodeJS.Signals) => void,
  signals: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM'],
): () => void {
  let asked = false;
  const handler = (signal: NodeJS.Signals): void => {
    if (asked && signal !== 'SIGHUP') process.exit(EXIT_FORCED);
    if (!asked) stop(signal);
    asked = true;
  };
  for (const signal of signals) process.on(signal, handler);
  return () => {
    for (const signal of signals) process.off(signal, handler);
  };
}

/**
 * Lets the process outlive whoever reads its output, a pipe (`| head -1`) or a terminal: what is written there is lost,
 * and the end is in order.
 */
export function outliveReaders(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error;
    });
  }
  // At its end Node gives a terminal back as it was, and aborts when it can't; so one that is gone is replaced.
  const terminals = [0, 1, 2].filter((fd) => isatty(fd));
  process.on('exit', () => {
    for (const fd of terminals.filter((terminal) => !isatty(terminal))) {
      closeSync(fd);
      // The lowest free descriptor is taken: this one.
      openSync(devNull, 'r+');
    }
  });
}

/** The exit code for an error, and what to print of it: one line for an operating error, the stack for a bug. */
export function describeFailure(error: unknown): { exitCode: number; text: string } {
  if (error instanceof RelayError) {
    const usage = error.code === 'TICKRELAY_ERR_CONFIG' || error.code === 'TICKRELAY_ERR_ADDRESS';
    return { exitCode: usage ? EXIT_USAGE : EXIT_FAILED, text: `${error.code}: ${error.message}` };
  }
  return {
    exitCode: EXIT_FAILED,
    text: error instanceof Error ? (error.stack ?? error.message) : String(error),
  };
}
