/**
 * One worker thread of the bots: a fleet with some of the players.
 *
 *   plan -> log in, where there is a login service -> bind -> `bound` -> (start) -> play -> `summary` -> end
 *
 * `progress` is answered at any time, `stop` ends the sending early.
 */
import assert from 'node:assert/strict';
import { parentPort, workerData } from 'node:worker_threads';
import { Endpoint, IpAddress } from '../net/address.ts';
import { RelayError, type RelayErrorCode } from '../net/relay-error.ts';
import { chooseSocket, type SocketChoice, type SocketKind } from '../net/socket-choice.ts';
import { type CodecName, CODECS } from '../wire/codec.ts';
import { BotFleet, type BotFleetOptions, type BotProgress } from './bot-fleet.ts';
import { logIn } from './login.ts';
import { playerAddresses } from './player-address.ts';
import type { BotSummary } from './report.ts';
import { stubCredentials } from '../wire/login.ts';

/** A fleet's options in a form that goes from thread to thread. */
export interface WorkerPlan extends Omit<
  BotFleetOptions,
  'target' | 'codec' | 'firstAddress' | 'playerIds' | 'openSocket' | 'now' | 'metronome'
> {
  readonly target: string;
  readonly codec: CodecName;
  readonly firstAddress: string | undefined;
  readonly socket: SocketChoice;
  /** The login service, as text; undefined: nobody logs in. */
  readonly login: string | undefined;
}

export type WorkerOrder = 'start' | 'stop' | 'progress';

export type WorkerReport =
  | { readonly kind: 'bound'; readonly socket: SocketKind; readonly reason: string }
  | { readonly kind: 'progress'; readonly progress: BotProgress }
  | { readonly kind: 'summary'; readonly summary: BotSummary }
  | { readonly kind: 'failed'; readonly code: RelayErrorCode; readonly message: string };

assert(parentPort !== null, 'a worker thread');
const port = parentPort;
const report = (message: WorkerReport): void => port.postMessage(message);

try {
  await play(workerData as WorkerPlan);
} catch (error) {
  if (!(error instanceof RelayError)) throw error;
  report({ kind: 'failed', code: error.code, message: error.message });
} finally {
  port.close();
}

async function play(plan: WorkerPlan): Promise<void> {
  const socket = chooseSocket(plan.socket);
  try {
    const target = Endpoint.parse(plan.target);
    const firstAddress = plan.firstAddress === undefined ? undefined : IpAddress.parse(plan.firstAddress);
    const playerIds = await logInAll(plan, playerAddresses(plan.players, target, firstAddress));
    const fleet = new BotFleet({
      ...plan,
      target,
      codec: CODECS[plan.codec],
      firstAddress,
      playerIds,
      openSocket: socket.open,
      metronome: socket.metronome,
    });
    fleet.bind();
    port.on('message', (order: WorkerOrder) => {
      if (order === 'start') fleet.start();
      else if (order === 'stop') void fleet.stop();
      else report({ kind: 'progress', progress: fleet.progress() });
    });
    report({ kind: 'bound', socket: socket.kind, reason: socket.reason });
    report({ kind: 'summary', summary: await fleet.finished });
  } finally {
    socket.close();
  }
}

/** @returns the players' ids, or undefined where nobody logs in */
async function logInAll({ login, firstPlayer }: WorkerPlan, addresses: readonly IpAddress[]) {
  if (login === undefined) return undefined;
  const attempts = addresses.map((address, i) => ({
    credentials: stubCredentials(firstPlayer + i),
    address,
  }));
  return logIn(Endpoint.parse(login), attempts);
}
