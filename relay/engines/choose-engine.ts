/**
 * Which data plane runs: a table of engines, best first, each with a probe. `auto` takes the first that works here; a
 * named engine that does not work is an error that says why, never a silent substitute.
 */
import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { readDescriptorLimit } from '../../net/descriptor-limit.ts';
import { openDgramSocket } from '../../net/dgram-socket.ts';
import { raiseDescriptorLimit } from '../../net/linux/descriptor-limit.ts';
import { hugePages } from '../../net/linux/huge-pages.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { RelayError } from '../../net/relay-error.ts';
import { DEFAULT_MAX_UPSTREAM_SOCKETS, MAX_KERNEL_POOLS } from '../core/limits.ts';
import type { Engine, EngineName } from './engine.ts';
import { whyUnavailable } from './kernel/availability.ts';
import type { PortRange } from './kernel/relay-ports.ts';
import { KernelEngine } from './kernel/kernel-engine.ts';
import { MmsgEngine } from './mmsg/mmsg-engine.ts';
import { UserspaceEngine, type UserspaceEngineOptions } from './userspace/userspace-engine.ts';

/** Descriptors that everything but upstream sockets may need: listeners, TCP, the admin API, Node itself. */
const MOST_OTHER_DESCRIPTORS = 1_024;

export type EngineSettings = Omit<UserspaceEngineOptions, 'name' | 'openSocket' | 'maxUpstreamSockets'> & {
  /** Absent: 16,384, or as many as there are descriptors for. */
  readonly maxUpstreamSockets?: number | undefined;
  /** Descriptors that TCP connections may take. */
  readonly tcpDescriptors?: number;
  /** Worker threads of engines that have them; absent: one for each core. */
  readonly workers?: number | undefined;
  readonly coalesceUs?: number;
  readonly kernel: KernelSettings;
};

/** What only the engine `kernel` needs. */
export interface KernelSettings {
  /** The relay's name. */
  readonly name: string;
  readonly interfaces: readonly string[];
  /** Whose address backends see; undefined: nobody has said, so the engine must be named. */
  readonly sourceAddress: 'client' | 'relay' | undefined;
  /** With sourceAddress `relay`: the relay's ports towards backends. */
  readonly relayPorts: PortRange;
  /** A path, or `none`. */
  readonly bpffs: string;
  readonly keepAttached: boolean;
  /** Pools that it would need room for. */
  readonly pools: number;
}

interface EngineEntry {
  readonly name: EngineName;
  /** @returns why the engine can't run here, or undefined when it can */
  readonly unavailable: (settings: EngineSettings) => string | undefined;
  /** @returns why `auto` passes it over although it can run here */
  readonly unasked?: (settings: EngineSettings) => string | undefined;
  /** @throws RelayError TICKRELAY_ERR_ENGINE for what only shows when it is tried */
  readonly create: (settings: EngineSettings) => CreatedEngine;
}

/** An engine, and what it has to say of how it began. */
type CreatedEngine = Engine & { readonly origin?: string };

const AUTO = 'auto: the best that works here';

/** Best first. A new engine is one line here and one in test/contract/engine-harness.ts. */
const ENGINES: readonly EngineEntry[] = [
  {
    name: 'kernel',
    unavailable: whyUnavailable,
    unasked: ({ kernel }) => {
      if (kernel.sourceAddress === undefined)
        return (
          'nobody has said whose address backends shall see; set kernel.sourceAddress to relay, or to client where ' +
          'their answers come back through this host'
        );
      if (kernel.pools > MAX_KERNEL_POOLS)
        return `it has room for ${MAX_KERNEL_POOLS} pools, and listeners need ${kernel.pools}; let listeners share pools`;
      return undefined;
    },
    create: ({ kernel, maxSessions, maxUpstreamSockets, hashSeed, onTrouble }) => {
      const loaded = loadLibc();
      assert('libc' in loaded);
      return new KernelEngine({
        ...kernel,
        bpffs: kernel.bpffs === 'none' ? undefined : kernel.bpffs,
        relayPorts: kernel.sourceAddress === 'relay' ? kernel.relayPorts : undefined,
        libc: loaded.libc,
        maxSessions,
        maxUpstreamSockets,
        hashSeed,
        onTrouble,
      });
    },
  },
  {
    name: 'mmsg',
    unavailable: () => {
      const loaded = loadLibc();
      return 'unavailable' in loaded ? loaded.unavailable : undefined;
    },
    create: (settings) => {
      const loaded = loadLibc();
      assert('libc' in loaded);
      return new MmsgEngine({
        ...withinDescriptors(settings),
        libc: loaded.libc,
        workers: settings.workers ?? availableParallelism(),
      });
    },
  },
  {
    name: 'dgram',
    unavailable: () => undefined,
    create: (settings) => {
      const loaded = loadLibc();
      return new UserspaceEngine({
        ...withinDescriptors(settings),
        name: 'dgram',
        openSocket: openDgramSocket,
        prepareMemory: 'libc' in loaded ? hugePages(loaded.libc) : undefined,
      });
    },
  },
];

export interface ChosenEngine {
  readonly engine: Engine;
  /** One line for the log and for `tickrelay_engine_info`. */
  readonly reason: string;
}

/**
 * @throws RelayError TICKRELAY_ERR_ENGINE when the named engine can't run here; TICKRELAY_ERR_CONFIG when there are no
 *   descriptors for the upstream sockets that were asked for
 */
export function chooseEngine(choice: EngineName | 'auto', settings: EngineSettings): ChosenEngine {
  if (choice !== 'auto') return namedEngine(choice, settings);
  const passedOver: string[] = [];
  for (const entry of ENGINES) {
    const unasked = entry.unasked?.(settings);
    const tried = unasked === undefined ? tryEngine(entry, settings) : { why: unasked };
    if ('engine' in tried) return { ...tried, reason: reasonOf(tried.engine, [AUTO, ...passedOver]) };
    passedOver.push(`${entry.name} ${unasked === undefined ? "can't run" : 'is not taken'}: ${tried.why}`);
  }
  assert.fail('the portable engine runs anywhere');
}

function namedEngine(choice: EngineName, settings: EngineSettings): ChosenEngine {
  const named = ENGINES.find(({ name }) => name === choice);
  assert(named !== undefined);
  const tried = tryEngine(named, settings);
  if ('engine' in tried) return { ...tried, reason: reasonOf(tried.engine, ['chosen by the configuration']) };
  const others = ENGINES.filter((entry) => entry !== named && entry.unavailable(settings) === undefined);
  throw new RelayError(
    'TICKRELAY_ERR_ENGINE',
    `engine ${choice} can't run here: ${tried.why}; choose auto or ${others.map(({ name }) => name).join(', ')}`,
  );
}

function tryEngine(
  { unavailable, create }: EngineEntry,
  settings: EngineSettings,
): { readonly engine: CreatedEngine } | { readonly why: string } {
  const why = unavailable(settings);
  if (why !== undefined) return { why };
  try {
    return { engine: create(settings) };
  } catch (error) {
    if (!(error instanceof RelayError) || error.code !== 'TICKRELAY_ERR_ENGINE') throw error;
    return { why: error.message };
  }
}

function reasonOf({ origin }: CreatedEngine, reasons: readonly string[]): string {
  return [...reasons, ...(origin === undefined ? [] : [origin])].join('; ');
}

/**
 * Raises the limit of descriptors to what the configuration needs, and fits the upstream sockets into what was granted. Some
 * are left for everything else: with none left the admin API, health checks and TCP could not open a connection.
 */
function withinDescriptors(settings: EngineSettings): EngineSettings & { maxUpstreamSockets: number } {
  const { maxUpstreamSockets: asked, tcpDescriptors = 0 } = settings;
  const wanted = asked ?? DEFAULT_MAX_UPSTREAM_SOCKETS;
  const limit = descriptorLimit(wanted + tcpDescriptors + MOST_OTHER_DESCRIPTORS);
  const most =
    limit === Number.POSITIVE_INFINITY ? wanted : limit - Math.min(MOST_OTHER_DESCRIPTORS, limit >> 1);
  if (wanted <= most) return { ...settings, maxUpstreamSockets: wanted };
  const remedy = `raise the limit to ${wanted + MOST_OTHER_DESCRIPTORS} (\`ulimit -n\`, or LimitNOFILE of a systemd unit)`;
  if (asked !== undefined) {
    throw new RelayError(
      'TICKRELAY_ERR_CONFIG',
      `limits.maxUpstreamSockets: ${asked} can't be had: the process may open ${limit} descriptors, and needs some for ` +
        `everything else; ${remedy}, or ask for at most ${most}, or for auto`,
    );
  }
  settings.onTrouble?.(
    new RelayError(
      'TICKRELAY_ERR_LIMIT',
      `the process may open ${limit} descriptors, so it takes ${most} upstream sockets instead of ${wanted}, and a backend ` +
        `that many players; ${remedy}, or set limits.maxUpstreamSockets`,
    ),
  );
  return { ...settings, maxUpstreamSockets: most };
}

/** @returns the limit in force, after raising it towards `wanted` where the system lets the process */
function descriptorLimit(wanted: number): number {
  const loaded = loadLibc();
  return 'libc' in loaded ? raiseDescriptorLimit(loaded.libc, wanted) : readDescriptorLimit();
}
