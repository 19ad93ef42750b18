/** Plots as SVG text, rendered here and not in the reader's browser: the report needs no script and no network. */
import * as echarts from 'echarts';
import type { Plot } from './section.ts';

const WIDTH = 880;
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

/** Told apart also by readers who see fewer colours (Okabe and Ito's set). */
export const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'];
export const FAINT = '#d8dde3';
export const INK = '#39424e';

/** Above the plot; plain colours, since points have meanings of their own. */
export const LEGEND = { top: 8, left: 'center', itemGap: 24, icon: 'roundRect' } as const;

export function renderPlot(
  description: string,
  { height, option }: { readonly height: number; readonly option: echarts.EChartsOption },
): Plot {
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height });
  try {
    chart.setOption({
      animation: false,
      color: COLOURS,
      textStyle: { fontFamily: FONT, color: INK },
      ...option,
    });
    return { description, svg: chart.renderToSVGString() };
  } finally {
    chart.dispose();
  }
}

/** An axis's name in the middle of its side. */
export function axisName(name: string, gap: number) {
  return { name, nameLocation: 'middle' as const, nameGap: gap, nameTextStyle: { color: INK } };
}
