/**
 * Who sends when. A tick is cut into slots of about a millisecond and the players are spread evenly over them, so that
 * the load is as smooth as real players' and the ticker wakes some thousand times a second however many players there are.
 *
 *   tick 0                                     tick 1
 *   | slot 0 | slot 1 | ... | slot 7 |         | slot 0 | ...
 *     player 0..   12..        88..              the same players again
 *
 *   ramp: players join one after the other -> warm-up: all send, nothing is measured -> measured ticks -> end
 */
import assert from 'node:assert/strict';

export interface SendScheduleOptions {
  readonly players: number;
  /** Updates a second of each player. */
  readonly tickHz: number;
  /** Players join evenly over this time. */
  readonly rampMs: number;
  /** From the end of the ramp to the first measured tick. */
  readonly warmupMs: number;
  /** Length of the measured part, rounded to whole ticks; may be Infinity. */
  readonly durationMs: number;
}

export class SendSchedule {
  readonly players: number;
  /** Time between two updates of one player. */
  readonly periodMs: number;
  readonly slotsPerTick: number;
  /** Time between two slots: the ticker's period. */
  readonly slotMs: number;
  readonly firstMeasuredTick: number;
  /** The first tick that is not sent any more. */
  readonly endTick: number;
  readonly #rampTicks: number;

  constructor({ players, tickHz, rampMs, warmupMs, durationMs }: SendScheduleOptions) {
    assert(players >= 1 && tickHz > 0);
    this.players = players;
    this.periodMs = 1000 / tickHz;
    this.slotsPerTick = Math.min(players, Math.max(1, Math.round(this.periodMs)));
    this.slotMs = this.periodMs / this.slotsPerTick;
    this.#rampTicks = Math.ceil(rampMs / this.periodMs);
    this.firstMeasuredTick = this.#rampTicks + Math.ceil(warmupMs / this.periodMs);
    this.endTick = this.firstMeasuredTick + Math.max(1, Math.round(durationMs / this.periodMs));
  }

  /** The players of a slot are those from `firstPlayerOf(slot)` up to, without, `firstPlayerOf(slot + 1)`. */
  firstPlayerOf(slot: number): number {
    return Math.ceil((slot * this.players) / this.slotsPerTick);
  }

  /** The first tick in which a player sends. */
  joinTick(player: number): number {
    return Math.floor((player * this.#rampTicks) / this.players);
  }

  isMeasured(tick: number): boolean {
    return tick >= this.firstMeasuredTick && tick < this.endTick;
  }
}
