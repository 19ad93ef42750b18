/**
 * The routes: what may stand between players and game servers. A new engine or peer is one line in a table here
 * (docs/benchmarking.md shows one).
 */
import { loadLibc } from '../net/linux/libc.ts';
import { RelayError } from '../net/relay-error.ts';
import { whyUnavailable } from '../relay/engines/kernel/availability.ts';
import { openNginx } from './nginx.ts';
import { confineRelay } from './pinning.ts';
import { tickrelay, type EventFields, type ProcessGroup } from './process-group.ts';
import { readRelayMetrics, type RelayMetrics } from './relay-metrics.ts';
import { LOOPBACK, type Site } from './site.ts';
import { DIRECT, type AbsentPeer, type Pinning, type RouteInfo } from './results.ts';

/** A route that carries traffic. */
export interface Route {
  readonly info: RouteInfo;
  /** Where the players of game server i send to: the server itself, or whatever stands in front. */
  readonly targets: readonly string[];
  /** Whose CPU time is counted, with that of its children. Undefined where nothing stands between. */
  readonly pid: number | undefined;
  /** Undefined where it keeps none. */
  readonly readMetrics: (() => Promise<RelayMetrics>) | undefined;
  readonly close: () => Promise<void>;
}

export interface RouteOptions {
  readonly group: ProcessGroup;
  /** Addresses of the game servers. */
  readonly backends: readonly string[];
  readonly pinning: Pinning | undefined;
  readonly site: Site;
}

export type OpenRoute = (options: RouteOptions) => Promise<Route>;

/** What `--engine` takes, best first. The comparison is one worker for one worker. */
export const ENGINES: Readonly<Record<string, readonly string[]>> = {
  kernel: ['--source-address', 'client', '--bpffs', 'none'],
  mmsg: ['--workers', '1'],
  dgram: [],
};

/** The engine whose --coalesce `--dial` turns. */
export const DIAL_ENGINE = 'mmsg';

/** What `--peers` takes. Opening one throws a RelayError when it can't be had here. */
export const PEERS: Readonly<Record<string, OpenRoute>> = {
  nginx: openNginx,
};

/** The engines that run on this machine. */
export function availableEngines(): string[] {
  const runs: Readonly<Record<string, boolean>> = {
    kernel: whyUnavailable() === undefined,
    mmsg: !('unavailable' in loadLibc()),
  };
  return Object.keys(ENGINES).filter((engine) => runs[engine] ?? true);
}

export function openDirect({ backends, site }: Pick<RouteOptions, 'backends' | 'site'>): Route {
  const how = site === LOOPBACK ? '' : ', through a namespace that forwards';
  return {
    info: { name: DIRECT, kind: 'direct', detail: `players play on the game servers themselves${how}` },
    targets: backends,
    pid: undefined,
    readMetrics: undefined,
    close: () => Promise.resolve(),
  };
}

/** Opens a relay of ours. @param flags further ones, after those of the table */
export async function openRelay(
  engine: string,
  { group, backends, pinning, site }: RouteOptions,
  flags: readonly string[] = [],
): Promise<Route> {
  const settings = [...ENGINES[engine]!, ...flags];
  const child = group.start(
    tickrelay(`relay (${engine})`, [
      'relay',
      ...['--udp', `${site.relayIp}:0`],
      ...backends.flatMap((backend) => ['--backend', backend]),
      ...['--engine', engine, ...settings],
      ...['--admin', '127.0.0.1:0'],
      // Nobody plays any more when the route is closed, and sessions outlive their players by the idle timeout.
      ...['--shutdown-deadline', '1ms'],
      '--json',
    ]),
  );
  const { udp, admin } = relayAddresses(await child.event('ready'));
  confineRelay(child.pid, pinning);
  return {
    info: {
      name: [engine, ...flags].join(' '),
      kind: 'engine',
      detail: ['tickrelay relay --engine', engine, ...settings].join(' '),
    },
    targets: backends.map(() => udp),
    pid: child.pid,
    readMetrics: () => readRelayMetrics(admin),
    close: async () => {
      await child.stop();
    },
  };
}

/** Opens a peer of the table, or says why it can't be had. */
export async function openPeer(name: string, options: RouteOptions): Promise<Route | AbsentPeer> {
  try {
    return await PEERS[name]!(options);
  } catch (error) {
    if (error instanceof RelayError) return { name, reason: error.message };
    throw error;
  }
}

/** The addresses that a relay with one UDP listener printed when it was ready. */
export function relayAddresses({ listeners, admin }: EventFields): {
  readonly udp: string;
  readonly admin: string;
} {
  const [udp] = Object.values((listeners ?? {}) as Record<string, string>);
  if (udp === undefined || typeof admin !== 'string') {
    throw new RelayError(
      'TICKRELAY_ERR_LOAD',
      'the relay is ready, but did not print its listener and admin address',
    );
  }
  return { udp, admin };
}
