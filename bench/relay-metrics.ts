/** Reads a relay's own counters from its `/metrics` page (Prometheus text format 0.0.4). */
import { RelayError } from '../net/relay-error.ts';
import type { ProcessCpu, RelayCounts } from './results.ts';

/** What a relay says of itself. */
export interface RelayMetrics {
  readonly counts: RelayCounts;
  /** Since the process started. */
  readonly cpu: ProcessCpu;
  readonly residentBytes: number;
  /** Undefined where the system does not say (only Linux does). */
  readonly openDescriptors: number | undefined;
  readonly liveSessions: number;
  readonly upstreamSockets: number;
}

/** @param admin `host:port` of the relay's admin address @throws RelayError TICKRELAY_ERR_UNREACHABLE */
export async function readRelayMetrics(admin: string): Promise<RelayMetrics> {
  const url = `http://${admin}/metrics`;
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(5_000) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return parseRelayMetrics(await response.text());
  } catch (cause) {
    throw new RelayError('TICKRELAY_ERR_UNREACHABLE', `the relay's metrics at ${url} can't be read`, {
      cause,
    });
  }
}

export function parseRelayMetrics(text: string): RelayMetrics {
  const total = (name: string): number => samples(text, name).reduce((sum, value) => sum + value, 0);
  const userUs = 1e6 * total('process_cpu_user_seconds_total');
  const systemUs = 1e6 * total('process_cpu_system_seconds_total');
  return {
    counts: {
      received: total('tickrelay_datagrams_received_total'),
      forwarded: total('tickrelay_datagrams_forwarded_total'),
      dropped: total('tickrelay_datagrams_dropped_total'),
    },
    cpu: { totalUs: userUs + systemUs, userUs, systemUs },
    residentBytes: total('process_resident_memory_bytes'),
    openDescriptors: samples(text, 'process_open_fds')[0],
    liveSessions: total('tickrelay_sessions'),
    upstreamSockets: total('tickrelay_upstream_sockets'),
  };
}

/** What was counted between two readings. */
export function countsBetween(from: RelayCounts, to: RelayCounts): RelayCounts {
  return {
    received: to.received - from.received,
    forwarded: to.forwarded - from.forwarded,
    dropped: to.dropped - from.dropped,
  };
}

/** The values of one metric, one for each label set, with or without the prefix `tickrelay_`. */
function samples(text: string, name: string): number[] {
  const sample = new RegExp(`^(?:tickrelay_)?${name}(?:\\{[^}]*\\})? (\\S+)`, 'gm');
  return [...text.matchAll(sample)].map((match) => Number(match[1]));
}
