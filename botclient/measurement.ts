/**
 * What all players of a fleet measure together: counts, round trips and the generator's own lateness.
 *
 * What must always hold after a run (docs/bots.md):
 *   intended = sent + skipped + refused
 *   sent     = matched + superseded + lost
 *   received = matched + duplicates + repeated + unknown + malformed + foreign + wrongSource
 */
import * as hdr from 'hdr-histogram-js';
import { MicrosecondTally } from './microsecond-tally.ts';

/**
 * Updates and their answers are counted by the tick of the update, from the first measured tick on; datagrams that
 * answer no update of this fleet, and changes of server, are counted from the start.
 */
export interface BotCounts {
  /** Updates that were due. */
  intended: number;
  /** Updates that the socket took. */
  sent: number;
  /** Updates that were not sent because the generator was too late. */
  skipped: number;
  /** Updates that met a full send queue. */
  refused: number;
  /** Datagrams that the system then refused to send; they are also in `sent`, and so in `lost`. */
  sendFailed: number;
  received: number;
  /** First answers to an update. */
  matched: number;
  /** Of the matched, those whose update is older than one that was answered before. */
  reordered: number;
  /** Further answers to an update. */
  duplicates: number;
  /** Further answers to an update in later ticks of a server that answers each tick. */
  repeated: number;
  /** Updates never answered because a newer one was, by a server that answers each tick. */
  superseded: number;
  /** World states that reflect no update of this player, or one that is too old to be remembered. */
  unknown: number;
  malformed: number;
  /** World states that are addressed to another player. */
  foreign: number;
  /** Datagrams from another address than the target's. */
  wrongSource: number;
  /** Receives that the system reported as failed; the sockets went on. */
  receiveErrors: number;
  /** Answers to updates before the first measured tick; in no other count. */
  warmup: number;
  /** Times that an answer came from another server than the one before. */
  wrongServer: number;
  /** UDP payload bytes of `sent` and of `received`. */
  bytesUp: number;
  bytesDown: number;
}

function zeroCounts(): BotCounts {
  return {
    intended: 0,
    sent: 0,
    skipped: 0,
    refused: 0,
    sendFailed: 0,
    received: 0,
    matched: 0,
    reordered: 0,
    duplicates: 0,
    repeated: 0,
    superseded: 0,
    unknown: 0,
    malformed: 0,
    foreign: 0,
    wrongSource: 0,
    receiveErrors: 0,
    warmup: 0,
    wrongServer: 0,
    bytesUp: 0,
    bytesDown: 0,
  };
}

export function sumCounts(all: readonly BotCounts[]): BotCounts {
  const sums = zeroCounts();
  for (const name of Object.keys(sums) as (keyof BotCounts)[]) {
    for (const counts of all) sums[name] += counts[name];
  }
  return sums;
}

/** Microseconds. */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p95: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export function percentilesOf(histogram: hdr.Histogram): Percentiles {
  const at = (percentile: number): number => histogram.getValueAtPercentile(percentile);
  return { p50: at(50), p90: at(90), p95: at(95), p99: at(99), p999: at(99.9), max: histogram.maxValue };
}

/** Microseconds to three significant digits; beyond a minute the histogram grows. */
export function createHistogram(): hdr.Histogram {
  return hdr.build({
    highestTrackableValue: 60_000_000,
    numberOfSignificantValueDigits: 3,
    autoResize: true,
  });
}

export class Measurement {
  readonly counts = zeroCounts();
  readonly #sendLagUs = createHistogram();
  readonly #roundTripUs = createHistogram();
  /** Round trips that are not yet in the whole, so that a live view can show the last second alone. */
  readonly #recentUs = createHistogram();
  readonly #sendLags = new MicrosecondTally();
  readonly #roundTrips = new MicrosecondTally();

  /** One update that was due, `bytes` long and sent `lagMs` late, or refused. */
  countUpdate(isSent: boolean, bytes: number, lagMs: number): void {
    const { counts } = this;
    counts.intended++;
    if (isSent) {
      counts.sent++;
      counts.bytesUp += bytes;
      this.#sendLags.record(toMicroseconds(lagMs));
    } else {
      counts.refused++;
    }
  }

  recordRoundTrip(roundTripMs: number): void {
    this.#roundTrips.record(toMicroseconds(roundTripMs));
  }

  /** The round trips since the last call; valid until the next one. */
  takeRecent(): hdr.Histogram {
    this.#recentUs.reset();
    this.#roundTrips.drainInto(this.#recentUs);
    this.#roundTripUs.add(this.#recentUs);
    return this.#recentUs;
  }

  /** From the intended to the actual send time. */
  get sendLagUs(): hdr.Histogram {
    this.#sendLags.drainInto(this.#sendLagUs);
    return this.#sendLagUs;
  }

  /** From the intended send time of an update to its first answer: all of them. */
  get roundTripUs(): hdr.Histogram {
    this.takeRecent();
    return this.#roundTripUs;
  }
}

function toMicroseconds(ms: number): number {
  return Math.max(0, Math.round(ms * 1000));
}
