/** What `bench --scale` measured, as scale.json holds it. */
import type { Machine } from '../results.ts';

/** Where the datagrams of a run went, and from whom. */
export interface Lane {
  /** As tables call it. */
  readonly name: string;
  /** Sessions that the relay holds; 0: straight to the server. */
  readonly held: number;
  /** Clients that the datagrams come from, in random order. */
  readonly clients: number;
}

/** Datagrams of many clients at one rate. */
export interface LaneRun {
  readonly lane: string;
  readonly round: number;
  readonly sent: number;
  readonly answered: number;
  /** Busy time of the whole machine for one delivered datagram; an answered one is two. */
  readonly machineCpuUsPerDatagram: number;
  readonly machineShare: number;
}

export interface LaneSummary extends Lane {
  readonly lost: number;
  readonly sent: number;
  /** Median over the rounds. */
  readonly machineCpuUsPerDatagram: number;
}

/** New clients at an even rate; each is heard once more a second later. */
export interface ChurnResult {
  readonly newPerSecond: number;
  readonly idleTimeoutMs: number;
  readonly tookMs: number;
  readonly sent: number;
  readonly answered: number;
  /** As the relay counts them. */
  readonly opened: number;
  readonly expired: number;
  readonly evicted: number;
  readonly dropped: number;
  readonly mostLive: number;
  readonly machineShare: number;
}

/** One walk of the sweep over everything of a kind. */
export interface SweepResult {
  readonly walk: 'sessions' | 'pins' | 'reverse';
  /** How many of them were due. */
  readonly due: 'none' | 'all';
  /** CPU time of the process. */
  readonly cpuMs: number;
  readonly tookMs: number;
  /** The longest part: so long the event loop waited. */
  readonly longestPartMs: number;
}

export interface ScaleResults {
  readonly startedAt: string;
  readonly machine: Machine;
  readonly sessions: number;
  readonly perSecond: number;
  readonly runMs: number;
  readonly runs: readonly LaneRun[];
  readonly lanes: readonly LaneSummary[];
  readonly churn: ChurnResult;
  readonly sweeps: readonly SweepResult[];
}
