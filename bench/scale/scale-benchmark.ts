/**
 * `tickrelay bench --scale`: the kernel engine with sessions by the million.
 *
 *   1. relays in namespaces of their own, one with a thousand sessions, one with as many as asked for; and an echo server each
 *   2. in turns, the same rate of datagrams: straight to the server, and to each relay, from a thousand clients and from all
 *   3. a third relay with a short idle timeout and 10,000 new clients a second, so that as many sessions end as begin
 *   4. the sweep, in a process of its own (sweep-probe.ts)
 *
 * All clients are one process with one socket (source-socket.ts): what differs between the turns is the relay alone.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { RelayError } from '../../net/relay-error.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import type { LoadContext } from '../load-run.ts';
import { cpuSpent, describeMachine, readCpuTimes } from '../machine.ts';
import { NetworkNamespace } from '../network-namespace.ts';
import { tickrelay, type ManagedProcess } from '../process-group.ts';
import type { Progress } from '../progress.ts';
import { relayAddresses } from '../routes.ts';
import { median } from '../stopwatch.ts';
import type { ManyClients, ManyClientsSummary } from './many-clients.ts';
import type { ChurnResult, Lane, LaneRun, LaneSummary, ScaleResults, SweepResult } from './scale-results.ts';

const FEW = 1_000;
/** Datagrams a second of the turns, towards the server. */
const PER_SECOND = 20_000;
/** And while sessions are being opened. */
const OPENING_PER_SECOND = 80_000;
/** Room in the table beside the sessions, so that none is evicted. */
const SPARE = 1.05;
const NEW_PER_SECOND = 10_000;
const CHURN_IDLE_MS = 10_000;
/** Sessions that the relay of new clients has room for: those of its idle timeout and of the time between sweeps. */
const CHURN_ROOM = 262_144;
const IDLE_WATCH_MS = 400;
/** How long a process may take beyond its own times, in ms. */
const SLACK_MS = 60_000;
/** Between two looks at how many sessions live, in ms. */
const LOOK_EVERY_MS = 1_000;

/** A built program beside this file in dist, or in dist when this file itself runs from its source (as in tests). */
const built = (name: string): string =>
  fileURLToPath(
    new URL(
      import.meta.url.endsWith('.ts') ? `../../dist/bench/scale/${name}.js` : `./${name}.js`,
      import.meta.url,
    ),
  );

export interface ScaleOptions extends LoadContext {
  readonly sessions: number;
  readonly rounds: number;
  readonly quick: boolean;
  readonly progress: Progress;
}

export function countScaleSteps({ rounds }: Pick<ScaleOptions, 'rounds'>): number {
  return 4 + rounds * 5;
}

/** @throws RelayError TICKRELAY_ERR_LOAD when the engine can't run here or a process failed; an AbortError when `signal` fired */
export async function runScaleBenchmark(options: ScaleOptions): Promise<ScaleResults> {
  const unavailable = whyUnavailable();
  if (unavailable !== undefined) {
    throw new RelayError('TICKRELAY_ERR_LOAD', `--scale measures the engine kernel: ${unavailable}`);
  }
  const namespaces: NetworkNamespace[] = [];
  const place = (name: string): NetworkNamespace => {
    const namespace = new NetworkNamespace(name);
    namespaces.push(namespace);
    return namespace;
  };
  try {
    return await measure(options, place);
  } finally {
    await options.group.close();
    for (const namespace of namespaces) namespace.remove();
  }
}

async function measure(
  options: ScaleOptions,
  place: (name: string) => NetworkNamespace,
): Promise<ScaleResults> {
  const { sessions, rounds, quick, progress, signal } = options;
  const startedAt = new Date().toISOString();
  progress.step('starting relays');
  const idle = readCpuTimes();
  await sleep(IDLE_WATCH_MS, undefined, { signal });
  const machine = describeMachine(cpuSpent(idle, readCpuTimes()).share);
  const few = await openSite(options, place('few'), { maxSessions: FEW * 2, idleTimeoutMs: 3_600_000 });
  const many = await openSite(options, place('many'), {
    maxSessions: Math.ceil(sessions * SPARE),
    idleTimeoutMs: 3_600_000,
  });
  progress.step(`opening ${sessions} sessions`);
  await openSessions(options, few, FEW);
  await openSessions(options, many, sessions);

  const runMs = quick ? 500 : 3_000;
  const lanes: readonly (Lane & { site: Site; target: string })[] = [
    { name: 'direct', held: 0, clients: FEW, site: few, target: few.server },
    { name: 'direct, all', held: 0, clients: sessions, site: many, target: many.server },
    { name: 'few', held: FEW, clients: FEW, site: few, target: few.relay },
    { name: 'few of many', held: sessions, clients: FEW, site: many, target: many.relay },
    { name: 'all of many', held: sessions, clients: sessions, site: many, target: many.relay },
  ];
  const runs: LaneRun[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const { name, clients, site, target } of lanes) {
      progress.step(`round ${round} of ${rounds}: ${name}`);
      const load = { target, order: 'random', first: 0, sources: clients, perSecond: PER_SECOND } as const;
      const { sent, answered, machineBusyMs, machineShare } = await play(options, site, {
        ...load,
        durationMs: runMs,
      });
      const machineCpuUsPerDatagram = (1000 * machineBusyMs) / Math.max(1, 2 * answered);
      runs.push({ lane: name, round, sent, answered, machineCpuUsPerDatagram, machineShare });
    }
  }
  for (const site of [few, many]) await site.close();

  progress.step(`${NEW_PER_SECOND} new sessions a second`);
  const churn = await runChurn(options, place('new'));
  progress.step('sweeping');
  const sweeps = await runSweeps(options, place('sweep'));
  return {
    startedAt,
    machine,
    sessions,
    perSecond: PER_SECOND,
    runMs,
    runs,
    lanes: lanes.map((lane) => summarise(lane, runs)),
    churn,
    sweeps,
  };
}

function summarise({ name, held, clients }: Lane, runs: readonly LaneRun[]): LaneSummary {
  const own = runs.filter(({ lane }) => lane === name);
  const sum = (of: (run: LaneRun) => number): number => own.reduce((total, run) => total + of(run), 0);
  return {
    name,
    held,
    clients,
    sent: sum(({ sent }) => sent),
    lost: sum(({ sent, answered }) => sent - answered),
    machineCpuUsPerDatagram: median(own.map(({ machineCpuUsPerDatagram }) => machineCpuUsPerDatagram)),
  };
}

/** A relay and an echo server behind it, in a namespace of their own. */
interface Site {
  readonly namespace: NetworkNamespace;
  readonly server: string;
  readonly relay: string;
  readonly process: ManagedProcess;
  /** The sum of a metric's samples. */
  readonly metric: (name: string) => number;
  readonly close: () => Promise<void>;
}

async function openSite(
  { group }: LoadContext,
  namespace: NetworkNamespace,
  { maxSessions, idleTimeoutMs }: { maxSessions: number; idleTimeoutMs: number },
): Promise<Site> {
  const echo = group.start(
    namespace.inside({ name: 'echo server', args: [built('echo-server'), '127.0.0.1:0'] }),
  );
  const { udp: server } = (await echo.event('ready')) as { udp: string };
  const flags = [
    ...['relay', '--json', '--udp', '127.0.0.1:0', '--backend', server, '--admin', '127.0.0.1:0'],
    ...['--engine', 'kernel', '--source-address', 'client', '--bpffs', 'none', '--shutdown-deadline', '1ms'],
    ...['--max-sessions', `${maxSessions}`, '--idle-timeout', `${idleTimeoutMs}ms`],
  ];
  const relay = group.start(namespace.inside(tickrelay('relay (kernel)', flags)));
  const { udp, admin } = relayAddresses(await relay.event('ready', SLACK_MS));
  const page = (): string =>
    namespace.run(
      process.execPath,
      '-e',
      'fetch(process.argv[1]).then((r) => r.text()).then((t) => process.stdout.write(t))',
      `http://${admin}/metrics`,
    );
  return {
    namespace,
    server,
    relay: udp,
    process: relay,
    metric: (name) =>
      [...page().matchAll(new RegExp(`^tickrelay_${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].reduce(
        (sum, [, value]) => sum + Number(value),
        0,
      ),
    close: async () => {
      await relay.stop();
      await echo.stop();
    },
  };
}

/** Plays datagrams of many clients in the site's namespace. */
async function play(
  { group }: LoadContext,
  { namespace }: Site,
  load: ManyClients,
): Promise<ManyClientsSummary> {
  const spec = { name: 'clients', args: [built('many-clients'), JSON.stringify(load)] };
  const clients = group.start(namespace.inside(spec));
  const takesMs = load.durationMs ?? (2_000 * load.sources) / load.perSecond;
  return (await clients.event('summary', takesMs + SLACK_MS)) as unknown as ManyClientsSummary;
}

/** Opens so many sessions, past half-open. @throws RelayError TICKRELAY_ERR_LOAD when that was not possible */
async function openSessions(context: ScaleOptions, site: Site, sessions: number): Promise<void> {
  const load = { target: site.relay, first: 0, sources: sessions, perSecond: OPENING_PER_SECOND } as const;
  for (let turn = 0; turn < 2; turn++) await play(context, site, { ...load, order: 'each' });
  const live = site.metric('sessions');
  if (live === sessions) return;
  throw new RelayError('TICKRELAY_ERR_LOAD', `the relay holds ${live} of ${sessions} sessions`);
}

async function runChurn(options: ScaleOptions, namespace: NetworkNamespace): Promise<ChurnResult> {
  const idleTimeoutMs = options.quick ? 2_000 : CHURN_IDLE_MS;
  const seconds = options.quick ? 4 : 30;
  const site = await openSite(options, namespace, { maxSessions: CHURN_ROOM, idleTimeoutMs });
  const playing = play(options, site, {
    target: site.relay,
    order: 'new',
    first: 0,
    sources: NEW_PER_SECOND * seconds,
    perSecond: 2 * NEW_PER_SECOND,
  });
  const over = new AbortController();
  const looks: number[] = [];
  const looking = (async () => {
    while (!over.signal.aborted) {
      looks.push(site.metric('sessions'));
      await sleep(LOOK_EVERY_MS, undefined, { signal: options.signal });
    }
  })();
  const { sent, answered, tookMs, machineShare } = await playing.finally(() => over.abort());
  await looking;
  const churn = {
    newPerSecond: (1000 * NEW_PER_SECOND * seconds) / tookMs,
    idleTimeoutMs,
    tookMs,
    sent,
    answered,
    opened: site.metric('sessions_opened_total'),
    expired: site.metric('sessions_expired_total'),
    evicted: site.metric('sessions_evicted_total'),
    dropped: site.metric('datagrams_dropped_total'),
    mostLive: Math.max(...looks),
    machineShare,
  };
  await site.close();
  return churn;
}

async function runSweeps(
  { group, sessions }: ScaleOptions,
  namespace: NetworkNamespace,
): Promise<readonly SweepResult[]> {
  const spec = { name: 'sweep probe', args: [built('sweep-probe'), `${sessions}`] };
  const { sweeps } = await group.start(namespace.inside(spec)).event('sweeps', 4 * SLACK_MS);
  return sweeps as readonly SweepResult[];
}
