/** Reads a relay's own counters from its `/metrics` page (Prometheus text format 0.0.4). */
import { RelayError } from '../net/relay-error.ts';
import type { RelayUse } from './results.ts';

/** @param admin `host:port` of the relay's admin address @throws RelayError TICKRELAY_ERR_UNREACHABLE */
export async function readRelayUse(admin: string): Promise<RelayUse> {
  const url = `http://${admin}/metrics`;
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(5_000) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return parseRelayUse(await response.text());
  } catch (cause) {
    throw new RelayError('TICKRELAY_ERR_UNREACHABLE', `the relay's metrics at ${url} can't be read`, {
      cause,
    });
  }
}

export function parseRelayUse(text: string): RelayUse {
  const total = (name: string): number => sumSamples(text, name);
  return {
    received: total('tickrelay_datagrams_received_total'),
    forwarded: total('tickrelay_datagrams_forwarded_total'),
    dropped: total('tickrelay_datagrams_dropped_total'),
    cpuUs: 1e6 * (total('process_cpu_user_seconds_total') + total('process_cpu_system_seconds_total')),
  };
}

/** What was counted between two readings. */
export function relayUseBetween(from: RelayUse, to: RelayUse): RelayUse {
  return {
    received: to.received - from.received,
    forwarded: to.forwarded - from.forwarded,
    dropped: to.dropped - from.dropped,
    cpuUs: to.cpuUs - from.cpuUs,
  };
}

/** The sum over all label sets of one metric, with or without the prefix `tickrelay_`. */
function sumSamples(text: string, name: string): number {
  const sample = new RegExp(`^(?:tickrelay_)?${name}(?:\\{[^}]*\\})? (\\S+)`, 'gm');
  return [...text.matchAll(sample)].reduce((sum, match) => sum + Number(match[1]), 0);
}
