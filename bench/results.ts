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

/** What carries players' traffic in a run. */
export interface RouteInfo {
  /** As tables call it: `direct`, an engine's name, a peer's name. */
  readonly name: string;
  readonly kind: 'direct' | 'engine' | 'peer';
  /** Version and settings that matter for the comparison. */
  readonly detail: string;
}

/** A peer that was asked for and is not in the run. */
export interface AbsentPeer {
  readonly name: string;
  readonly reason: string;
}

/** Which processors are whose, by number. */
export interface Pinning {
  /** The relay or peer: one processor. */
  readonly relayCpu: number;
  /** The part of it that the relay or peer may take, in percent; absent: all. */
  readonly relayShare?: number;
  /** Players and game servers: all others. */
  readonly loadCpus: readonly number[];
}

/** The arguments of the run, after defaults. */
export interface Plan {
  /** Of the live payload runs, the dial and the soak; relays are judged by their comparison at this load. */
  readonly players: number;
  /** Players of each load of the comparison, ascending. */
  readonly loads: readonly number[];
  readonly tickHz: number;
  /** Of the comparison, as many as there is time for; of the dial. */
  readonly rounds: number;
  readonly seed: number;
  readonly gameServers: number;
  readonly engines: readonly string[];
  readonly peers: readonly string[];
  /** Undefined where every process runs on any processor. */
  readonly pinning: Pinning | undefined;
  readonly ladder: readonly number[];
  /** Values of --coalesce in µs that are measured against each other; none by default. */
  readonly dialUs: readonly number[];
  readonly quick: boolean;
  /** Namespaces instead of loopback. */
  readonly netns: boolean;
  /** Measured time of one run: of the comparison and the dial, of the ladder, of the live payload test. */
  readonly comparisonMs: number;
  readonly ladderMs: number;
  readonly payloadMs: number;
  /** Live runs of each codec; 0 leaves them out. */
  readonly payloadRounds: number;
  readonly rampMs: number;
  readonly warmupMs: number;
  /** Wall time of the comparison: a round that would end later does not begin, but for the first. */
  readonly comparisonBudgetMs: number;
  /** Wall time of the ladder, and when it ends at the latest, counted from the start of the benchmark. */
  readonly ladderBudgetMs: number;
  readonly ladderEndMs: number;
}

/** Microseconds, from the intended send time of an update to the world state that answers it. */
export interface RoundTripUs {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** What a relay counted between two looks at its metrics. */
export interface RelayCounts {
  readonly received: number;
  readonly forwarded: number;
  readonly dropped: number;
}

/** CPU time of what stands between players and game servers, all its processes and threads, between two readings. */
export interface ProcessCpu {
  readonly totalUs: number;
  /** The kernel's own division of it, sampled at its tick: rough in one run, better over all of them. */
  readonly userUs: number;
  readonly systemUs: number;
}

/** One load through one route: what stands between the players and the game servers. */
export interface LoadRun {
  /** A route's name; in the dial, the engine with its setting. */
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
  /**
   * Datagrams delivered between the two readings of the CPU times, estimated: of all delivered, the share that this time has in
   * the sending time. An answered update is two of them.
   */
  readonly deliveredBetweenReadings: number;
  /** Undefined where nothing stands between, or the system does not say. */
  readonly processCpu: ProcessCpu | undefined;
  /** Undefined where no relay of ours stands between. */
  readonly relay: RelayCounts | undefined;
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
  /** For each delivered datagram; the total is a median, its division is over all rounds together. */
  readonly processCpuUsPerDatagram:
    { readonly total: number; readonly user: number; readonly system: number } | undefined;
  readonly sendLagP99Us: number;
  readonly generatorLimited: number;
}

/** The comparison at one load. */
export interface LoadComparison {
  readonly players: number;
  /** In the order in which they took turns. */
  readonly routes: readonly RunSummary[];
  /** Who won what; empty when fewer than two relays and peers ran. */
  readonly standings: readonly Standing[];
}

/** One figure of every relay and peer at one load, and whose is best. */
export interface Standing {
  readonly figure: string;
  /** By route; undefined where it is not known. */
  readonly values: Readonly<Record<string, number | undefined>>;
  /** The route with the best figure, or several that are even; none when the run can't tell. */
  readonly winners: readonly string[];
  /** Why the run can't tell. */
  readonly undecided: string | undefined;
  /** The first engine's figure against each rival's: median of the ratios of paired rounds. Undefined for a zero. */
  readonly ratios: Readonly<Record<string, number | undefined>>;
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
  /** First the last rounds of the comparison that it built on; then as measured, a failing step twice. */
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
  readonly routes: readonly RouteInfo[];
  readonly absent: readonly AbsentPeer[];
  readonly comparison: { readonly runs: readonly LoadRun[]; readonly loads: readonly LoadComparison[] };
  readonly ladders: readonly LadderResult[];
  readonly payload: {
    readonly rows: readonly PayloadRow[];
    readonly runs: readonly LoadRun[];
    readonly live: readonly RunSummary[];
  };
  /** The first engine at several settings of --coalesce; empty when it was not asked for. */
  readonly dial: { readonly runs: readonly LoadRun[]; readonly settings: readonly RunSummary[] };
  readonly sessionTable: SessionTableLookup;
}

/** What a soak leaves behind. */
export interface SoakResults {
  readonly startedAt: string;
  readonly machine: Machine;
  readonly route: RouteInfo;
  readonly pinning: Pinning | undefined;
  readonly run: LoadRun;
  readonly durationMs: number;
  /** Once a second, from the start of the load to its end. */
  readonly samples: readonly SoakSample[];
  readonly growth: SoakGrowth;
}

/** The relay process at one moment. */
export interface SoakSample {
  readonly atMs: number;
  readonly residentBytes: number;
  /** Undefined where the system does not say. */
  readonly openDescriptors: number | undefined;
}

/** How the relay process changed, once it had settled. */
export interface SoakGrowth {
  /** Samples before this time are left out of all that follows. */
  readonly settledAtMs: number;
  readonly residentBytes: { readonly first: number; readonly last: number; readonly most: number };
  /** Slope of the least-squares line through the samples. */
  readonly residentBytesPerHour: number;
  readonly openDescriptors: { readonly least: number; readonly most: number } | undefined;
  /**
   * The least resident memory of the first and of the last third: a heap rises and falls with its collections, and what it
   * falls back to is what was in use.
   */
  readonly troughBytes: { readonly first: number; readonly last: number };
  /** Whether the trough rose by no more than was allowed, and no more descriptors were open in the last third than in the first. */
  readonly isFlat: boolean;
  readonly allowedBytes: number;
}

/** By loss alone, or by loss and a p99 round trip under one tick. */
export type PlayerRule = 'loss' | 'p99';

/** How many players each route carries. */
export interface MostPlayersResults {
  readonly startedAt: string;
  readonly machine: Machine;
  readonly pinning: Pinning | undefined;
  readonly tickHz: number;
  /** The most players that were tried. */
  readonly top: number;
  /** Measured time of each run. */
  readonly durationMs: number;
  readonly absent: readonly AbsentPeer[];
  readonly carried: readonly CarriedPlayers[];
}

export interface CarriedPlayers {
  readonly route: RouteInfo;
  readonly byLoss: { readonly players: number; readonly end: LadderEnd };
  readonly byP99: { readonly players: number; readonly end: LadderEnd };
  /** In the order in which they ran. */
  readonly runs: readonly LoadRun[];
}

/** What a number of live sessions costs. */
export interface SessionLoadResults {
  readonly startedAt: string;
  readonly machine: Machine;
  readonly route: RouteInfo;
  readonly pinning: Pinning | undefined;
  /** Asked for. */
  readonly sessions: number;
  /** Client addresses that they were opened from. */
  readonly addresses: number;
  readonly openingMs: number;
  readonly before: RelayFootprint;
  /** With all of them live. */
  readonly during: RelayFootprint;
}

/** The relay process at one moment. */
export interface RelayFootprint {
  readonly residentBytes: number;
  /** Undefined where the system does not say. */
  readonly openDescriptors: number | undefined;
  readonly liveSessions: number;
  readonly upstreamSockets: number;
}
