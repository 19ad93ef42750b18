/**
 * Prometheus metrics. Each is one entry of METRICS; docs/metrics.md describes them for operators. Values are read from
 * the relay's own counters at the moment of a scrape, so that counting costs the data planes nothing more.
 *
 * Labels are bounded: names from the configuration, fixed lists, and backend ids, of which a pool has at most 1,024.
 * Never a client address.
 */
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';
import type { ListenerCounts } from '../core/counters.ts';
import { DIRECTIONS } from '../core/counters.ts';
import type { ConfigReloader, ReloadStatus } from './config-reloader.ts';
import type { ControlPlane } from './control-plane.ts';
import type { PoolCounts, PoolView } from './pool-view.ts';
import type { ReplyTimes } from '../core/reply-times.ts';
import type { RelayView, TcpListenerView, UdpListenerView } from './relay-view.ts';
import { sessionsOf } from './sessions-of.ts';

export interface MetricsOptions {
  readonly relay: RelayView;
  readonly control: ControlPlane;
  readonly reloader: ConfigReloader;
  /** The version of tickrelay. */
  readonly version: string;
}

/** Everything that one scrape reports, read once. */
interface Sample {
  readonly version: string;
  readonly engine: { readonly name: string; readonly reason: string };
  readonly tcpEngine: { readonly name: string; readonly reason: string };
  readonly udp: readonly UdpListenerView[];
  readonly tcp: readonly TcpListenerView[];
  readonly pools: readonly (PoolView & { readonly counts: PoolCounts })[];
  readonly capacity: ReturnType<RelayView['capacity']>;
  readonly reload: ReloadStatus;
}

type Reading = readonly [labels: Readonly<Record<string, string>>, value: number];

interface Metric {
  /** Without the prefix `tickrelay_`. */
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  readonly labels: readonly string[];
  readonly read: (sample: Sample) => Iterable<Reading>;
}

/** How often the lag of the event loop is measured, in ms. Each time wakes a relay that has nothing else to do. */
const LAG_PRECISION_MS = 50;

const STATES = ['ready', 'draining', 'unhealthy', 'disabled'] as const;

const METRICS: readonly Metric[] = [
  gauge('build_info', 'Always 1; the versions are in the labels', ['version', 'node'], ({ version }) => [
    [{ version, node: process.version }, 1],
  ]),
  gauge('engine_info', 'Always 1; the engine and why it was chosen', ['engine', 'reason'], ({ engine }) => [
    [{ engine: engine.name, reason: engine.reason }, 1],
  ]),
  gauge(
    'tcp_engine_info',
    'Always 1; how TCP is carried in user space and why so',
    ['engine', 'reason'],
    ({ tcpEngine }) => [[{ engine: tcpEngine.name, reason: tcpEngine.reason }, 1]],
  ),

  perDirection('datagrams_received_total', 'Datagrams received', ({ received }) => received),
  perDirection('bytes_received_total', 'Payload bytes received', ({ receivedBytes }) => receivedBytes),
  perDirection('datagrams_forwarded_total', 'Datagrams forwarded', ({ forwarded }) => forwarded),
  perDirection('bytes_forwarded_total', 'Payload bytes forwarded', ({ forwardedBytes }) => forwardedBytes),
  counter(
    'datagrams_dropped_total',
    'Datagrams not forwarded, by reason; received = forwarded + dropped',
    ['listener', 'direction', 'reason'],
    ({ udp }) =>
      udp.flatMap(({ name, counts }) =>
        DIRECTIONS.flatMap((direction) =>
          Object.entries(counts[direction].dropped).map(([reason, count]): Reading => [
            { listener: name, direction, reason },
            count,
          ]),
        ),
      ),
  ),

  perUdpListener('gauge', 'sessions', 'Live sessions', ({ liveSessions }) => liveSessions),
  perUdpListener(
    'counter',
    'sessions_opened_total',
    'Sessions opened',
    ({ counts }) => counts.sessionsOpened,
  ),
  perUdpListener(
    'counter',
    'sessions_expired_total',
    'Sessions ended by the idle timeout',
    ({ counts }) => counts.sessionsExpired,
  ),
  perUdpListener(
    'counter',
    'sessions_evicted_total',
    'Half-open sessions that made room in a full table',
    ({ counts }) => counts.sessionsEvicted,
  ),
  perUdpListener(
    'counter',
    'sessions_repinned_total',
    'Live sessions moved to another backend',
    ({ counts }) => counts.sessionsRepinned,
  ),
  perUdpListener(
    'counter',
    'kernel_drops_total',
    'Datagrams that the kernel dropped before the relay received them',
    ({ counts }) => counts.kernelDrops,
  ),
  perUdpListener(
    'counter',
    'upstream_unreachable_total',
    'ICMP errors that came back for datagrams to backends',
    ({ counts }) => counts.upstreamUnreachable,
  ),
  perUdpListener(
    'gauge',
    'upstream_sockets',
    'Open upstream sockets',
    (listener) => listener.upstreamSockets,
  ),
  gauge(
    'listener_receive_buffer_bytes',
    'Receive buffer that the system granted the listener',
    ['listener'],
    ({ udp }) =>
      udp.flatMap(({ name, receiveBuffer: { grantedBytes } }): Reading[] =>
        grantedBytes === undefined ? [] : [[{ listener: name }, grantedBytes]],
      ),
  ),
  gauge('session_capacity', 'Sessions that the table can hold', [], ({ capacity }) => [
    [{}, capacity.maxSessions],
  ]),
  gauge('pins', 'Client addresses with a backend of their own', [], ({ capacity }) => [
    [{}, capacity.livePins],
  ]),

  gauge(
    'backend_state',
    '1 for the state that the backend is in, 0 for the others',
    ['pool', 'backend', 'state'],
    ({ pools }) =>
      perBackend(pools, ({ state }, labels) =>
        STATES.map((name) => [{ ...labels, state: name }, state === name ? 1 : 0]),
      ),
  ),
  gauge(
    'backend_sessions',
    'Live sessions and connections of the backend',
    ['pool', 'backend'],
    ({ pools, udp, tcp }) => {
      const sessions = sessionsOf(udp, tcp);
      return perBackend(pools, ({ id }, labels) => [[labels, sessions.get(labels.pool)?.get(id) ?? 0]]);
    },
  ),
  counter(
    'backend_reply_seconds_bucket',
    'Times from a client’s datagram to its backend’s next reply, at most so long',
    ['pool', 'backend', 'le'],
    ({ udp }) =>
      perReplyTimes(udp, ({ boundsSeconds, counts }, labels) => {
        let below = 0;
        return counts.map((count, i): Reading => {
          below += count;
          return [{ ...labels, le: String(boundsSeconds[i] ?? '+Inf') }, below];
        });
      }),
  ),
  counter('backend_reply_seconds_count', 'Replies whose time was taken', ['pool', 'backend'], ({ udp }) =>
    perReplyTimes(udp, ({ counts }, labels) => [[labels, counts.reduce((sum, count) => sum + count, 0)]]),
  ),
  counter('backend_reply_seconds_sum', 'All of these times together', ['pool', 'backend'], ({ udp }) =>
    perReplyTimes(udp, ({ sumSeconds }, labels) => [[labels, sumSeconds]]),
  ),
  gauge(
    'backend_players',
    'Players that the backend reported with its heartbeat',
    ['pool', 'backend'],
    ({ pools }) =>
      perBackend(pools, ({ players }, labels) => (players === undefined ? [] : [[labels, players]])),
  ),
  counter('health_checks_total', 'Health checks, by result', ['pool', 'result'], ({ pools }) =>
    perResult(pools, ({ checks }) => checks),
  ),
  counter(
    'registrations_total',
    'Registration requests and endings, by result',
    ['pool', 'result'],
    ({ pools }) => perResult(pools, ({ registrations }) => registrations),
  ),

  perTcpListener('gauge', 'tcp_connections', 'Live connections', ({ liveConnections }) => liveConnections),
  perTcpListener(
    'gauge',
    'tcp_connections_queued',
    'Live connections that wait for a limit',
    ({ queuedConnections }) => queuedConnections,
  ),
  perTcpListener(
    'counter',
    'tcp_connections_accepted_total',
    'Connections accepted, refused ones included',
    ({ counts }) => counts.accepted,
  ),
  counter(
    'tcp_connections_closed_total',
    'Connections ended, by reason; accepted = closed + live',
    ['listener', 'reason'],
    ({ tcp }) =>
      tcp.flatMap(({ name, counts }) =>
        Object.entries(counts.closed).map(([reason, count]): Reading => [{ listener: name, reason }, count]),
      ),
  ),
  perTcpListener(
    'counter',
    'tcp_connections_retried_total',
    'Connections that a second backend was tried for',
    ({ counts }) => counts.retried,
  ),
  perTcpListener(
    'counter',
    'tcp_accept_errors_total',
    'Times that the system failed to hand over a connection',
    ({ counts }) => counts.acceptErrors,
  ),
  counter(
    'tcp_segments_dropped_total',
    'Segments that the kernel dropped: fragments, and what it could not rewrite',
    ['listener'],
    ({ tcp }) =>
      tcp.flatMap(({ name, counts: { droppedSegments } }): Reading[] =>
        droppedSegments === undefined ? [] : [[{ listener: name }, droppedSegments]],
      ),
  ),
  counter('tcp_bytes_total', 'Bytes read, by direction', ['listener', 'direction'], ({ tcp }) =>
    tcp.flatMap(({ name, counts }): Reading[] => [
      [{ listener: name, direction: 'downstream' }, counts.downstreamBytes],
      [{ listener: name, direction: 'upstream' }, counts.upstreamBytes],
    ]),
  ),

  counter('config_reloads_total', 'Reloads of the configuration, by result', ['result'], ({ reload }) => [
    [{ result: 'succeeded' }, reload.succeeded],
    [{ result: 'failed' }, reload.failed],
  ]),
  gauge(
    'config_last_reload_successful',
    '1 when the last reload succeeded, or there was none',
    [],
    ({ reload }) => [[{}, reload.isLastSuccessful ? 1 : 0]],
  ),
  gauge(
    'config_last_reload_timestamp_seconds',
    'When the running configuration was taken over, in seconds since 1970',
    [],
    ({ reload }) => [[{}, reload.lastSuccessAtSeconds]],
  ),
];

export class Metrics {
  readonly #options: MetricsOptions;
  readonly #registry = new Registry();
  #sample: Sample | undefined;

  constructor(options: MetricsOptions) {
    this.#options = options;
    collectDefaultMetrics({ register: this.#registry, eventLoopMonitoringPrecision: LAG_PRECISION_MS });
    for (const metric of METRICS) this.#register(metric);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** The text of one scrape. */
  scrape(): Promise<string> {
    this.#sample = this.#takeSample();
    return this.#registry.metrics();
  }

  /** Names and types of all metrics, for the test of the docs. */
  list(): readonly { readonly name: string; readonly type: string }[] {
    return this.#registry.getMetricsAsArray().map(({ name, type }) => ({ name, type: String(type) }));
  }

  #register({ name, type, help, labels, read }: Metric): void {
    const readings = (): Iterable<Reading> => (this.#sample === undefined ? [] : read(this.#sample));
    const options = { name: `tickrelay_${name}`, help, labelNames: [...labels], registers: [this.#registry] };
    if (type === 'gauge') {
      new Gauge({
        ...options,
        collect() {
          this.reset();
          for (const [values, value] of readings()) this.set(values, value);
        },
      });
    } else {
      new Counter({
        ...options,
        collect() {
          this.reset();
          for (const [values, value] of readings()) this.inc(values, value);
        },
      });
    }
  }

  #takeSample(): Sample {
    const { relay, control, reloader, version } = this.#options;
    return {
      version,
      engine: relay.engine(),
      tcpEngine: relay.tcpEngine(),
      udp: relay.udpListeners(),
      tcp: relay.tcpListeners(),
      pools: control.pools().map((pool) => ({ ...pool.view(), counts: pool.counts() })),
      capacity: relay.capacity(),
      reload: reloader.status(),
    };
  }
}

function gauge(name: string, help: string, labels: readonly string[], read: Metric['read']): Metric {
  return { name, type: 'gauge', help, labels, read };
}

function counter(name: string, help: string, labels: readonly string[], read: Metric['read']): Metric {
  return { name, type: 'counter', help, labels, read };
}

function perDirection(
  name: string,
  help: string,
  value: (counts: ListenerCounts['downstream']) => number,
): Metric {
  return counter(name, help, ['listener', 'direction'], ({ udp }) =>
    udp.flatMap(({ name: listener, counts }) =>
      DIRECTIONS.map((direction): Reading => [{ listener, direction }, value(counts[direction])]),
    ),
  );
}

function perUdpListener(
  type: Metric['type'],
  name: string,
  help: string,
  value: (listener: UdpListenerView) => number,
): Metric {
  const read: Metric['read'] = ({ udp }) =>
    udp.map((listener) => [{ listener: listener.name }, value(listener)]);
  return { name, type, help, labels: ['listener'], read };
}

function perTcpListener(
  type: Metric['type'],
  name: string,
  help: string,
  value: (listener: TcpListenerView) => number,
): Metric {
  const read: Metric['read'] = ({ tcp }) =>
    tcp.map((listener) => [{ listener: listener.name }, value(listener)]);
  return { name, type, help, labels: ['listener'], read };
}

function perBackend(
  pools: Sample['pools'],
  read: (
    backend: PoolView['backends'][number],
    labels: { readonly pool: string; readonly backend: string },
  ) => readonly Reading[],
): Reading[] {
  return pools.flatMap(({ name, backends }) =>
    backends.flatMap((backend) => read(backend, { pool: name, backend: backend.id })),
  );
}

/** Listeners of one pool report the same, so each pool is read once. */
function perReplyTimes(
  udp: readonly UdpListenerView[],
  read: (
    times: ReplyTimes,
    labels: { readonly pool: string; readonly backend: string },
  ) => readonly Reading[],
): Reading[] {
  const pools = new Map(udp.map(({ pool, replyTimesByBackend }) => [pool, replyTimesByBackend]));
  return Array.from(pools).flatMap(([pool, byBackend]) =>
    Array.from(byBackend ?? []).flatMap(([backend, times]) => read(times, { pool, backend })),
  );
}

function perResult(
  pools: Sample['pools'],
  counts: (pool: PoolCounts) => Readonly<Record<string, number>>,
): Reading[] {
  return pools.flatMap((pool) =>
    Object.entries(counts(pool.counts)).map(([result, count]): Reading => [
      { pool: pool.name, result },
      count,
    ]),
  );
}
