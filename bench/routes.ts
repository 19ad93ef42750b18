/**
 * The routes: what may stand between players and game servers. A new engine or peer is one line in the table below
 * (docs/benchmarking.md shows one).
 */
import { RelayError } from '../net/relay-error.ts';
import { tickrelay, type EventFields, type ProcessGroup } from './process-group.ts';
import { readRelayUse } from './relay-metrics.ts';
import { DIRECT, type RelayUse } from './results.ts';

/** A route that carries traffic. */
export interface Route {
  /** As the report calls it. */
  readonly name: string;
  /** Where the players of game server i send to: the server itself, or whatever stands in front. */
  readonly targets: readonly string[];
  /** Counters and CPU time of what stands between. Undefined where it keeps none. */
  readonly readUse: (() => Promise<RelayUse>) | undefined;
  readonly close: () => Promise<void>;
}

export interface RouteOptions {
  readonly group: ProcessGroup;
  /** Addresses of the game servers. */
  readonly backends: readonly string[];
}

export type OpenRoute = (options: RouteOptions) => Promise<Route>;

/** What `--engine` takes. */
export const ENGINES: Readonly<Record<string, OpenRoute>> = {
  dgram: (options) => openRelay('dgram', options),
};

export function openDirect({ backends }: Pick<RouteOptions, 'backends'>): Route {
  return { name: DIRECT, targets: backends, readUse: undefined, close: () => Promise.resolve() };
}

async function openRelay(engine: string, { group, backends }: RouteOptions): Promise<Route> {
  const child = group.start(
    tickrelay(`relay (${engine})`, [
      'relay',
      ...['--udp', '127.0.0.1:0'],
      ...backends.flatMap((backend) => ['--backend', backend]),
      ...['--engine', engine],
      ...['--admin', '127.0.0.1:0'],
      // Nobody plays any more when the route is closed, and sessions outlive their players by the idle timeout.
      ...['--shutdown-deadline', '1ms'],
      '--json',
    ]),
  );
  const { udp, admin } = relayAddresses(await child.event('ready'));
  return {
    name: child.name,
    targets: backends.map(() => udp),
    readUse: () => readRelayUse(admin),
    close: async () => {
      await child.stop();
    },
  };
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
