/**
 * The thread that carries all TCP connections: a TCP engine over the transport `pump`. The listening sockets belong to the main
 * thread, so they outlive this one.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { EventPoll } from '../../../net/linux/event-poll.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { fromPlainSnapshot } from '../../core/plain-snapshot.ts';
import { PumpTransport } from '../pump/pump-transport.ts';
import { TcpCounters } from '../tcp-counters.ts';
import { TcpEngine } from '../tcp-engine.ts';
import { fromPlainTcpSpec, type TcpWorkerSettings, type ToMainThread, type ToTcpWorker } from './messages.ts';
import { OutcomeFilter } from './outcome-filter.ts';
import { RequestChannel } from './request-channel.ts';

/**
 * How long the event loop may wait for its turn. Nothing here needs it but messages, and whoever sends one wakes the poll; a turn
 * after every round costs more than the round.
 */
const TURN_MS = 100;

const port = parentPort!;
const { hashSeed, descriptors, chunks, ids } = workerData as TcpWorkerSettings;
const loaded = loadLibc();
if ('unavailable' in loaded) throw new Error(loaded.unavailable);

const poll = new EventPoll(loaded.libc, { turnMs: TURN_MS, descriptors });
const transport = new PumpTransport(poll, chunks);
const outcomes = new OutcomeFilter();
const engine = new TcpEngine({
  hashSeed,
  transport,
  ids,
  now: () => poll.nowMs,
  logger: {
    info: (fields, text) => log('info', fields, text),
    warn: (fields, text) => log('warn', fields, text),
  },
  pins: {
    request: (pin) => channel.ask({ kind: 'pin', pin }),
    letGo: (group, client) => channel.tell({ kind: 'let-pin-go', group, client }),
  },
  onConnectOutcome: (pool, { id }, failure) => {
    if (outcomes.isNews(pool, id, failure)) channel.tell({ kind: 'outcome', pool, backend: id, failure });
  },
});
const channel = new RequestChannel<ToMainThread, ToTcpWorker>({
  post: (message) => port.postMessage(message),
  answer: obey,
  onTrouble: (error) => log('warn', { err: error }, 'the TCP worker could not do what it was told'),
});

port.on('message', (message) => channel.receive(message));
poll.drive();
channel.tell({ kind: 'online', wakeFd: poll.wakeFd });

async function obey(request: ToTcpWorker): Promise<unknown> {
  switch (request.kind) {
    case 'publish':
      return engine.publish(fromPlainSnapshot(request.snapshot));
    case 'add': {
      const { spec, fd, cells } = request;
      await engine.addListener(fromPlainTcpSpec(spec), { fd, counters: new TcpCounters(cells) });
      return undefined;
    }
    case 'update':
      return engine.updateListener(fromPlainTcpSpec(request.spec));
    case 'remove':
      return engine.removeListener(request.name);
    case 'connections':
      return engine.connections(request.query);
    case 'close-connection':
      return engine.closeConnection(request.id);
    case 'drain':
      return engine.drain();
    case 'close':
      await engine.close();
      transport.close();
      poll.close();
      // Nothing keeps the thread any longer once the answer is out.
      setImmediate(() => port.close());
      return undefined;
  }
}

function log(level: 'info' | 'warn', fields: Readonly<Record<string, unknown>>, text: string): void {
  const { err } = fields;
  // Errors are copied without their codes.
  const plain =
    err instanceof Error
      ? { ...fields, err: { code: (err as NodeJS.ErrnoException).code, message: err.message } }
      : fields;
  channel.tell({ kind: 'log', level, fields: plain, text });
}
