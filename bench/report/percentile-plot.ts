/**
 * Latency by percentile. The x axis is 1 / (1 - p) on a log scale, so that 99 % and 99.9 %, where players feel a hiccup,
 * get as much room as the first 90 %.
 */
import type { Histogram } from 'hdr-histogram-js';
import { axisName, FAINT, INK, LEGEND, renderPlot } from './plot.ts';
import type { Plot } from './section.ts';

export interface PercentileCurve {
  readonly name: string;
  readonly histogram: Histogram;
}

const LABELLED = new Map([
  [1, '0 %'],
  [2, '50 %'],
  [10, '90 %'],
  [100, '99 %'],
  [1_000, '99.9 %'],
  [10_000, '99.99 %'],
  [100_000, '99.999 %'],
]);
const POINTS_PER_DECADE = 24;

export function percentilePlot(
  description: string,
  { curves, tickHz }: { readonly curves: readonly PercentileCurve[]; readonly tickHz: number },
): Plot {
  const lines = curves.map(({ name, histogram }) => ({ name, points: pointsOf(histogram) }));
  const end = Math.max(...lines.map(({ points }) => points.at(-1)?.[0] ?? 1));
  const ticks = [...LABELLED.keys()].filter((x) => x <= end);
  const tickUs = 1e6 / tickHz;
  return renderPlot(description, {
    height: 420,
    option: {
      grid: { left: 76, right: 28, top: 48, bottom: 56 },
      legend: LEGEND,
      xAxis: {
        type: 'log',
        min: 1,
        max: end,
        ...axisName('percentile of round trips', 34),
        axisLabel: { customValues: ticks, formatter: (x: number) => LABELLED.get(x) ?? '' },
        axisTick: { customValues: ticks },
        splitLine: { show: false },
      },
      yAxis: {
        type: 'log',
        ...axisName('round trip, µs', 54),
        axisLabel: { formatter: (us: number) => us.toLocaleString('en') },
        splitLine: { lineStyle: { color: FAINT } },
      },
      series: lines.map(({ name, points }, i) => ({
        type: 'line',
        name,
        data: points,
        showSymbol: false,
        lineStyle: { width: 2.5 },
        ...(i === 0 && points.some(([, us]) => us > tickUs / 4) ? { markLine: tickLine(tickUs) } : {}),
      })),
    },
  });
}

/** From the smallest round trip up to the percentile that one single round trip decides. */
function pointsOf(histogram: Histogram): [x: number, us: number][] {
  const decades = Math.log10(Math.max(10, histogram.totalCount));
  const count = Math.floor(decades * POINTS_PER_DECADE);
  return Array.from({ length: count + 1 }, (_, i) => {
    const x = 10 ** (i / POINTS_PER_DECADE);
    return [x, Math.max(1, histogram.getValueAtPercentile(100 * (1 - 1 / x)))];
  });
}

function tickLine(tickUs: number) {
  return {
    silent: true,
    symbol: 'none',
    lineStyle: { color: INK, type: 'dashed' as const, width: 1 },
    label: { formatter: 'one tick', position: 'insideStartTop' as const, color: INK },
    data: [{ yAxis: tickUs }],
  };
}
