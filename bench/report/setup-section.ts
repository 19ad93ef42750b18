/** What the figures hang on: the session table's cost at size, the machine, the versions, the arguments. */
import type { BenchResults } from '../results.ts';
import type { SessionTableLookup } from '../session-table-lookup.ts';
import { countRounds } from './comparison-section.ts';
import { figure, formatNumber, formatRatio, formatTime, text, type Section } from './section.ts';
import { describePinning, setupTable } from './setup-table.ts';

/** How much more a lookup in the large table may cost. */
const MAX_RATIO = 2;

export function sessionTableSection(lookup: SessionTableLookup): Section {
  const { smallSessions, largeSessions, batched, single } = lookup;
  const [small, large] = [formatNumber(smallSessions), formatNumber(largeSessions)];
  return {
    title: 'The session table: a lookup among a million',
    findings: [
      {
        kind: batched.ratio <= MAX_RATIO ? 'good' : 'bad',
        text:
          `In batches, as the engines receive, a lookup among ${large} sessions takes ${formatRatio(batched.ratio)} the time of one ` +
          `among ${small} (to reach: at most ${formatRatio(MAX_RATIO)}); alone in its batch, ${formatRatio(single.ratio)}.`,
      },
    ],
    tables: [
      {
        caption: 'Lookup of a live session',
        columns: [text('sessions'), figure('in batches, ns'), figure('alone, ns')],
        rows: [
          [small, formatTime(batched.smallNs), formatTime(single.smallNs)],
          [large, formatTime(batched.largeNs), formatTime(single.largeNs)],
        ],
      },
    ],
    plots: [],
    method:
      'A micro-benchmark in one process, without sockets: the router finds random sessions, all of them present, and notes a ' +
      'datagram in each; the tables take turns, median over the turns. Alone in its batch is as where datagrams come far apart.',
  };
}

export function setupSection({
  machine,
  plan,
  comparison,
  routes,
  absent,
  startedAt,
  tookMs,
}: BenchResults): Section {
  return {
    title: 'Machine and arguments',
    findings: [],
    tables: [
      setupTable({
        machine,
        startedAt,
        rows: [
          ['took', `${formatNumber(tookMs / 1000, 1)} s`],
          ['loads', `${plan.loads.join(', ')} players at ${plan.tickHz} Hz, seed ${plan.seed}`],
          ['game servers', `${plan.gameServers}`],
          ...routes.map(({ name, detail }) => [`route ${name}`, detail] as const),
          ...absent.map(({ name, reason }) => [`absent: ${name}`, reason] as const),
          [
            'network',
            plan.netns
              ? 'players, relays and game servers in namespaces of their own; direct is routed'
              : 'loopback',
          ],
          ['processors', describePinning(plan.pinning)],
          [
            'comparison',
            `${countRounds(comparison.runs)} (of ${plan.rounds} planned), ${formatNumber(plan.comparisonMs)} ms for each load and route`,
          ],
          ['ladder', `${plan.ladder.join(', ')} players, ${formatNumber(plan.ladderMs)} ms each`],
          [
            'ramp and warm-up',
            `${formatNumber(plan.rampMs)} ms and ${formatNumber(plan.warmupMs)} ms, not counted`,
          ],
          ['mode', plan.quick ? 'quick: fewer and shorter runs, rougher figures' : 'full'],
        ],
      }),
    ],
    plots: [],
    method: 'Neither loopback nor a veth pair has a wire: the figures compare software, not networks.',
  };
}
