/** From a fleet's measurement to its summary, as a value and as a table. docs/bots.md explains every field. */
import { encodeIntoCompressedBase64 } from 'hdr-histogram-js';
import type { CodecName } from '../wire/codec.ts';
import { type BotCounts, type Measurement, percentilesOf, type Percentiles } from './measurement.ts';
import type { Player, ReplyMode } from './player.ts';

/** Below this share of the asked rate, the figures say more about the generator than about what it loads. */
const MIN_ACHIEVED = 0.99;

export interface BotSummary extends Readonly<BotCounts> {
  readonly target: string;
  readonly codec: CodecName;
  readonly reply: ReplyMode;
  readonly players: number;
  readonly tickHz: number;
  readonly seed: number;
  /** Length of the measured part. */
  readonly durationMs: number;
  /** Updates a second of all players together: asked of the generator, and sent by it. */
  readonly askedPerSecond: number;
  readonly achievedPerSecond: number;
  /** Updates without an answer at the end of the grace: sent - matched - superseded. */
  readonly lost: number;
  /** lost / sent, 0 to 1. */
  readonly loss: number;
  readonly roundTripUs: Percentiles;
  readonly sendLagUs: Percentiles;
  /** HdrHistogram V2, compressed, base64: microseconds. */
  readonly roundTripHistogram: string;
  readonly sendLagHistogram: string;
  /** Players by the server that answered them last. */
  readonly servers: Readonly<Record<string, number>>;
  /** Players that no server ever answered. */
  readonly unansweredPlayers: number;
  /** Whether the generator kept its schedule, and if not, why. */
  readonly generator: { readonly ok: boolean; readonly verdict: string };
}

export interface Run {
  readonly target: string;
  readonly codec: CodecName;
  readonly reply: ReplyMode;
  readonly seed: number;
  readonly tickHz: number;
  /** Length of the measured ticks, and the time that sending them took. */
  readonly measuredMs: number;
  readonly sendingMs: number;
  readonly players: readonly Pick<Player, 'serverId'>[];
  readonly measurement: Measurement;
}

export function summarise(run: Run): BotSummary {
  const { target, codec, reply, seed, tickHz, players, measurement } = run;
  const { counts, roundTripUs, sendLagUs } = measurement;
  const lost = counts.sent - counts.matched - counts.superseded;
  const askedPerSecond = players.length * tickHz;
  const achievedPerSecond = run.sendingMs === 0 ? 0 : counts.sent / (run.sendingMs / 1000);
  const lag = percentilesOf(sendLagUs);
  return {
    target,
    codec,
    reply,
    players: players.length,
    tickHz,
    seed,
    durationMs: run.measuredMs,
    askedPerSecond,
    achievedPerSecond,
    ...counts,
    lost,
    loss: counts.sent === 0 ? 0 : lost / counts.sent,
    roundTripUs: percentilesOf(roundTripUs),
    sendLagUs: lag,
    roundTripHistogram: encodeIntoCompressedBase64(roundTripUs),
    sendLagHistogram: encodeIntoCompressedBase64(sendLagUs),
    servers: playersByServer(players),
    unansweredPlayers: players.filter(({ serverId }) => serverId === undefined).length,
    generator: judge({ intended: counts.intended, askedPerSecond, achievedPerSecond, lag, tickHz }),
  };
}

function playersByServer(players: Run['players']): Record<string, number> {
  const servers: Record<string, number> = {};
  for (const { serverId } of players) {
    if (serverId !== undefined) servers[serverId] = (servers[serverId] ?? 0) + 1;
  }
  return servers;
}

interface Pace {
  readonly intended: number;
  readonly askedPerSecond: number;
  readonly achievedPerSecond: number;
  readonly lag: Percentiles;
  readonly tickHz: number;
}

/** Whether a generator kept its schedule. */
export function judge({
  intended,
  askedPerSecond,
  achievedPerSecond,
  lag,
  tickHz,
}: Pace): BotSummary['generator'] {
  const tickUs = 1e6 / tickHz;
  const problems: string[] = [];
  if (intended === 0) problems.push('it ended before anything was measured');
  else if (achievedPerSecond < MIN_ACHIEVED * askedPerSecond) {
    problems.push(`it sent ${percent(achievedPerSecond / askedPerSecond)} of the updates it was asked for`);
  }
  if (lag.p99 > tickUs) {
    problems.push(`1 % of its updates left more than a tick late (p99 ${formatUs(lag.p99)})`);
  }
  return problems.length === 0
    ? { ok: true, verdict: 'kept its schedule' }
    : { ok: false, verdict: `too slow: ${problems.join(', and ')}` };
}

/** A readable table of some ten lines. */
export function formatSummary(summary: BotSummary): string {
  const s = summary;
  const servers = Object.entries(s.servers).map(([id, players]) => `server ${id}: ${players}`);
  if (s.unansweredPlayers > 0) servers.push(`never answered: ${s.unansweredPlayers}`);
  const rows: [string, string][] = [
    ['target', `${s.target}, ${s.codec}, replies ${s.reply === 'tick' ? 'once a tick' : 'at once'}`],
    ['measured', `${s.players} players at ${s.tickHz} Hz for ${(s.durationMs / 1000).toFixed(1)} s`],
    ['rate', `${s.achievedPerSecond.toFixed(0)}/s of ${s.askedPerSecond.toFixed(0)}/s asked`],
    ['generator', s.generator.verdict],
    ['updates', listCounts({ sent: s.sent, skipped: s.skipped, refused: s.refused, failed: s.sendFailed })],
    ['answers', listCounts({ matched: s.matched, superseded: s.superseded, reordered: s.reordered })],
    ['lost', `${s.lost} (${percent(s.loss)})`],
    ['repeats', listCounts({ duplicates: s.duplicates, repeated: s.repeated })],
    [
      'strays',
      listCounts({
        unknown: s.unknown,
        malformed: s.malformed,
        foreign: s.foreign,
        'wrong source': s.wrongSource,
      }),
    ],
    ['round trip', s.matched === 0 ? 'no answer' : formatPercentiles(s.roundTripUs)],
    ['send lag', formatPercentiles(s.sendLagUs)],
    ['wrong server', String(s.wrongServer)],
    ['players', servers.join(', ')],
    ['payload', `${(s.bytesUp / 1e6).toFixed(2)} MB up, ${(s.bytesDown / 1e6).toFixed(2)} MB down`],
  ];
  return rows.map(([name, value]) => `${name.padEnd(13)} ${value}\n`).join('');
}

export function formatUs(us: number): string {
  return us < 10_000 ? `${us} us` : `${(us / 1000).toFixed(1)} ms`;
}

function formatPercentiles({ p50, p90, p95, p99, p999, max }: Percentiles): string {
  const named = { p50, p90, p95, p99, 'p99.9': p999, max };
  return Object.entries(named)
    .map(([name, us]) => `${name} ${formatUs(us)}`)
    .join(', ');
}

function listCounts(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ');
}

function percent(share: number): string {
  return `${(share * 100).toFixed(3)} %`;
}
