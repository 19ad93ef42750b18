/**
 * What a benchmark measured, as results.json holds it: the machine, the plan, every single run, and what follows from
 * the runs. The tables and plots are made from this and nothing else, so a report can't say what was not measured.
 */

import type { SessionTableLookup } from './session-table-lookup.ts';

/** The route without anything between players and game servers: the baseline of every ratio. */
export const DIRECT = 'direct';

/** Where and with what it ran. */
export interface Machine {
  readonly cpuModel: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly platform: string;
  readonly node: string;
  readonly tickrelay: string;
  /** Undefined outside a git work tree. */
  readonly commit: string | undefined;
  /** Share of the machine's CPU time that was in use before any load began, 0 to 1. */
  readonly busyBefore: number;
}

/** The arguments of the run, after defaults. */
export interface Plan {
  readonly players: number;
  readonly tickHz: number;
  readonly rounds: number;
  readonly seed: number;
  readonly gameServers: number;
  readonly engines: readonly string[];
  readonly ladder: readonly number[];
  readonly quick: boolean;
  /** Measured time of one run of the comparison, of one step of the ladder, and of one run of the live payload test. */
  readonly comparisonMs: number;
  readonly ladderMs: number;
  readonly payloadMs: number;
  /** Live runs of each codec. */
  readonly payloadRounds: number;
  readonly rampMs: number;
  readonly warmupMs: number;
  /** Wall time after which the ladder takes no further step. */
  readonly budgetMs: number;
}

/** Microseconds, from the intended send time of an update to the world state that answers it. */
export interface RoundTripUs {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** What a relay counted and used between two looks at its metrics. */
export interface RelayUse {
  readonly received: number;
  readonly forwarded: number;
  readonly dropped: number;
  /** User and system time of the process. */
  readonly cpuUs: number;
}

/** One load through one route: what stands between the players and the game servers. */
export interface LoadRun {
  readonly route: string;
  readonly codec: string;
  readonly players: number;
  readonly round: number;
  readonly startedAt: string;
  /** Updates a second: asked of the generator, and sent by it. */
  readonly offeredPerSecond: number;
  readonly achievedPerSecond: number;
  readonly sent: number;
  readonly answered: number;
  readonly lost: number;
  /** lost / sent. */
  readonly loss: number;
  readonly duplicates: number;
  readonly reordered: number;
  /** World states from another server than the player's own. */
  readonly wrongServer: number;
  readonly roundTripUs: RoundTripUs;
  /** hdr-histogram-js, compressed, base64; microseconds. */
  readonly roundTripHistogram: string;
  /** How late the generator itself sent, in microseconds. */
  readonly sendLagUs: { readonly p50: number; readonly p99: number; readonly max: number };
  /** Why the generator, not the route, limited this run; undefined when it kept up. */
  readonly generatorLimit: string | undefined;
  /** Busy CPU time of the whole machine for one delivered datagram; an answered update is two of them. */
  readonly machineCpuUsPerDatagram: number;
  /** Share of the machine's CPU time in use during the run, 0 to 1. */
  readonly machineBusy: number;
  /** Of the relay process, while the CPU was read. Undefined where there is none. */
  readonly relay: RelayUse | undefined;
  /** Datagrams that found a full receive buffer, anywhere on the machine. Undefined where the system does not say. */
  readonly bufferOverflows: number | undefined;
}

/** The runs of one kind at one load, as medians over the rounds. */
export interface RunSummary {
  /** The route, or the codec, that the runs have in common. */
  readonly name: string;
  readonly runs: number;
  readonly roundTripUs: RoundTripUs;
  /** Over all rounds together, not a median: a lost datagram is a lost datagram. */
  readonly sent: number;
  readonly lost: number;
  readonly loss: number;
  readonly wrongServer: number;
  readonly droppedByRelay: number | undefined;
  readonly bufferOverflows: number | undefined;
  readonly offeredPerSecond: number;
  readonly achievedPerSecond: number;
  readonly deliveredPerSecond: number;
  readonly machineCpuUsPerDatagram: number;
  readonly relayCpuUsPerDatagram: number | undefined;
  readonly sendLagP99Us: number;
  readonly generatorLimited: number;
}

/** Why the climb ended. */
export type LadderEnd =
  /** A step failed, and failed again when it was repeated. */
  | 'failed'
  /** A step failed twice, and both times the generator was the limit. */
  | 'generator'
  /** Every step passed. */
  | 'top'
  /** No time was left for the next step. */
  | 'budget';

export interface LadderResult {
  readonly route: string;
  /** The most players of a step that passed; 0 when the first failed. */
  readonly mostPlayers: number;
  readonly end: LadderEnd;
  /** In the order measured; a failing step stands here twice. */
  readonly steps: readonly { readonly passed: boolean; readonly run: LoadRun }[];
}

/** One encoding of the two messages. */
export interface PayloadRow {
  readonly codec: string;
  readonly updateBytes: number;
  /** A world state of ten players. */
  readonly worldStateBytes: number;
  readonly encodeUpdateNs: number;
  readonly decodeUpdateNs: number;
  readonly encodeWorldStateNs: number;
  readonly decodeWorldStateNs: number;
  /** A match of ten players at 128 Hz, both directions, 28 bytes of IPv4 and UDP headers on each datagram. */
  readonly matchMbitPerSecond: number;
}

export interface BenchResults {
  readonly startedAt: string;
  readonly tookMs: number;
  readonly machine: Machine;
  readonly plan: Plan;
  readonly comparison: { readonly runs: readonly LoadRun[]; readonly routes: readonly RunSummary[] };
  readonly ladders: readonly LadderResult[];
  readonly payload: {
    readonly rows: readonly PayloadRow[];
    readonly runs: readonly LoadRun[];
    readonly live: readonly RunSummary[];
  };
  readonly sessionTable: SessionTableLookup;
}
