/** How many players each route carries before it loses updates or makes them late. */
import { LADDER_MAX_LOSS } from '../ladder.ts';
import type { BenchResults, LadderResult } from '../results.ts';
import { axisName, COLOURS, FAINT, INK, LEGEND, renderPlot } from './plot.ts';
import { figure, formatNumber, formatShare, formatTime, text } from './section.ts';
import type { Finding, Plot, Section, Table } from './section.ts';

export function ladderSection({ ladders, plan, routes }: BenchResults): Section {
  const tickMs = 1000 / plan.tickHz;
  // A route has one colour in every plot.
  const colours = new Map(routes.map(({ name }, i) => [name, COLOURS[i % COLOURS.length]!]));
  const climbed = ladders.filter(({ steps }) => steps.length > 0);
  return {
    title: 'The ladder: how many players',
    findings: ladders.map(finding),
    tables: climbed.length === 0 ? [] : [stepTable(climbed)],
    plots: climbed.length === 0 ? [] : [ladderPlot(climbed, plan.tickHz, colours)],
    method:
      `Each step runs for ${formatNumber(plan.ladderMs / 1000, 1)} s at ${plan.tickHz} Hz and passes with loss under ${formatShare(LADDER_MAX_LOSS)} and a p99 round trip ` +
      `under one tick (${formatNumber(tickMs, 4)} ms). The routes climb together, step by step; a load of the comparison that a route passed in every round ` +
      `is not measured again, and its last round stands here. A step that fails is run once more; the climb ends when it fails again. Players, ` +
      `game servers and relay share the machine: the figure says what this machine carries with all of them on it, not what a relay ` +
      `on a machine of its own would.`,
  };
}

function finding({ route, mostPlayers, end, steps }: LadderResult): Finding {
  const last = steps.at(-1);
  if (last === undefined) return { kind: 'note', text: `${route}: not measured, no time was left.` };
  const { passed, run } = last;
  const carried = mostPlayers === 0 ? 'no step passed' : `${formatNumber(mostPlayers)} players`;
  const floor = mostPlayers === 0 ? carried : `at least ${carried}`;
  const failed = `${formatNumber(run.players)} failed with loss ${formatShare(run.loss)} and p99 ${formatNumber(run.roundTripUs.p99 / 1000, 2)} ms`;
  const why: Record<LadderResult['end'], string> = {
    failed: `${carried}; ${failed}, twice.`,
    generator: `${floor}; ${failed}, but there the load generator was the limit: ${run.generatorLimit ?? ''}.`,
    top: `${floor}, the top of the ladder.`,
    budget: passed
      ? `${floor}; no time was left for the next step.`
      : `${floor}; ${failed}, and there was no time to try again.`,
  };
  return { kind: 'note', text: `${route}: ${why[end]}` };
}

function stepTable(ladders: readonly LadderResult[]): Table {
  const rows = ladders.flatMap(({ route, steps }) =>
    steps.map(({ passed, run }) => [
      route,
      formatNumber(run.players),
      formatNumber(run.offeredPerSecond),
      formatNumber(run.achievedPerSecond),
      formatShare(run.loss),
      formatTime(run.roundTripUs.p50),
      formatTime(run.roundTripUs.p99),
      formatShare(run.machineBusy),
      run.generatorLimit === undefined ? 'kept up' : 'was the limit',
      passed ? 'passed' : 'failed',
    ]),
  );
  return {
    caption: 'Steps, in the order they ran',
    columns: [
      text('route'),
      ...['players', 'offered/s', 'achieved/s', 'loss', 'p50, µs', 'p99, µs', 'machine busy'].map(figure),
      text('generator'),
      text('step'),
    ],
    rows,
  };
}

function ladderPlot(
  ladders: readonly LadderResult[],
  tickHz: number,
  colours: ReadonlyMap<string, string>,
): Plot {
  const tickUs = 1e6 / tickHz;
  return renderPlot('p99 round trip by number of players; hollow points are steps that failed', {
    height: 380,
    option: {
      grid: { left: 76, right: 28, top: 48, bottom: 56 },
      legend: LEGEND,
      xAxis: { type: 'value', min: 0, ...axisName('players', 34), splitLine: { show: false } },
      yAxis: {
        type: 'log',
        ...axisName('p99 round trip, µs', 54),
        axisLabel: { formatter: (us: number) => us.toLocaleString('en') },
        splitLine: { lineStyle: { color: FAINT } },
      },
      series: ladders.map(({ route, steps }, i) => ({
        type: 'line',
        name: route,
        symbolSize: 9,
        itemStyle: { color: colours.get(route) ?? INK },
        lineStyle: { width: 2.5 },
        data: steps.map(({ passed, run }) => ({
          value: [run.players, Math.max(1, run.roundTripUs.p99)],
          symbol: passed ? 'circle' : 'emptyCircle',
        })),
        ...(i === 0
          ? {
              markLine: {
                silent: true,
                symbol: 'none',
                lineStyle: { color: INK, type: 'dashed', width: 1 },
                label: { formatter: 'one tick', position: 'insideStartTop', color: INK },
                data: [{ yAxis: tickUs }],
              },
            }
          : {}),
      })),
    },
  });
}
