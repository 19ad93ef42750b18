/** What of a TCP listener's configuration only user space has, so that the kernel can't carry its connections. */
import type { EngineChoice, KernelConfig, ListenerConfig, PoolConfig, TcpListenerConfig } from './config.ts';
import type { ConfigPath, Problems } from './config-problems.ts';

export interface Need {
  /** The key, from the listener on, or with `pools` first from the root. */
  readonly key: readonly string[];
  readonly why: string;
}

/** @param pool the listener's */
export function userspaceNeeds(listener: TcpListenerConfig, pool: PoolConfig | undefined): readonly Need[] {
  const { proxyProtocol, queue, slowStartMs, pinGroup } = listener;
  const needs: (Need | false)[] = [
    proxyProtocol.accept.length > 0 && {
      key: ['proxyProtocol', 'accept'],
      why: 'a PROXY header is read from the stream',
    },
    proxyProtocol.send !== 'none' && {
      key: ['proxyProtocol', 'send'],
      why: 'a PROXY header is written into the stream',
    },
    queue.size > 0 && { key: ['queue', 'size'], why: 'a connection that waits is held by a socket' },
    slowStartMs > 0 && { key: ['slowStart'], why: 'the kernel knows no weights that grow' },
    pinGroup !== undefined && { key: ['pinGroup'], why: 'the kernel asks no pins for TCP' },
    pool !== undefined &&
      pool.healthCheck.connectFailures > 0 && {
        key: ['pools', pool.name, 'healthCheck', 'connectFailures'],
        why: 'the kernel does not report attempts to connect',
      },
  ];
  return needs.filter((need) => need !== false);
}

interface Sections {
  readonly engine: EngineChoice;
  readonly kernel: KernelConfig;
  readonly listeners: readonly (ListenerConfig | undefined)[];
  readonly pools: readonly (PoolConfig | undefined)[];
}

/** Listeners that shall be in the kernel, and can't. */
export function checkTcpEngines(
  { engine, listeners, pools }: Omit<Sections, 'kernel'>,
  problems: Problems,
): void {
  listeners.forEach((listener, i) => {
    if (listener?.protocol !== 'tcp' || listener.engine !== 'kernel') return;
    const path: ConfigPath = ['listeners', i];
    if (engine !== 'kernel' && engine !== 'auto')
      problems.add(
        [...path, 'engine'],
        `kernel needs the relay's engine to be kernel or auto, not ${engine}`,
      );
    for (const { key, why } of userspaceNeeds(listener, poolOf(listener, pools))) {
      const at = key[0] === 'pools' ? key : [...path, ...key];
      const text = `is for user space only, since ${why}, and listener "${listener.name}" has engine kernel; leave one of them out`;
      problems.add(at, text);
    }
  });
}

/** Listeners that `auto` would have in the kernel but for what they ask for. */
export function tcpEngineWarnings({ engine, kernel, listeners, pools }: Sections): string[] {
  const isKernel = engine === 'kernel' || (engine === 'auto' && kernel.sourceAddress !== undefined);
  if (!isKernel) return [];
  const warnings: string[] = [];
  listeners.forEach((listener, i) => {
    if (listener?.protocol !== 'tcp' || listener.engine !== 'auto') return;
    const stays = `listener "${listener.name}" stays in user space; its engine userspace says that this is meant`;
    if (kernel.sourceAddress === undefined) {
      warnings.push(`kernel.sourceAddress: is not said, so ${stays}`);
      return;
    }
    for (const { key, why } of userspaceNeeds(listener, poolOf(listener, pools))) {
      const at = key[0] === 'pools' ? key.join('.') : `listeners[${i}].${key.join('.')}`;
      warnings.push(`${at}: ${why}, so ${stays}`);
    }
  });
  return warnings;
}

function poolOf(
  { pool }: TcpListenerConfig,
  pools: readonly (PoolConfig | undefined)[],
): PoolConfig | undefined {
  return pools.find((one) => one?.name === pool);
}
