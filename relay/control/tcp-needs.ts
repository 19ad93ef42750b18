/** What of a TCP listener's configuration only user space has, so that the kernel can't carry its connections. */
import { DEFAULT_CONNECT_TIMEOUT_MS } from '../core/limits.ts';
import type { EngineChoice, KernelConfig, ListenerConfig, PoolConfig, TcpListenerConfig } from './config.ts';
import type { ConfigPath, Problems } from './config-problems.ts';
import { DEFAULT_KEEP_ALIVE_MS } from './config-schema.ts';

export interface Need {
  /** The key, from the listener on, or with `pools` first from the root. */
  readonly key: readonly string[];
  readonly why: string;
}

/** @param pool the listener's */
export function userspaceNeeds(listener: TcpListenerConfig, pool: PoolConfig | undefined): readonly Need[] {
  const { proxyProtocol, queue, slowStartMs, pinGroup, connectTimeoutMs, keepAliveMs } = listener;
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
    connectTimeoutMs !== DEFAULT_CONNECT_TIMEOUT_MS && {
      key: ['connectTimeout'],
      why: 'the kernel leaves the attempt to the client, and makes no second one',
    },
    keepAliveMs !== DEFAULT_KEEP_ALIVE_MS && {
      key: ['keepAlive'],
      why: 'the kernel leaves probes to the two ends',
    },
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

/** What becomes of listeners that `auto` would have in the kernel, and of pools whose listeners are in both places. */
export function tcpEngineWarnings(sections: Sections): string[] {
  if (!mayHaveTcp(sections)) return [];
  return sections.listeners.flatMap((listener, i) => {
    if (listener?.protocol !== 'tcp' || listener.engine === 'userspace') return [];
    const why = whyInUserspace(listener, `listeners[${i}]`, sections);
    if (why.length > 0) {
      const stays = `listener "${listener.name}" stays in user space; its engine userspace says that this is meant`;
      return why.map((reason) => `${reason}, so ${stays}`);
    }
    const other = inUserspaceOnPool(listener.pool, sections);
    if (other === undefined) return [];
    return [
      `listeners[${i}].engine: kernel, and listener "${other.name}" on the same pool is in user space: maxConnections of the pool's backends and least-connections hold for each place alone`,
    ];
  });
}

/** Of a listener that is not to be in the kernel whatever comes. Each begins with the path of a key. */
function whyInUserspace(listener: TcpListenerConfig, at: string, sections: Sections): readonly string[] {
  if (listener.engine === 'kernel') return [];
  if (sections.kernel.sourceAddress === undefined) return ['kernel.sourceAddress: is not said'];
  const needs = userspaceNeeds(listener, poolOf(listener, sections.pools));
  if (needs.length > 0) {
    return needs.map(({ key, why }) => {
      const path = key[0] === 'pools' ? key.join('.') : `${at}.${key.join('.')}`;
      return `${path}: ${why}`;
    });
  }
  const other = inUserspaceOnPool(listener.pool, sections);
  if (other === undefined) return [];
  return [`${at}.pool: its connections are counted in user space, where listener "${other.name}" is`];
}

/** What is different for listeners that may be in the kernel, for who checks a configuration. */
export function tcpEngineNotes(sections: Sections): string[] {
  if (!mayHaveTcp(sections)) return [];
  return sections.listeners.flatMap((listener, i) => {
    if (listener?.protocol !== 'tcp' || listener.engine === 'userspace') return [];
    if (whyInUserspace(listener, '', sections).length > 0) return [];
    const where = listener.engine === 'kernel' ? 'is' : 'may be';
    return [
      `listeners[${i}]: listener "${listener.name}" ${where} carried in the kernel, which tries no second backend when one refuses; engine userspace does`,
    ];
  });
}

/** Whether the relay's engine may carry TCP. */
function mayHaveTcp({ engine, kernel }: Sections): boolean {
  return engine === 'kernel' || (engine === 'auto' && kernel.sourceAddress !== undefined);
}

/** A listener on the pool that is in user space whatever the machine can do. */
function inUserspaceOnPool(name: string, { listeners, pools }: Sections): TcpListenerConfig | undefined {
  return listeners
    .filter((listener) => listener?.protocol === 'tcp')
    .find(
      (listener) =>
        listener.pool === name &&
        (listener.engine === 'userspace' ||
          (listener.engine === 'auto' && userspaceNeeds(listener, poolOf(listener, pools)).length > 0)),
    );
}

function poolOf(
  { pool }: TcpListenerConfig,
  pools: readonly (PoolConfig | undefined)[],
): PoolConfig | undefined {
  return pools.find((one) => one?.name === pool);
}
