/**
 * Child processes as one group: the game servers, relays and players that a benchmark, the demo or an end-to-end test
 * runs. Each prints JSON lines on its standard output, `ready` when it can be used and `summary` at its end.
 *
 *   start -> event('ready') -> ... -> stop, or event('summary') -> close the group
 *
 * A child is ended by its own process id: SIGTERM, then, when its grace is over, SIGKILL. The group ends the youngest
 * first, so that players go before the relay and the relay before its servers. Children are leaders of their own
 * process groups: Ctrl-C on a terminal reaches only the parent, which then ends them in order. Whatever way the parent
 * exits, short of SIGKILL, no child stays behind.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { constants } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { RelayError } from '../net/relay-error.ts';

/** The built command line: beside dist/bench, or in dist when this file itself runs from its source (as in tests). */
const CLI = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../dist/cli.js' : '../cli.js', import.meta.url),
);

/** How long a child may take to print `ready`, in ms. Generous: a busy machine starts Node in seconds. */
const READY_DEADLINE_MS = 15_000;
/** How long a child may take to end after SIGTERM, in ms. */
const STOP_GRACE_MS = 3_000;
/** Characters of each output stream that are kept: the last ones. */
const OUTPUT_TAIL = 8_192;

/** One line that a child printed, without its `event` key. */
export type EventFields = Readonly<Record<string, unknown>>;

export interface ProcessSpec {
  /** What messages call it: `relay`, `game server 2`. */
  readonly name: string;
  /** Program; this Node by default. */
  readonly program?: string;
  readonly args: readonly string[];
  /** Added to the parent's environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** How a child ended; both are null when it could not be started. */
export interface ProcessExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A spec that runs `tickrelay ARGS` from the built tree. */
export function tickrelay(name: string, args: readonly string[]): ProcessSpec {
  return { name, args: [CLI, ...args] };
}

export class ManagedProcess {
  readonly name: string;
  readonly #process: ChildProcess;
  readonly #changes = new EventEmitter().setMaxListeners(0);
  readonly #events = new Map<string, EventFields>();
  #stdout = '';
  #stderr = '';
  #exit: ProcessExit | undefined;

  constructor(spec: ProcessSpec) {
    this.name = spec.name;
    this.#process = spawn(spec.program ?? process.execPath, spec.args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, ...spec.env },
    });
    createInterface({ input: this.#process.stdout! }).on('line', (line) => this.#read(line));
    this.#process.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-OUTPUT_TAIL);
    });
    this.#process.on('error', (error) => {
      this.#stderr += error.message;
      if (this.pid === undefined) this.#ended({ code: null, signal: null });
    });
    this.#process.on('close', (code, signal) => this.#ended({ code, signal }));
  }

  /** Undefined when the program could not be started. */
  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** The end of what it wrote on standard output, at most 8 KiB. */
  get stdout(): string {
    return this.#stdout;
  }

  /** The end of what it wrote on standard error, at most 8 KiB. */
  get stderr(): string {
    return this.#stderr;
  }

  /** How it ended, or undefined while it runs. */
  get exit(): ProcessExit | undefined {
    return this.#exit;
  }

  /**
   * Waits for a line `{"event": NAME, ...}`; one that was printed before counts, the last of several.
   *
   * @throws RelayError TICKRELAY_ERR_LOAD when the child ends first or the deadline passes, with its standard error
   */
  event(name: string, deadlineMs = READY_DEADLINE_MS): Promise<EventFields> {
    return this.#until(`print its "${name}" line`, deadlineMs, () => this.#events.get(name));
  }

  /** Waits for its end. @throws RelayError TICKRELAY_ERR_LOAD when the deadline passes. */
  ended(deadlineMs: number): Promise<ProcessExit> {
    return this.#until('end', deadlineMs, () => this.#exit);
  }

  /** Sends a signal; nothing happens when it has ended. */
  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Ends it: SIGTERM, and SIGKILL when it is still there after `graceMs`. Idempotent. */
  async stop(graceMs = STOP_GRACE_MS): Promise<ProcessExit> {
    if (this.#exit !== undefined) return this.#exit;
    const killer = setTimeout(() => this.signal('SIGKILL'), graceMs);
    this.signal('SIGTERM');
    try {
      return await this.ended(graceMs + STOP_GRACE_MS);
    } finally {
      clearTimeout(killer);
    }
  }

  #read(line: string): void {
    this.#stdout = `${this.#stdout}${line}\n`.slice(-OUTPUT_TAIL);
    const fields = parseEvent(line);
    if (fields === undefined) return;
    const { event, ...rest } = fields;
    this.#events.set(event, rest);
    this.#changes.emit('change');
  }

  #ended(exit: ProcessExit): void {
    this.#exit ??= exit;
    this.#changes.emit('change');
  }

  #until<T>(what: string, deadlineMs: number, look: () => T | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void): void => {
        clearTimeout(timer);
        this.#changes.off('change', check);
        act();
      };
      const check = (): void => {
        const found = look();
        if (found !== undefined) settle(() => resolve(found));
        else if (this.#exit !== undefined)
          settle(() => reject(this.#failure(`ended before it could ${what}`)));
      };
      const timer = setTimeout(() => {
        settle(() => reject(this.#failure(`did not ${what} within ${deadlineMs} ms`)));
      }, deadlineMs);
      this.#changes.on('change', check);
      check();
    });
  }

  #failure(what: string): RelayError {
    const { code, signal } = this.#exit ?? { code: null, signal: null };
    const how = code !== null ? ` (exit code ${code})` : signal !== null ? ` (${signal})` : '';
    const said = this.#stderr.trim();
    const why = said === '' ? 'It wrote nothing on standard error.' : `It wrote on standard error:\n${said}`;
    return new RelayError('TICKRELAY_ERR_LOAD', `the ${this.name} process ${what}${how}. ${why}`);
  }
}

/** The children of one run. */
export class ProcessGroup {
  readonly #children: ManagedProcess[] = [];
  #closed = false;
  readonly #killAll = (): void => {
    for (const child of this.#children) if (child.exit === undefined) child.signal('SIGKILL');
  };

  constructor() {
    process.once('exit', this.#killAll);
    process.once('SIGHUP', exitOnHangUp);
  }

  /** Starts a child. @throws RelayError TICKRELAY_ERR_LOAD once the group is closed. */
  start(spec: ProcessSpec): ManagedProcess {
    if (this.#closed)
      throw new RelayError('TICKRELAY_ERR_LOAD', `${spec.name} was not started: the run is over`);
    const child = new ManagedProcess(spec);
    this.#children.push(child);
    return child;
  }

  /** Process ids of the children that still run. */
  get pids(): readonly number[] {
    return this.#children.flatMap(({ exit, pid }) => (exit === undefined && pid !== undefined ? [pid] : []));
  }

  /** Ends every child, the youngest first, and takes no more. Idempotent. */
  async close(graceMs?: number): Promise<void> {
    this.#closed = true;
    for (const child of this.#children.toReversed()) await child.stop(graceMs);
    process.off('exit', this.#killAll);
    process.off('SIGHUP', exitOnHangUp);
  }
}

/** The terminal went away. Without a handler the process would end before it could end its children. */
function exitOnHangUp(): void {
  process.exit(128 + constants.signals.SIGHUP);
}

function parseEvent(line: string): (Record<string, unknown> & { readonly event: string }) | undefined {
  try {
    const value: unknown = JSON.parse(line);
    const isEvent = typeof value === 'object' && value !== null && 'event' in value;
    return isEvent && typeof value.event === 'string' ? { ...value, event: value.event } : undefined;
  } catch {
    return undefined;
  }
}
