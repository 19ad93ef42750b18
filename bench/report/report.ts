/** The whole report, from the results alone. */
import type { BenchResults } from '../results.ts';
import { comparisonSection } from './comparison-section.ts';
import { renderHtml } from './html-report.ts';
import { ladderSection } from './ladder-section.ts';
import { payloadSection } from './payload-section.ts';
import type { Section } from './section.ts';
import { sessionTableSection, setupSection } from './setup-section.ts';
import { renderText } from './text-report.ts';

export interface Report {
  /** For the terminal. */
  readonly text: string;
  /** One self-contained page. */
  readonly html: string;
}

export function renderReport(results: BenchResults): Report {
  const { machine, startedAt, sessionTable } = results;
  const sections: Section[] = [
    comparisonSection(results),
    ladderSection(results),
    payloadSection(results),
    sessionTableSection(sessionTable),
    setupSection(results),
  ];
  const lead = `tickrelay ${machine.tickrelay}, ${startedAt.slice(0, 10)}, ${machine.cpuModel} (${machine.cores} cores), Node.js ${machine.node}`;
  return { text: renderText(sections), html: renderHtml({ title: 'tickrelay benchmark', lead, sections }) };
}
