/**
 * One worker thread of the mmsg engine: a userspace engine over a poller. It owns the sessions of the client IPs that
 * are steered to it. The listener sockets belong to the engine, so they outlive the worker.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { hugePages } from '../../../net/linux/huge-pages.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { Poller } from '../../../net/linux/poller.ts';
import { ListenerCounters } from '../../core/counters.ts';
import type { LiveSessions } from '../../core/listener-state.ts';
import { fromPlainSnapshot } from '../../core/plain-snapshot.ts';
import { UserspaceEngine } from '../userspace/userspace-engine.ts';
import {
  type Answer,
  FIGURES,
  fromPlainSpec,
  type FromWorker,
  type ToWorker,
  type WorkerSettings,
} from './messages.ts';

/** The longest wait. Messages and timers interrupt it. */
const BLOCK_MS = 1_000;

/** Who has a message for the worker wakes it. */
const TURN_MS = 50;

const port = parentPort!;
const settings = workerData as WorkerSettings;
const { figures, clock } = settings;
const loaded = loadLibc();
if ('unavailable' in loaded) throw new Error(loaded.unavailable);

const { coalesceUs, descriptors, ring } = settings;
const poller = new Poller(loaded.libc, { blockMs: BLOCK_MS, turnMs: TURN_MS, coalesceUs, descriptors, ring });
figures.set(
  poller.memory.flatMap(({ address, size }) => [address, size]),
  FIGURES.memory,
);

/** By pool, while a request may make the engine's view of it: the engine keeps them with the pool. */
const lives = new Map<string, LiveSessions>();
const engine = new UserspaceEngine({
  name: 'mmsg',
  openSocket: (options) => poller.open(options),
  maxSessions: settings.maxSessions,
  maxUpstreamSockets: settings.maxUpstreamSockets,
  ...(settings.upstreamQuarantineMs === undefined
    ? {}
    : { upstreamQuarantineMs: settings.upstreamQuarantineMs }),
  hashSeed: settings.hashSeed,
  tableSeed: settings.tableSeed,
  prepareMemory: hugePages(loaded.libc),
  now: clock === undefined ? () => poller.nowMs : () => clock[0]!,
  every: (periodMs, run) =>
    poller.every(periodMs, () => {
      run();
      noteFigures();
    }),
  liveOf: (pool) => lives.get(pool)!,
  onTrouble: (error) =>
    tell({ kind: 'trouble', reason: error instanceof Error ? error.message : String(error) }),
});

port.on('message', (message: ToWorker) => void handle(message));
poller.drive();
tell({ kind: 'online', wakeFd: poller.wakeFd });

async function handle(message: ToWorker): Promise<void> {
  const { request } = message;
  try {
    const answer = await obey(message);
    noteFigures();
    tell({ kind: 'done', request, answer });
  } catch (error) {
    tell({ kind: 'failed', request, reason: error instanceof Error ? error.message : String(error) });
  }
  if (message.kind === 'close') port.close();
}

async function obey(message: ToWorker): Promise<Answer> {
  switch (message.kind) {
    case 'publish':
      await withLive(message.snapshot.pool, message.live, () =>
        engine.publish(fromPlainSnapshot(message.snapshot)),
      );
      return {};
    case 'add': {
      const { spec, live, fd, counters, turns } = message;
      await withLive(spec.pool, live, () =>
        engine.addListener(fromPlainSpec(spec), {
          openSocket: (options) => poller.adopt(fd, options),
          counters: new ListenerCounters(counters),
          turns,
        }),
      );
      return {};
    }
    case 'update':
      await engine.updateListener(fromPlainSpec(message.spec));
      return {};
    case 'remove':
      await engine.removeListener(message.name);
      return {};
    case 'sessions':
      return { listing: await engine.sessions(message.query) };
    case 'pin-groups':
      await engine.setPinGroups(message.groups);
      return {};
    case 'pin': {
      const backend = await engine.requestPin(message.pin);
      return backend === undefined ? {} : { backend };
    }
    case 'let-pin-go':
      engine.letPinGo(message.group, message.client);
      return {};
    case 'sweep':
      engine.sweep();
      return {};
    case 'drain':
      await engine.drain();
      return {};
    case 'close':
      await engine.close();
      poller.close();
      return {};
  }
}

async function withLive(pool: string, live: LiveSessions, request: () => Promise<unknown>): Promise<void> {
  lives.set(pool, live);
  try {
    await request();
  } finally {
    lives.delete(pool);
  }
}

function noteFigures(): void {
  figures[FIGURES.pools] = engine.dump().pools.length;
  figures[FIGURES.livePins] = engine.capacity().livePins;
}

function tell(message: FromWorker): void {
  port.postMessage(message);
}
