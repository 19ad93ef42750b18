/** Whether the engine `kernel` has room for the pools of a configuration: one has a place for each pool that it serves, and few of them. */
import { MAX_KERNEL_POOLS } from '../core/limits.ts';
import type { EngineChoice, ListenerConfig } from './config.ts';
import type { ConfigPath, Problems } from './config-problems.ts';

/**
 * The pools that the engine can't do without: those of UDP listeners, and of TCP listeners with engine `kernel`. TCP listeners with
 * engine `auto` go to user space where there is no place for their pool. Pools that no listener names take none.
 */
export function kernelPools(listeners: readonly (ListenerConfig | undefined)[]): ReadonlySet<string> {
  const needing = listeners.filter((listener) => listener !== undefined && needsPlace(listener));
  return new Set(needing.map((listener) => listener!.pool));
}

/** @returns what is wrong, at the first pool without a place; undefined where all have one */
export function kernelRoomProblem(
  listeners: readonly (ListenerConfig | undefined)[],
  maxPools = MAX_KERNEL_POOLS,
): { readonly path: ConfigPath; readonly text: string } | undefined {
  const pools = kernelPools(listeners);
  if (pools.size <= maxPools) return undefined;
  const [pool] = [...pools].slice(maxPools);
  const text =
    `"${pool!}" is one of ${pools.size} pools that listeners need in the kernel, and the engine kernel has room for ${maxPools}; ` +
    'let listeners share pools, spread them over several relays, or start the relay with engine auto or mmsg';
  return { path: ['listeners', listeners.findIndex((listener) => listener?.pool === pool), 'pool'], text };
}

export function checkKernelRoom(
  {
    engine,
    listeners,
  }: { readonly engine: EngineChoice; readonly listeners: readonly (ListenerConfig | undefined)[] },
  problems: Problems,
): void {
  const problem = engine === 'kernel' ? kernelRoomProblem(listeners) : undefined;
  if (problem !== undefined) problems.add(problem.path, problem.text);
}

function needsPlace(listener: ListenerConfig): boolean {
  return listener.protocol === 'udp' || listener.engine === 'kernel';
}
