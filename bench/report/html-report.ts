/** The report as one HTML file: no script, no font, no image from elsewhere. It reads the same without a network. */
import type { Plot, Section, Table } from './section.ts';

const STYLE = `
  :root { color-scheme: light; --ink: #1d2530; --soft: #5b6673; --line: #e2e6ea; --good: #0a7a4f; --bad: #b3261e; }
  * { box-sizing: border-box; }
  body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: #fff;
    font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
  h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
  h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
  .lead, .method, figcaption, footer { color: var(--soft); }
  .lead { margin: 0; }
  .method { font-size: .9rem; }
  ul.findings { list-style: none; margin: 1rem 0; padding: 0; }
  ul.findings li { margin: .4rem 0; padding: .1rem 0 .1rem .8rem; border-left: 4px solid var(--line); }
  ul.findings li.good { border-color: var(--good); }
  ul.findings li.bad { border-color: var(--bad); color: var(--bad); font-weight: 600; }
  figure { margin: 1.25rem 0; }
  figure div { overflow-x: auto; }
  figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
  figcaption { font-size: .9rem; }
  .scroll { overflow-x: auto; margin: 1.25rem 0; }
  table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
  caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
  th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: bottom; }
  td { white-space: nowrap; }
  thead th { color: var(--soft); font-weight: 600; }
  tbody th { font-weight: 600; white-space: nowrap; }
  .right { text-align: right; }
  @media (max-width: 40rem) { body { padding-top: 1.25rem; } table { font-size: .8rem; } }
  @media print { h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
`;

export interface HtmlReport {
  readonly title: string;
  /** Date, machine and version in one line. */
  readonly lead: string;
  /** Where the single measurements are. */
  readonly file: string;
  readonly sections: readonly Section[];
}

export function renderHtml({ title, lead, file, sections }: HtmlReport): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<header>
<h1>${escape(title)}</h1>
<p class="lead">${escape(lead)}</p>
</header>
<main>
${sections.map(renderSection).join('\n')}
</main>
<footer><p>All figures come from this one run; ${escape(file)} beside this file holds every single measurement.</p></footer>
</body>
</html>
`;
}

function renderSection({ title, findings, plots, tables, method }: Section): string {
  const items = findings.map(({ kind, text }) => `<li class="${kind}">${escape(text)}</li>`).join('\n');
  return `<section>
<h2>${escape(title)}</h2>
${items === '' ? '' : `<ul class="findings">\n${items}\n</ul>`}
${plots.map(renderPlot).join('\n')}
${tables.map(renderTable).join('\n')}
<p class="method">${escape(method)}</p>
</section>`;
}

function renderPlot({ description, svg }: Plot): string {
  return `<figure>
<div role="img" aria-label="${escape(description)}">${svg}</div>
<figcaption>${escape(description)}</figcaption>
</figure>`;
}

/** The first cell of a row names it, for readers who hear the table. */
function renderTable({ caption, columns, rows }: Table): string {
  const side = columns.map(({ align }) => (align === 'right' ? ' class="right"' : ''));
  const head = columns.map(({ title }, i) => `<th scope="col"${side[i]!}>${escape(title)}</th>`).join('');
  const body = rows
    .map((row) => {
      const cells = row.map((cell, i) =>
        i === 0 ? `<th scope="row">${escape(cell)}</th>` : `<td${side[i] ?? ''}>${escape(cell)}</td>`,
      );
      return `<tr>${cells.join('')}</tr>`;
    })
    .join('\n');
  return `<div class="scroll"><table>
<caption>${escape(caption)}</caption>
<thead><tr>${head}</tr></thead>
<tbody>
${body}
</tbody>
</table></div>`;
}

function escape(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
  };
  return text.replace(/[&<>"]/g, (char) => entities[char]!);
}
