/**
 * What live sessions cost the relay in memory and descriptors: so many are opened through one relay process, and the
 * process is looked at before, and while all of them live.
 *
 * Each session is a client address and port of its own that had two updates answered; its socket is closed then, since the
 * relay keeps the session until its idle timeout. An address opens at most half of what the relay allows one by default.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { playerAddresses } from '../botclient/player-address.ts';
import { Endpoint, type IpAddress } from '../net/address.ts';
import { DatagramBatch, type DatagramSocket } from '../net/datagram-socket.ts';
import { openDgramSocket } from '../net/dgram-socket.ts';
import { RelayError } from '../net/relay-error.ts';
import { encodePositionUpdate, MAX_PLAYER_ID, POSITION_UPDATE_BYTES } from '../wire/position-update.ts';
import { startGameServers } from './game-servers.ts';
import type { LoadContext } from './load-run.ts';
import { cpuSpent, describeMachine, readCpuTimes } from './machine.ts';
import type { Progress } from './progress.ts';
import type { RelayFootprint, SessionLoadResults } from './results.ts';
import { openRelay, type Route } from './routes.ts';

const SESSIONS_PER_ADDRESS = 500;
/** So that the addresses are spread over the game servers, however few sessions there are. */
const LEAST_ADDRESSES = 20;
const UPDATES = 2;
/** An update that was not answered by then is sent again. */
const ANSWER_MS = 250;
const MOST_TRIES = 40;
const IDLE_WATCH_MS = 400;
/** For the relay's sweep to bring its reserve of sockets and its counts up to date, in ms. */
const SETTLE_MS = 1_000;

export interface SessionLoadOptions extends LoadContext {
  readonly engine: string;
  readonly sessions: number;
  readonly progress: Progress;
}

export const SESSION_LOAD_STEPS = 2;

/** @throws RelayError when a process failed or a session could not be had; an AbortError when `signal` fired */
export async function runSessionLoad(options: SessionLoadOptions): Promise<SessionLoadResults> {
  const { engine, sessions, progress, signal, pinning } = options;
  const startedAt = new Date().toISOString();
  progress.step('starting game servers and relay');
  const idle = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  const machine = describeMachine(cpuSpent(idle, readCpuTimes()).share);
  const backends = await startGameServers('binary', options);
  const route = await openRelay(engine, { ...options, backends });
  const before = await look(route, signal);

  progress.step(`opening ${sessions} sessions, ${route.info.name}`);
  const startMs = performance.now();
  const target = Endpoint.parse(route.targets[0]!);
  const addresses = Math.max(LEAST_ADDRESSES, Math.ceil(sessions / SESSIONS_PER_ADDRESS));
  let opened = 0;
  for (const [i, address] of playerAddresses(addresses, target).entries()) {
    signal.throwIfAborted();
    const end = Math.round(((i + 1) * sessions) / addresses);
    await openSessions(end - opened, { address, target, firstPlayer: opened });
    opened = end;
  }
  const openingMs = performance.now() - startMs;
  const during = await look(route, signal);
  await options.group.close();
  return { startedAt, machine, route: route.info, pinning, sessions, addresses, openingMs, before, during };
}

async function look({ readMetrics }: Route, signal: AbortSignal): Promise<RelayFootprint> {
  await sleep(SETTLE_MS, undefined, { signal });
  const { residentBytes, openDescriptors, liveSessions, upstreamSockets } = await readMetrics!();
  return { residentBytes, openDescriptors, liveSessions, upstreamSockets };
}

interface Origin {
  readonly address: IpAddress;
  readonly target: Endpoint;
  readonly firstPlayer: number;
}

/** Opens sessions from one address, and returns when all of them were answered. */
async function openSessions(count: number, { address, target, firstPlayer }: Origin): Promise<void> {
  const answers = new Uint8Array(count);
  const sockets = Array.from({ length: count }, (_, i) =>
    openDgramSocket({ local: new Endpoint(address, 0), onReceive: () => answers[i]!++ }),
  );
  try {
    for (let update = 1; update <= UPDATES; update++) {
      await untilAnswered(update, { sockets, answers, target, firstPlayer });
    }
  } finally {
    await Promise.all(sockets.map((socket) => socket.close()));
  }
}

interface Asking extends Omit<Origin, 'address'> {
  readonly sockets: readonly DatagramSocket[];
  readonly answers: Uint8Array;
}

/** @throws RelayError TICKRELAY_ERR_LOAD when some are never answered */
async function untilAnswered(
  update: number,
  { sockets, answers, target, firstPlayer }: Asking,
): Promise<void> {
  const bytes = new Uint8Array(POSITION_UPDATE_BYTES);
  const batch = new DatagramBatch(1);
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    for (const [i, socket] of sockets.entries()) {
      if (answers[i]! >= update) continue;
      const playerId = (firstPlayer + i) % (MAX_PLAYER_ID + 1);
      encodePositionUpdate({ playerId, x: update, y: 0, z: 0 }, bytes);
      batch.clear();
      batch.append(bytes, bytes.length, target.ip.words, 0, target.port);
      socket.send(batch);
    }
    const deadlineMs = performance.now() + ANSWER_MS;
    while (performance.now() < deadlineMs) {
      if (answers.every((count) => count >= update)) return;
      await sleep(1);
    }
  }
  const silent = answers.filter((count) => count < update).length;
  throw new RelayError(
    'TICKRELAY_ERR_LOAD',
    `${silent} of ${sockets.length} sessions from ${sockets[0]!.local.ip.toString()} were never answered`,
  );
}
