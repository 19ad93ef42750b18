/**
 * One datagram in flight, a process of its own: `node ping-client.js JSON`, the JSON being PingPlan. Each is sent when the one
 * before it was answered. Prints `summary`, a PingSummary.
 */
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import type { PingPlan, PingSummary } from './latency-results.ts';
import { PING_BYTES, PingSocket } from './ping-socket.ts';

/** An answer that has not come by then is lost. */
const TIMEOUT_MS = 200;
/** Before anything is measured: sessions are open, code is compiled. */
const WARM_UP_MS = 200;
const MOST_SAMPLES = 1_000_000;

const loaded = loadLibc();
if ('unavailable' in loaded) throw new Error(loaded.unavailable);
const { target, local, durationMs } = JSON.parse(process.argv[2]!) as PingPlan;
const socket = new PingSocket(loaded.libc, Endpoint.parse(local));
const remote = Endpoint.parse(target);
socket.setTimeoutMs(TIMEOUT_MS);

const samples = new Float64Array(MOST_SAMPLES);
let count = 0;
let lost = 0;
let number = 0;

/** @returns µs, or undefined when no answer came */
function ping(): number | undefined {
  socket.setRemote(remote);
  socket.number = ++number;
  const startMs = performance.now();
  socket.send(PING_BYTES);
  do {
    if (socket.receive() < 0) return undefined;
    // A late answer to an earlier one is passed over.
  } while (socket.number !== number);
  return 1000 * (performance.now() - startMs);
}

for (const endMs = performance.now() + WARM_UP_MS; performance.now() < endMs;) ping();
for (const endMs = performance.now() + durationMs; performance.now() < endMs && count < MOST_SAMPLES;) {
  const us = ping();
  if (us === undefined) lost++;
  else samples[count++] = us;
}
const sorted = samples.subarray(0, count).sort();
const at = (share: number): number => sorted[Math.min(count - 1, Math.floor(count * share))] ?? Number.NaN;
const summary: PingSummary = { answered: count, lost, p50: at(0.5), p90: at(0.9), p99: at(0.99) };
process.stdout.write(`${JSON.stringify({ event: 'summary', ...summary })}\n`);
