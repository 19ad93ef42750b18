/** All metrics of the relay, one entry each; docs/metrics.md describes them for operators. */
import { DIRECTIONS } from '../core/counters.ts';
import {
  counter,
  gauge,
  type Metric,
  perBackend,
  perDirection,
  perBackendAndDirection,
  perBackendHistogram,
  perFigures,
  perResult,
  perTcpListener,
  perUdpListener,
  type Reading,
} from './metric-readings.ts';
import { sessionsOf } from './sessions-of.ts';

const STATES = ['ready', 'draining', 'unhealthy', 'disabled'] as const;

export const METRICS: readonly Metric[] = [
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
  perBackendAndDirection(
    'backend_datagrams_total',
    'Datagrams forwarded to the backend and back to its clients',
    ({ datagrams }) => datagrams,
  ),
  perBackendAndDirection('backend_bytes_total', 'Bytes of these datagrams', ({ bytes }) => bytes),
  counter(
    'backend_client_gaps_total',
    'Intervals of more than two ticks between datagrams of one of the backend’s clients',
    ['pool', 'backend'],
    (sample) => perFigures(sample, ({ gaps }, labels) => [[labels, gaps]]),
  ),
  ...perBackendHistogram(
    'backend_client_interval_seconds',
    {
      buckets: 'Intervals between datagrams of one of the backend’s clients, at most so long',
      count: 'Intervals that were taken',
    },
    ({ intervals }) => intervals,
  ),
  ...perBackendHistogram(
    'backend_reply_seconds',
    {
      buckets: 'Times from a client’s datagram to its backend’s next reply, at most so long',
      count: 'Replies whose time was taken',
    },
    ({ replyTimes }) => replyTimes,
  ),
  counter('backend_reply_seconds_sum', 'All of these times together', ['pool', 'backend'], (sample) =>
    perFigures(sample, ({ replyTimes }, labels) => [[labels, replyTimes.sumSeconds]]),
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
