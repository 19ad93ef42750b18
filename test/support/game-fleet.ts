/** Game servers as processes, and the configuration of a relay in front of them. */
import { tickrelay, type ManagedProcess, type ProcessGroup } from '../../bench/process-group.ts';
import { Endpoint } from '../../net/address.ts';
import type { RelayProcess } from './relay-process.ts';

export interface GameServerSettings {
  readonly id: number;
  /** Registers with this relay ten times a second. */
  readonly register?: RelayProcess | undefined;
  /** Its name in the pool; `server-ID` by default. */
  readonly backendId?: string;
  readonly listen?: string | undefined;
  readonly flags?: readonly string[];
}

export interface GameServerProcess {
  readonly id: number;
  /** Its name in a pool that it registered in. */
  readonly backendId: string;
  readonly endpoint: Endpoint;
  readonly process: ManagedProcess;
}

/** Resolves when it is bound; with a relay, registering is then on its way. */
export async function startGameServer(
  group: ProcessGroup,
  { id, register, backendId = `server-${id}`, listen = '127.0.0.1:0', flags = [] }: GameServerSettings,
): Promise<GameServerProcess> {
  const membership =
    register === undefined
      ? []
      : ['--register', register.admin, '--interval', '100ms', '--backend-id', backendId];
  const child = group.start(
    tickrelay(`game server ${id}`, [
      'gameserver',
      '--json',
      ...['--id', String(id)],
      ...['--listen', listen],
      ...membership,
      ...flags,
    ]),
  );
  const { udp } = await child.event('ready');
  return { id, backendId, endpoint: Endpoint.parse(udp as string), process: child };
}

/** Seconds without a heartbeat until a server is out: long enough for a busy machine, short enough for a test. */
export const HEARTBEAT = { type: 'heartbeat', interval: '200ms', rise: 2, fall: 6 } as const;

/** Asks a server as a player would. A heartbeat shows that the process runs; this shows that it serves. */
export const UDP_PROBE = {
  type: 'udp',
  payload: 'ffff000000000000000000000000',
  interval: '250ms',
  timeout: '250ms',
  rise: 2,
  fall: 4,
} as const;

export const LOOPBACK = { allow: ['127.0.0.0/8', '::1/128'] } as const;

interface GameConfig {
  readonly listener?: object;
  readonly pool?: object;
  readonly rest?: object;
}

/** One UDP listener `game` before one pool `game-servers`, with an admin address; all ports are the system's choice. */
export function gameConfig({ listener = {}, pool = {}, rest = {} }: GameConfig = {}): object {
  return {
    listeners: [{ name: 'game', protocol: 'udp', listen: '127.0.0.1:0', pool: 'game-servers', ...listener }],
    pools: { 'game-servers': pool },
    admin: { listen: '127.0.0.1:0' },
    ...rest,
  };
}
