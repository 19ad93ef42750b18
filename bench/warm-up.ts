/** Play that nobody measures, from the benchmark's own process: it saves the start of a generator. */
import { BotFleet } from '../botclient/bot-fleet.ts';
import { Endpoint } from '../net/address.ts';
import { openDgramSocket } from '../net/dgram-socket.ts';
import { CODECS } from '../wire/codec.ts';
import type { Load } from './load-run.ts';
import type { Route } from './routes.ts';

/** Slow, so that one process can play every player of the ladder; long enough for two updates of each. */
const PRIMING = { tickHz: 8, durationMs: 250, rampMs: 0, warmupMs: 0 } as const;
/** How long the main load warms a route up, in ms. */
const WARM_UP_MS = 400;
const GRACE_MS = 50;

/** Lets every player say to every game server where they are. */
export async function primeServers(
  servers: readonly string[],
  { players, codec, seed }: Pick<Load, 'players' | 'codec' | 'seed'>,
): Promise<void> {
  const load = { ...PRIMING, players, codec, seed };
  await Promise.all(servers.map((server) => play(server, load)));
}

/** Runs a load through a route until its code is warm. */
export async function warmRouteUp({ targets }: Route, load: Omit<Load, 'durationMs'>): Promise<void> {
  const [target] = targets;
  if (target !== undefined) await play(target, { ...load, durationMs: WARM_UP_MS });
}

async function play(target: string, { codec, ...load }: Load): Promise<void> {
  const fleet = new BotFleet({
    ...load,
    target: Endpoint.parse(target),
    codec: CODECS[codec],
    reply: 'immediate',
    graceMs: GRACE_MS,
    firstPlayer: 0,
    openSocket: openDgramSocket,
  });
  fleet.start();
  await fleet.finished;
}
