/**
 * The players of one process, divided over worker threads; the main thread only coordinates, so that a signal or a live
 * view disturbs no player.
 *
 *   plan each worker -> all are bound -> start all together -> a summary of each -> one summary
 */
import assert from 'node:assert/strict';
import { Worker } from 'node:worker_threads';
import { Endpoint, IpAddress } from '../net/address.ts';
import { RelayError } from '../net/relay-error.ts';
import type { SocketKind } from '../net/socket-choice.ts';
import type { BotProgress } from './bot-fleet.ts';
import type { WorkerOrder, WorkerPlan, WorkerReport } from './bot-worker.ts';
import { mergeProgress, mergeSummaries } from './merge.ts';
import { playerAddresses } from './player-address.ts';
import type { BotSummary } from './report.ts';

/** The built worker: beside this file in dist, or in dist when this file itself runs from its source (as in tests). */
const WORKER = new URL(
  import.meta.url.endsWith('.ts') ? '../dist/botclient/bot-worker.js' : './bot-worker.js',
  import.meta.url,
);

export interface BotCrewOptions extends WorkerPlan {
  /** Worker threads, 1 to the number of players. */
  readonly workers: number;
}

export class BotCrew {
  /** The kind of socket and why, once every player's socket is bound. Rejects with what a fleet's `bind` throws. */
  readonly bound: Promise<{ readonly socket: SocketKind; readonly reason: string }>;
  /** The summary of all, after the grace. */
  readonly finished: Promise<BotSummary>;
  readonly #members: readonly CrewMember[];

  constructor(options: BotCrewOptions) {
    this.#members = dividePlan(options).map((plan) => new CrewMember(plan));
    this.bound = this.#all((member) => member.bound).then(([first]) => first!);
    this.finished = this.#all((member) => member.summary).then(mergeSummaries);
    // Where binding fails there is no summary either, and the failure is told once.
    this.finished.catch(() => undefined);
  }

  /** Begins in every worker; comes after `bound`. */
  start(): void {
    for (const member of this.#members) member.order('start');
  }

  /** Ends the sending early. */
  stop(): void {
    for (const member of this.#members) member.order('stop');
  }

  async progress(): Promise<BotProgress> {
    return mergeProgress(await this.#all((member) => member.progress()));
  }

  /** One member's failure ends them all. */
  async #all<T>(pick: (member: CrewMember) => Promise<T>): Promise<T[]> {
    try {
      return await Promise.all(this.#members.map(pick));
    } catch (error) {
      await Promise.all(this.#members.map((member) => member.terminate()));
      throw error;
    }
  }
}

/** @returns each worker's share of the players, with their ids and addresses in one row */
export function dividePlan({ workers, ...plan }: BotCrewOptions): WorkerPlan[] {
  assert(workers >= 1 && workers <= plan.players);
  const first = plan.firstAddress === undefined ? undefined : IpAddress.parse(plan.firstAddress);
  const addresses = playerAddresses(plan.players, Endpoint.parse(plan.target), first);
  return Array.from({ length: workers }, (_, i) => {
    const from = Math.floor((i * plan.players) / workers);
    const to = Math.floor(((i + 1) * plan.players) / workers);
    const address = addresses[from]!;
    return {
      ...plan,
      players: to - from,
      firstPlayer: plan.firstPlayer + from,
      firstAddress: address.range === 'unspecified' ? undefined : address.toString(),
    };
  });
}

class CrewMember {
  readonly bound: Promise<{ readonly socket: SocketKind; readonly reason: string }>;
  readonly summary: Promise<BotSummary>;
  readonly #worker: Worker;
  #takeProgress: (progress: BotProgress) => void = () => undefined;

  constructor(plan: WorkerPlan) {
    this.#worker = new Worker(WORKER, {
      workerData: plan,
      name: 'bots',
    });
    const failed = new Promise<never>((_resolve, reject) => {
      this.#worker.on('message', (report: WorkerReport) => {
        if (report.kind === 'failed') reject(new RelayError(report.code, report.message));
      });
      this.#worker.once('error', reject);
      this.#worker.once('exit', () => {
        reject(new RelayError('TICKRELAY_ERR_LOAD', 'a worker of the bots ended before its summary'));
      });
    });
    failed.catch(() => undefined);
    this.bound = Promise.race([this.#reported('bound'), failed]);
    this.summary = Promise.race([this.#reported('summary'), failed]).then(({ summary }) => summary);
    this.#worker.on('message', (report: WorkerReport) => {
      if (report.kind === 'progress') this.#takeProgress(report.progress);
    });
  }

  order(order: WorkerOrder): void {
    this.#worker.postMessage(order);
  }

  progress(): Promise<BotProgress> {
    return new Promise((resolve) => {
      this.#takeProgress = resolve;
      this.order('progress');
    });
  }

  async terminate(): Promise<void> {
    await this.#worker.terminate();
  }

  #reported<Kind extends WorkerReport['kind']>(kind: Kind): Promise<Extract<WorkerReport, { kind: Kind }>> {
    return new Promise((resolve) => {
      this.#worker.on('message', (report: WorkerReport) => {
        if (report.kind === kind) resolve(report as Extract<WorkerReport, { kind: Kind }>);
      });
    });
  }
}
