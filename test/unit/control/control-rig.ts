/** A control plane with an admin server and a stand-in for the data planes, for the tests of this room. */
import { pino } from 'pino';
import { onTestFinished } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { ListenerCounters } from '../../../relay/core/counters.ts';
import type { PoolSnapshot } from '../../../relay/core/pool-snapshot.ts';
import { AdminServer } from '../../../relay/control/admin-server.ts';
import { ConfigReloader } from '../../../relay/control/config-reloader.ts';
import {
  parseConfig,
  type ConfigOverrides,
  type PoolConfig,
  type RelayConfig,
} from '../../../relay/control/config.ts';
import { ControlPlane } from '../../../relay/control/control-plane.ts';
import { Metrics } from '../../../relay/control/metrics.ts';
import type { ClientQuery, Readiness, RelayView } from '../../../relay/control/relay-view.ts';

export const silent = pino({ level: 'silent' });

/** A pool `games` that takes registrations with the token `secret`, and a static pool `db`. */
export const RIG_CONFIG = `
listeners:
  - { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: games }
  - { name: login, protocol: tcp, listen: "10.9.9.9:5432", pool: db }
pools:
  games:
    healthCheck: { type: heartbeat, interval: 1s, rise: 2, fall: 3 }
    registration: { allow: ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.0.0.0/8", "0.0.0.0/8", "fd00::/8"], token: secret, settle: 0ms }
    backends: [ { id: static-1, address: "10.0.0.1:7777" } ]
  db: { backends: [ "10.0.0.3:5432" ] }
admin: { listen: "127.0.0.1:7900" }
`;

/** The configuration of one pool, from its keys in YAML. */
export const poolConfig = (keys: string): PoolConfig =>
  parseConfig(`
listeners: [ { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: games } ]
pools: { games: { ${keys} } }`).config.pools[0]!;

/** What the data planes would report; tests change it as they like. */
export class FakeRelay implements RelayView {
  current: RelayConfig;
  state: Readiness = { ready: true, reasons: [] };
  readonly counters = new ListenerCounters();
  readonly closed: number[] = [];
  readonly ended: string[] = [];
  readonly queries: ClientQuery[] = [];
  failure: Error | undefined;

  constructor(config: RelayConfig) {
    this.current = config;
  }

  engine = () => ({ name: 'dgram', reason: 'test' });
  tcpEngine = () => ({ name: 'streams', reason: 'test' });
  readiness = () => this.state;
  config = () => this.current;
  capacity = () => ({ maxSessions: 65_536, liveSessions: 3, livePins: 2 });

  udpListeners = () => [
    {
      name: 'game',
      pool: 'games',
      local: Endpoint.parse('0.0.0.0:7777'),
      counts: this.counters.dump(),
      liveSessions: 3,
      sessionsByBackend: new Map([['static-1', 3]]),
      upstreamSockets: 2,
      receiveBuffer: { grantedBytes: 212_992 },
      figuresByBackend: new Map([
        [
          'static-1',
          {
            downstream: { datagrams: 9, bytes: 126 },
            upstream: { datagrams: 8, bytes: 1_184 },
            gaps: 2,
            intervals: { boundsSeconds: [0.008], counts: [5, 1] },
            replyTimes: { boundsSeconds: [0.001, 0.002], counts: [4, 2, 1], sumSeconds: 0.0095 },
          },
        ],
      ]),
    },
  ];

  tcpListeners = () => [
    {
      name: 'login',
      pool: 'db',
      local: Endpoint.parse('10.9.9.9:5432'),
      counts: {
        accepted: 5,
        closed: { completed: 4, 'client-reset': 0 },
        retried: 1,
        acceptErrors: 0,
        downstreamBytes: 100,
        upstreamBytes: 2_000,
      },
      liveConnections: 1,
      queuedConnections: 0,
      connectionsByBackend: new Map([['10.0.0.3:5432', 1]]),
    },
  ];

  sessions = (query: ClientQuery) => {
    if (this.failure !== undefined) throw this.failure;
    this.queries.push(query);
    return Promise.resolve({ sessions: [{ client: '192.0.2.1:4000' }], total: 1, truncated: false });
  };

  connections = (query: ClientQuery) => {
    this.queries.push(query);
    return { connections: [{ id: 7 }], total: 1, truncated: false };
  };

  endSession = (listener: string, client: Endpoint) => {
    this.ended.push(`${listener} ${client.toString()}`);
    return client.port === 4000;
  };

  pinnedBackend = (group: string, pool: string, client: Uint32Array) =>
    Promise.resolve(
      group === 'players' && client[3] !== 0 ? (pool === 'db' ? 'eu-1' : undefined) : undefined,
    );

  closeConnection = (id: number) => {
    this.closed.push(id);
    return id === 7;
  };
}

/** How long the rig's admin server waits for a request to arrive whole. */
const REQUEST_TIMEOUT_MS = 500;

export interface Rig {
  readonly control: ControlPlane;
  readonly relay: FakeRelay;
  readonly reloader: ConfigReloader;
  readonly metrics: Metrics;
  readonly server: AdminServer;
  readonly snapshots: PoolSnapshot[];
  readonly own: Endpoint[];
}

/** Everything is closed when the test ends. */
export function createRig(text = RIG_CONFIG, path?: string, overrides?: ConfigOverrides): Rig {
  const { config } = parseConfig(text);
  const snapshots: PoolSnapshot[] = [];
  const own = ['0.0.0.0:7777', '10.9.9.9:5432', '127.0.0.1:7900'].map((address) => Endpoint.parse(address));
  const control = new ControlPlane({
    config,
    onSnapshot: (snapshot) => {
      snapshots.push(snapshot);
      return Promise.resolve();
    },
    ownEndpoints: () => own,
    logger: silent,
  });
  const relay = new FakeRelay(config);
  const reloader = new ConfigReloader({
    path,
    overrides,
    current: () => relay.current,
    apply: async (next) => {
      await control.openNew(next);
      await control.applyConfig(next);
      relay.current = next;
    },
    logger: silent,
  });
  const metrics = new Metrics({ relay, control, reloader, version: '0.0.0-test' });
  const server = new AdminServer({
    relay,
    control,
    reloader,
    metrics,
    logger: silent,
    requestTimeoutMs: REQUEST_TIMEOUT_MS,
  });
  control.start();
  onTestFinished(async () => {
    await server.close();
    await control.close();
  });
  return { control, relay, reloader, metrics, server, snapshots, own };
}
