/**
 * Datagrams of very many clients at an even rate, a process of its own: `node many-clients.js JSON`, the JSON being ManyClients.
 * Prints `summary`, a ManyClientsSummary, at its end.
 *
 * What is due is sent in batches, and answers are taken between them; ahead of time it sleeps for a tenth of a millisecond.
 */
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { cpuSpent, readCpuTimes } from '../machine.ts';
import { BATCH, SourceSocket } from './source-socket.ts';

export interface ManyClients {
  readonly target: string;
  /**
   * `each`: every source once, in order. `random`: any source. `new`: a source that was never seen, then one that was first seen
   * a second ago, and so on, so that each is heard twice.
   */
  readonly order: 'each' | 'random' | 'new';
  /** Sources to choose from: `first` and the next `sources` - 1. For `new`, how many come. */
  readonly first: number;
  readonly sources: number;
  readonly perSecond: number;
  /** For `random`; else the order says when it is over. */
  readonly durationMs?: number;
}

export interface ManyClientsSummary {
  readonly sent: number;
  readonly answered: number;
  /** From the first datagram to the last. */
  readonly tookMs: number;
  /** Busy time of the whole machine meanwhile. */
  readonly machineBusyMs: number;
  /** Of what the machine has. */
  readonly machineShare: number;
}

const PAUSE_US = 100;
/** How long answers are waited for after the last datagram. */
const GRACE_MS = 300;

/** The source of datagram `n`. */
type Source = (n: number) => number;

function sourcesOf({ order, first, sources, perSecond }: ManyClients): { total: number; source: Source } {
  if (order === 'each') return { total: sources, source: (n) => first + n };
  if (order === 'random') {
    let state = 1;
    const source = (): number => {
      // xorshift32
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return first + ((state >>> 0) % sources);
    };
    return { total: Number.POSITIVE_INFINITY, source };
  }
  const pairs = Math.ceil(perSecond / 2);
  const source: Source = (n) => first + (n % 2 === 0 ? n / 2 : Math.max(0, (n - 1) / 2 - pairs));
  return { total: 2 * sources, source };
}

function run(load: ManyClients): ManyClientsSummary {
  const loaded = loadLibc();
  if ('unavailable' in loaded) throw new Error(loaded.unavailable);
  const { libc } = loaded;
  const socket = new SourceSocket(libc, Endpoint.parse(load.target));
  const planned = sourcesOf(load);
  const total = Math.min(
    planned.total,
    (load.perSecond * (load.durationMs ?? Number.POSITIVE_INFINITY)) / 1000,
  );
  let sent = 0;
  let answered = 0;
  const before = readCpuTimes();
  const startMs = performance.now();
  while (sent < total) {
    const due = Math.min(total, Math.floor(((performance.now() - startMs) * load.perSecond) / 1000)) - sent;
    if (due > 0) {
      const count = Math.min(BATCH, Math.ceil(due));
      for (let i = 0; i < count; i++) socket.setSource(i, planned.source(sent + i));
      sent += Math.max(1, socket.send(count));
    } else libc.usleep(PAUSE_US);
    answered += socket.receive();
  }
  const tookMs = performance.now() - startMs;
  const spent = cpuSpent(before, readCpuTimes());
  for (const endMs = performance.now() + GRACE_MS; performance.now() < endMs; libc.usleep(PAUSE_US))
    answered += socket.receive();
  socket.close();
  return { sent, answered, tookMs, machineBusyMs: spent.busyMs, machineShare: spent.share };
}

const summary = run(JSON.parse(process.argv[2]!) as ManyClients);
process.stdout.write(`${JSON.stringify({ event: 'summary', ...summary })}\n`);
