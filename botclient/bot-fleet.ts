/**
 * Many players in one process, on one drift-free schedule.
 *
 *   start: bind every socket -> ramp -> warm-up -> measured ticks -> grace, for answers under way -> close -> summary
 *
 * Coordinated omission can't happen: an update's round trip starts when it was due, however late it left, and one that
 * could not be sent in time is counted as skipped. Nothing waits for an answer before it sends.
 */
import assert from 'node:assert/strict';
import { encodeIntoCompressedBase64 } from 'hdr-histogram-js';
import type { Endpoint, IpAddress } from '../net/address.ts';
import type { OpenDatagramSocket } from '../net/datagram-socket.ts';
import { type Metronome, startTicker, type Ticker } from '../net/ticker.ts';
import type { Codec } from '../wire/codec.ts';
import { MAX_PLAYER_ID } from '../wire/position-update.ts';
import { Measurement, percentilesOf, type Percentiles } from './measurement.ts';
import { type Player, PlayerGroup, type ReplyMode } from './player.ts';
import { playerAddresses } from './player-address.ts';
import { type BotSummary, summarise } from './report.ts';
import { SendSchedule, type SendScheduleOptions } from './send-schedule.ts';

/** Updates up to this late, in ms, are still sent; older ones are skipped, so that a stall does not become a flood. */
const MAX_SEND_LAG_MS = 100;

export interface BotFleetOptions extends SendScheduleOptions {
  readonly target: Endpoint;
  readonly codec: Codec;
  readonly reply: ReplyMode;
  /** Of the players' paths: the same seed walks the same way. */
  readonly seed: number;
  /** The first player's id; the others count up from it, at most to 65,535. */
  readonly firstPlayer: number;
  /** Of the players, in order, where they logged in; by default they count up from `firstPlayer`. */
  readonly playerIds?: readonly number[] | undefined;
  /** See playerAddresses. */
  readonly firstAddress?: IpAddress | undefined;
  /** How long answers are waited for after the last update. */
  readonly graceMs: number;
  readonly openSocket: OpenDatagramSocket;
  /** Monotonic clock in ms. Default `performance.now`. */
  readonly now?: () => number;
  /** Default net/ticker.ts's. */
  readonly metronome?: Metronome;
}

/** The longest that answers are waited for, in ms, while they keep coming. */
const MAX_GRACE_MS = 10_000;

/** In their order. */
export const PHASES = ['ramp', 'warm-up', 'measuring', 'grace'] as const;

/** What a live view shows. */
export interface BotProgress {
  readonly elapsedMs: number;
  readonly phase: (typeof PHASES)[number];
  /** Players that have joined. */
  readonly players: number;
  readonly sent: number;
  readonly matched: number;
  readonly wrongServer: number;
  /** Round trips of the measured updates answered since the last look. */
  readonly recentUs: Percentiles;
  /** All of them: HdrHistogram V2, compressed, base64. */
  readonly recentHistogram: string;
}

export class BotFleet {
  /** Resolves with the summary after the grace. */
  readonly finished: Promise<BotSummary>;
  readonly #options: BotFleetOptions;
  readonly #now: () => number;
  readonly #schedule: SendSchedule;
  readonly #measurement = new Measurement();
  #players: readonly Player[] = [];
  #ticker: Ticker | undefined;
  #phase: 'idle' | 'sending' | 'grace' = 'idle';
  #resolve: (summary: BotSummary) => void = () => undefined;

  /** When tick 0 was due, and the tick that is being sent. */
  #startMs = 0;
  #tick = 0;
  /** Slots of measured ticks so far, sent or skipped, and when the last measured update left. */
  #measuredSlots = 0;
  #lastSendMs = 0;

  constructor(options: BotFleetOptions) {
    const { players, firstPlayer } = options;
    assert(firstPlayer >= 0 && firstPlayer + players - 1 <= MAX_PLAYER_ID);
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#schedule = new SendSchedule(options);
    this.finished = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  get players(): readonly Player[] {
    return this.#players;
  }

  /** Binds every player's socket. @throws RelayError TICKRELAY_ERR_BIND, TICKRELAY_ERR_CONFIG */
  bind(): void {
    if (this.#players.length === 0) this.#players = this.#openPlayers();
  }

  /** Begins, after binding what is not bound yet. @throws as `bind` */
  start(): void {
    assert(this.#phase === 'idle', 'a fleet starts once');
    this.bind();
    this.#phase = 'sending';
    const { slotMs } = this.#schedule;
    this.#ticker = startTicker({
      periodMs: slotMs,
      catchUpTicks: Math.floor(MAX_SEND_LAG_MS / slotMs),
      onTick: (tick, intendedMs) => this.#sendSlot(tick, intendedMs),
      onSkipped: (tick, count) => this.#skipSlots(tick, count),
      now: this.#now,
      ...(this.#options.metronome && { metronome: this.#options.metronome }),
    });
  }

  /** Ends the sending early; what was measured until then is in the summary. Idempotent. */
  stop(): Promise<BotSummary> {
    this.#beginGrace();
    return this.finished;
  }

  /** For a live view: takes the round trips since the last call. */
  progress(): BotProgress {
    const { firstMeasuredTick, periodMs } = this.#schedule;
    const { sent, matched, wrongServer } = this.#measurement.counts;
    const players = this.#players.filter((_player, i) => this.#schedule.joinTick(i) <= this.#tick).length;
    const recent = this.#measurement.takeRecent();
    const sending = this.#tick >= firstMeasuredTick ? 'measuring' : 'warm-up';
    return {
      elapsedMs: this.#tick * periodMs,
      phase: this.#phase !== 'sending' ? 'grace' : players < this.#players.length ? 'ramp' : sending,
      players,
      sent,
      matched,
      wrongServer,
      recentUs: percentilesOf(recent),
      recentHistogram: encodeIntoCompressedBase64(recent),
    };
  }

  #openPlayers(): Player[] {
    const { target, codec, reply, seed, openSocket, firstPlayer, firstAddress, playerIds } = this.#options;
    const addresses = playerAddresses(this.#options.players, target, firstAddress);
    const context = {
      target,
      codec,
      reply,
      seed,
      openSocket,
      measurement: this.#measurement,
      now: this.#now,
    };
    const group = new PlayerGroup(context, addresses.length);
    try {
      for (const [i, address] of addresses.entries()) group.add(playerIds?.[i] ?? firstPlayer + i, address);
    } catch (error) {
      for (const player of group.players) void player.close();
      throw error;
    }
    return group.players;
  }

  #sendSlot(slotNumber: number, intendedMs: number): void {
    const schedule = this.#schedule;
    const slot = slotNumber % schedule.slotsPerTick;
    const tick = (slotNumber - slot) / schedule.slotsPerTick;
    this.#startMs = intendedMs - slotNumber * schedule.slotMs;
    this.#tick = tick;
    if (tick >= schedule.endTick) {
      this.#beginGrace();
      return;
    }
    const isMeasured = schedule.isMeasured(tick);
    const end = schedule.firstPlayerOf(slot + 1);
    for (let i = schedule.firstPlayerOf(slot); i < end; i++) {
      if (tick >= schedule.joinTick(i)) this.#players[i]!.send(tick, intendedMs, isMeasured);
    }
    if (!isMeasured) return;
    this.#measuredSlots++;
    this.#lastSendMs = this.#now();
  }

  #skipSlots(first: number, count: number): void {
    const { slotsPerTick, firstMeasuredTick, endTick } = this.#schedule;
    const { counts } = this.#measurement;
    const from = Math.max(first, firstMeasuredTick * slotsPerTick);
    const end = Math.min(first + count, endTick * slotsPerTick);
    for (let slotNumber = from; slotNumber < end; slotNumber++) {
      const slot = slotNumber % slotsPerTick;
      const players = this.#schedule.firstPlayerOf(slot + 1) - this.#schedule.firstPlayerOf(slot);
      counts.intended += players;
      counts.skipped += players;
      this.#measuredSlots++;
    }
  }

  #beginGrace(): void {
    assert(this.#phase !== 'idle', 'start comes before stop');
    if (this.#phase !== 'sending') return;
    this.#phase = 'grace';
    this.#ticker?.stop();
    this.#awaitAnswers(this.#now(), this.#measurement.counts.received);
  }

  /**
   * Ends the fleet when no answer has come for the grace time: one that is still queued somewhere is late, not lost. An
   * endless stream of answers ends it too.
   */
  #awaitAnswers(beganMs: number, receivedBefore: number): void {
    setTimeout(() => {
      const { received } = this.#measurement.counts;
      const isOver = received === receivedBefore || this.#now() - beganMs >= MAX_GRACE_MS;
      if (isOver) void this.#finish();
      else this.#awaitAnswers(beganMs, received);
    }, this.#options.graceMs);
  }

  async #finish(): Promise<void> {
    await Promise.all(this.#players.map((player) => player.close()));
    const { tickHz, codec, reply, seed, target } = this.#options;
    const { periodMs, slotMs, firstMeasuredTick } = this.#schedule;
    const windowMs = this.#measuredSlots * slotMs;
    // The last updates may have left after the window: the rate achieved is over the time that it took.
    const tookMs = this.#lastSendMs - (this.#startMs + firstMeasuredTick * periodMs);
    this.#resolve(
      summarise({
        target: target.toString(),
        codec: codec.name,
        reply,
        seed,
        tickHz,
        measuredMs: windowMs,
        sendingMs: Math.max(windowMs, tookMs),
        players: this.#players,
        measurement: this.#measurement,
      }),
    );
  }
}
