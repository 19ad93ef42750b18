/** How many players each route carries, by loss alone and with the round trip. */
import { LADDER_MAX_LOSS } from '../ladder.ts';
import { passesBy } from '../most-players.ts';
import type { CarriedPlayers, MostPlayersResults } from '../results.ts';
import { figure, formatKnown, formatNumber, formatShare, formatTime, text } from './section.ts';
import type { Finding, Section, Table } from './section.ts';
import { describePinning, setupTable } from './setup-table.ts';

const ENDS: Record<CarriedPlayers['byLoss']['end'], string> = {
  failed: 'the next load failed twice',
  generator: 'at the next load the generators were the limit',
  top: 'the top of the search',
  budget: 'the runs were used up',
};

export function mostPlayersSection(results: MostPlayersResults): Section {
  const { carried, absent, tickHz, durationMs, machine, startedAt, pinning } = results;
  return {
    title: 'The most players',
    findings: [
      ...ratioFindings(carried),
      ...absent.map(({ name, reason }): Finding => ({ kind: 'note', text: `${name} is absent: ${reason}` })),
    ],
    tables: [
      carriedTable(carried),
      runTable(results),
      setupTable({ machine, startedAt, rows: [['processors', describePinning(pinning)]] }),
    ],
    plots: [],
    method:
      `Each run is measured for ${formatNumber(durationMs / 1000, 1)} s at ${tickHz} Hz. By loss, a load passes when the generators sent what they were ` +
      `asked for and under ${formatShare(LADDER_MAX_LOSS)} had no answer; by p99, when the p99 round trip is under one tick, too. Each route's ` +
      `load is doubled until it fails twice, then the gap is halved, down to 5 % or 10 players. The routes take turns.`,
  };
}

/** The first engine against each other relay. */
function ratioFindings(carried: readonly CarriedPlayers[]): Finding[] {
  const [lead, ...rivals] = carried.filter(({ route }) => route.kind !== 'direct');
  if (lead === undefined) return [];
  return rivals.flatMap((rival) =>
    (['byLoss', 'byP99'] as const).map((rule): Finding => {
      const [own, other] = [lead[rule], rival[rule]];
      const isOpen = own.end !== 'failed' ? 'at least ' : '';
      const what = rule === 'byLoss' ? 'by loss' : 'by loss and p99';
      const ratio =
        other.players > 0 ? `, ${isOpen}${formatNumber(own.players / other.players, 2)} times as many` : '';
      return {
        kind: 'note',
        text: `${what}: ${lead.route.name} carried ${isOpen}${formatNumber(own.players)}, ${rival.route.name} ${formatNumber(other.players)}${ratio}.`,
      };
    }),
  );
}

function carriedTable(carried: readonly CarriedPlayers[]): Table {
  return {
    caption: 'The most players of each route',
    columns: [
      text('route'),
      figure('by loss'),
      text('why no more'),
      figure('by loss and p99'),
      text('why no more'),
      figure('runs'),
    ],
    rows: carried.map(({ route, byLoss, byP99, runs }) => [
      route.name,
      formatNumber(byLoss.players),
      ENDS[byLoss.end],
      formatNumber(byP99.players),
      ENDS[byP99.end],
      formatNumber(runs.length),
    ]),
  };
}

function runTable({ carried, tickHz }: MostPlayersResults): Table {
  return {
    caption: 'Every run, in the order they ran',
    columns: [
      text('route'),
      ...['players', 'offered/s', 'achieved/s', 'loss', 'p50, µs', 'p99, µs', 'process CPU, µs'].map(figure),
      text('generator'),
      text('by loss'),
      text('by p99'),
    ],
    rows: carried.flatMap(({ runs }) =>
      runs.map((run) => [
        run.route,
        formatNumber(run.players),
        formatNumber(run.offeredPerSecond),
        formatNumber(run.achievedPerSecond),
        formatShare(run.loss),
        formatTime(run.roundTripUs.p50),
        formatTime(run.roundTripUs.p99),
        formatKnown(run.processCpu && run.processCpu.totalUs / Math.max(1, run.deliveredBetweenReadings)),
        run.generatorLimit === undefined ? 'kept up' : 'was the limit',
        ...(['loss', 'p99'] as const).map((rule) => (passesBy(rule, run, tickHz) ? 'passed' : 'failed')),
      ]),
    ),
  };
}
