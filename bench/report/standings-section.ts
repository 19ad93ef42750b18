/** Who won what, and where: the first part of the report when there is more than one relay. */
import type { BenchResults, LadderResult, RouteInfo, Standing } from '../results.ts';
import { EVEN_RATIO, rankLadders } from '../standings.ts';
import { countRounds, pinningSentence } from './comparison-section.ts';
import { figure, formatNumber, formatRatio, formatTime, text } from './section.ts';
import type { Finding, Section, Table } from './section.ts';

/** A standing with the load it belongs to; none for the ladder. */
interface Row {
  readonly players: number | undefined;
  readonly standing: Standing;
}

export function standingsSection(results: BenchResults): Section[] {
  const { comparison, ladders, routes, plan } = results;
  const carriers = routes.filter(({ kind }) => kind !== 'direct');
  const names = carriers.map(({ name }) => name);
  const rows: Row[] = [
    ...comparison.loads.flatMap(({ players, standings }) =>
      standings.map((standing) => ({ players, standing })),
    ),
    ...rankLadders(ladders, names).map((standing) => ({ players: undefined, standing })),
  ];
  if (rows.length === 0) return [];
  return [
    {
      title: 'Who won',
      findings: [
        ...carriers.map((carrier) => tally(carrier, rows)),
        ...carriers.slice(1).flatMap((rival) => losses(carriers[0]!, rival, rows)),
        undecidedFinding(rows),
      ].filter((finding) => finding !== undefined),
      tables: [standingsTable(rows, names, ladders)],
      plots: [],
      method:
        `The ratios set ${names[0]!} against each other one, figure by figure: under 1 it is better, but for the most players, where over 1 is. ` +
        `A ratio is the median over ${countRounds(comparison.runs)}, each round's runs set against each other; the figures ` +
        `beside it are medians of their own, so they need not divide to it. Figures that differ by less than ${formatNumber(100 * (EVEN_RATIO - 1))} % are even. ` +
        `CPU is µs for each delivered datagram, round trips are µs; rounds in which the load generator was a limit do not count for round trips. ` +
        pinningSentence(plan.pinning),
    },
  ];
}

function tally({ name, detail }: RouteInfo, rows: readonly Row[]): Finding {
  const won = rows.filter(({ standing: { winners } }) => winners.length === 1 && winners[0] === name);
  const even = rows.filter(({ standing: { winners } }) => winners.length > 1 && winners.includes(name));
  return {
    kind: 'note',
    text: `${name} (${detail}) won ${won.length} of ${rows.length} rows, and was even with the best in ${even.length}.`,
  };
}

/** Where the first engine lost to this rival, all of it. */
function losses(lead: RouteInfo, rival: RouteInfo, rows: readonly Row[]): Finding[] {
  const lost = rows.filter(
    ({ standing: { winners, values } }) =>
      lead.name in values && winners.includes(rival.name) && !winners.includes(lead.name),
  );
  if (lost.length === 0) return [];
  const where = lost.map(({ players, standing }) => {
    const ratio = standing.ratios[rival.name];
    const title = rowTitle({ players, standing });
    return ratio === undefined ? title : `${title} (${formatRatio(ratio)})`;
  });
  return [{ kind: 'note', text: `${lead.name} LOST to ${rival.name}: ${where.join(', ')}.` }];
}

function undecidedFinding(rows: readonly Row[]): Finding | undefined {
  const open = rows.filter(({ standing }) => standing.undecided !== undefined);
  if (open.length === 0) return undefined;
  const why = [...new Set(open.map(({ standing }) => standing.undecided!))].join('; ');
  return { kind: 'note', text: `Undecided: ${open.length} of ${rows.length} rows (${why}).` };
}

function standingsTable(
  rows: readonly Row[],
  names: readonly string[],
  ladders: readonly LadderResult[],
): Table {
  const [lead, ...rivals] = names;
  return {
    caption: 'Every row and its winner',
    columns: [
      text('row'),
      ...names.map(figure),
      text('winner'),
      ...rivals.map((rival) => figure(`${lead!} / ${rival}`)),
    ],
    rows: rows.map((row) => [
      rowTitle(row),
      ...names.map((name) => formatValue(row, name, ladders)),
      winner(row.standing),
      ...rivals.map((rival) => {
        const ratio = row.standing.ratios[rival];
        return ratio === undefined || row.standing.undecided !== undefined ? '-' : formatRatio(ratio);
      }),
    ]),
  };
}

function rowTitle({ players, standing }: Row): string {
  return players === undefined ? standing.figure : `${formatNumber(players)} players: ${standing.figure}`;
}

/** A climb that the route did not end itself says only how far it came. */
function formatValue({ players, standing }: Row, name: string, ladders: readonly LadderResult[]): string {
  const value = standing.values[name];
  if (value === undefined) return '-';
  if (players !== undefined) return Number.isInteger(value) ? formatNumber(value) : formatTime(value);
  const end = ladders.find(({ route }) => route === name)?.end;
  return `${end === 'failed' || value === 0 ? '' : 'at least '}${formatNumber(value)}`;
}

function winner({ winners, undecided }: Standing): string {
  if (undecided !== undefined) return 'undecided';
  return winners.length > 1 ? `even: ${winners.join(', ')}` : (winners[0] ?? '-');
}
