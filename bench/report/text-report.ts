/** The report as text, for the terminal and for a pipe. */
import type { Section, Table } from './section.ts';

const MARKS = { good: '+', bad: '!', note: '-' } as const;

export function renderText(sections: readonly Section[]): string {
  return sections.map(renderSection).join('\n');
}

function renderSection({ title, findings, tables }: Section): string {
  const said = findings.map(({ kind, text }) => `${MARKS[kind]} ${text}\n`).join('');
  const shown = tables.map((table) => `\n${renderTable(table)}`).join('');
  return `${title}\n${'='.repeat(title.length)}\n${said}${shown}`;
}

export function renderTable({ caption, columns, rows }: Table): string {
  const widths = columns.map(({ title }, i) =>
    Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    columns
      .map(({ align }, i) => {
        const cell = cells[i] ?? '';
        return align === 'left' ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!);
      })
      .join('  ')
      .trimEnd();
  const rule = widths.map((width) => '-'.repeat(width)).join('  ');
  return [caption, line(columns.map(({ title }) => title)), rule, ...rows.map(line), ''].join('\n');
}
