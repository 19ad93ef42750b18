/**
 * A network namespace of a run's own (ip-netns(8), Linux, root), with nothing but loopback until somebody joins it to
 * another. It is removed again by `remove`, and when the process exits, short of SIGKILL.
 */
import { execFileSync } from 'node:child_process';
import { RelayError } from '../net/relay-error.ts';
import type { ProcessSpec } from './process-group.ts';

export class NetworkNamespace {
  /** As `ip netns` lists it. */
  readonly name: string;
  readonly #removeAtExit = (): void => this.remove();

  /** @throws RelayError TICKRELAY_ERR_LOAD */
  constructor(name: string) {
    this.name = `tickrelay-${process.pid}-${name}`;
    try {
      runIp('netns', 'add', this.name);
    } catch (error) {
      const said = error instanceof Error ? error.message : String(error);
      throw new RelayError('TICKRELAY_ERR_LOAD', `network namespaces need root and iproute2: ${said}`);
    }
    process.once('exit', this.#removeAtExit);
    this.ip('link', 'set', 'lo', 'up');
  }

  /** The program, run inside. nsenter becomes it: the pid stays. */
  inside(spec: ProcessSpec): ProcessSpec {
    const program = spec.program ?? process.execPath;
    return {
      ...spec,
      program: 'nsenter',
      args: [`--net=/run/netns/${this.name}`, '--', program, ...spec.args],
    };
  }

  /** `ip ARGS` inside. @throws Error with what it says */
  ip(...args: readonly string[]): string {
    return runIp('-n', this.name, ...args);
  }

  /** Runs a program inside to its end. @returns what it prints. @throws Error with what it says */
  run(program: string, ...args: readonly string[]): string {
    const { program: command, args: all } = this.inside({ name: program, program, args });
    return execFileSync(command!, all, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** Idempotent. Processes inside go on, in a network that nobody else finds. */
  remove(): void {
    process.off('exit', this.#removeAtExit);
    try {
      runIp('netns', 'del', this.name);
    } catch {
      // Removed already.
    }
  }
}

function runIp(...args: readonly string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
