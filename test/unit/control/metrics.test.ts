import { expect, test } from 'vitest';
import { DROP_REASONS } from '../../../relay/core/drop-reason.ts';
import { createRig } from './control-rig.ts';

const linesOf = (text: string, name: string): string[] =>
  text.split('\n').filter((line) => line.startsWith(name));

test('one scrape reports what the data planes and the control plane counted', async () => {
  const rig = createRig();
  rig.relay.counters.received(0, 14);
  rig.relay.counters.received(0, 14);
  rig.relay.counters.forwarded(0, 1, 14);
  rig.relay.counters.dropped(0, 1);
  rig.control.pool('games').drain('static-1');
  const text = await rig.metrics.scrape();
  const expected = [
    'tickrelay_build_info{version="0.0.0-test",node="' + process.version + '"} 1',
    'tickrelay_engine_info{engine="dgram",reason="test"} 1',
    'tickrelay_datagrams_received_total{listener="game",direction="downstream"} 2',
    'tickrelay_bytes_received_total{listener="game",direction="downstream"} 28',
    'tickrelay_datagrams_forwarded_total{listener="game",direction="downstream"} 1',
    'tickrelay_bytes_forwarded_total{listener="game",direction="upstream"} 0',
    'tickrelay_datagrams_dropped_total{listener="game",direction="downstream",reason="no-backend"} 1',
    'tickrelay_sessions{listener="game"} 3',
    'tickrelay_session_capacity 65536',
    'tickrelay_pins 2',
    'tickrelay_upstream_sockets{listener="game"} 2',
    'tickrelay_listener_receive_buffer_bytes{listener="game"} 212992',
    'tickrelay_backend_datagrams_total{pool="games",backend="static-1",direction="downstream"} 9',
    'tickrelay_backend_datagrams_total{pool="games",backend="static-1",direction="upstream"} 8',
    'tickrelay_backend_bytes_total{pool="games",backend="static-1",direction="downstream"} 126',
    'tickrelay_backend_bytes_total{pool="games",backend="static-1",direction="upstream"} 1184',
    'tickrelay_backend_client_gaps_total{pool="games",backend="static-1"} 2',
    'tickrelay_backend_client_interval_seconds_bucket{pool="games",backend="static-1",le="0.008"} 5',
    'tickrelay_backend_client_interval_seconds_bucket{pool="games",backend="static-1",le="+Inf"} 6',
    'tickrelay_backend_client_interval_seconds_count{pool="games",backend="static-1"} 6',
    'tickrelay_backend_reply_seconds_bucket{pool="games",backend="static-1",le="0.001"} 4',
    'tickrelay_backend_reply_seconds_bucket{pool="games",backend="static-1",le="0.002"} 6',
    'tickrelay_backend_reply_seconds_bucket{pool="games",backend="static-1",le="+Inf"} 7',
    'tickrelay_backend_reply_seconds_count{pool="games",backend="static-1"} 7',
    'tickrelay_backend_reply_seconds_sum{pool="games",backend="static-1"} 0.0095',
    'tickrelay_backend_state{pool="games",backend="static-1",state="draining"} 1',
    'tickrelay_backend_state{pool="games",backend="static-1",state="ready"} 0',
    'tickrelay_backend_sessions{pool="games",backend="static-1"} 3',
    'tickrelay_backend_sessions{pool="db",backend="10.0.0.3:5432"} 1',
    'tickrelay_health_checks_total{pool="games",result="failed"} 0',
    'tickrelay_registrations_total{pool="games",result="refused"} 0',
    'tickrelay_tcp_connections{listener="login"} 1',
    'tickrelay_tcp_connections_accepted_total{listener="login"} 5',
    'tickrelay_tcp_connections_closed_total{listener="login",reason="completed"} 4',
    'tickrelay_tcp_bytes_total{listener="login",direction="upstream"} 2000',
    'tickrelay_config_reloads_total{result="succeeded"} 0',
    'tickrelay_config_last_reload_successful 1',
  ];
  for (const line of expected) expect(text.split('\n')).toContain(line);
});

test('every drop reason is present from the start, and counters do not add up from scrape to scrape', async () => {
  const rig = createRig();
  rig.relay.counters.dropped(1, 0);
  await rig.metrics.scrape();
  const text = await rig.metrics.scrape();
  expect(linesOf(text, 'tickrelay_datagrams_dropped_total{')).toHaveLength(2 * DROP_REASONS.length);
  expect(text).toContain(
    'tickrelay_datagrams_dropped_total{listener="game",direction="upstream",reason="bad-source"} 1',
  );
});

test('a backend that left leaves no series behind', async () => {
  const rig = createRig();
  const pool = rig.control.pool('games');
  await rig.server.app.inject({
    method: 'PUT',
    url: '/v1/pools/games/backends/gone',
    headers: { authorization: 'Bearer secret' },
    payload: { address: '10.0.0.9:1', players: 4 },
  });
  expect(await rig.metrics.scrape()).toContain('tickrelay_backend_players{pool="games",backend="gone"} 4');
  pool.leave('gone');
  expect(await rig.metrics.scrape()).not.toContain('gone"');
});

test('a failed reload is exported until one succeeds', async () => {
  const rig = createRig();
  await expect(rig.reloader.reload('nonsense')).rejects.toThrow();
  const text = await rig.metrics.scrape();
  expect(text).toContain('tickrelay_config_reloads_total{result="failed"} 1');
  expect(text).toContain('tickrelay_config_last_reload_successful 0');
});

test('/metrics answers in the Prometheus text format, with the figures of the process', async () => {
  const rig = createRig();
  const answer = await rig.server.app.inject({ method: 'GET', url: '/metrics' });
  expect(answer.headers['content-type']).toContain('text/plain; version=0.0.4');
  expect(answer.body).toMatch(/^process_cpu_user_seconds_total /m);
  expect(answer.body).not.toContain('192.0.2.1');
});
