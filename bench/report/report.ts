/** The whole report, from the results alone. */
import type {
  BenchResults,
  Machine,
  MostPlayersResults,
  SessionLoadResults,
  SoakResults,
} from '../results.ts';
import { comparisonSections } from './comparison-section.ts';
import { dialSection } from './dial-section.ts';
import { renderHtml } from './html-report.ts';
import { ladderSection } from './ladder-section.ts';
import { latencySection } from './latency-section.ts';
import { mostPlayersSection } from './most-players-section.ts';
import { payloadSection } from './payload-section.ts';
import type { Section } from './section.ts';
import type { LatencyResults } from '../latency/latency-results.ts';
import type { ScaleResults } from '../scale/scale-results.ts';
import { scaleSection } from './scale-section.ts';
import { sessionLoadSection } from './session-load-section.ts';
import { sessionTableSection, setupSection } from './setup-section.ts';
import { soakSection } from './soak-section.ts';
import type { TcpResults } from '../tcp/tcp-results.ts';
import { tcpSection } from './tcp-section.ts';
import { standingsSection } from './standings-section.ts';
import { renderText } from './text-report.ts';

export interface Report {
  /** For the terminal. */
  readonly text: string;
  /** One self-contained page. */
  readonly html: string;
}

export function renderReport(results: BenchResults): Report {
  const sections: Section[] = [
    ...standingsSection(results),
    ...comparisonSections(results),
    ladderSection(results),
    ...dialSection(results),
    payloadSection(results),
    sessionTableSection(results.sessionTable),
    setupSection(results),
  ];
  return render({ title: 'tickrelay benchmark', file: 'results.json', results, sections });
}

export function renderSoakReport(results: SoakResults): Report {
  return render({ title: 'tickrelay soak', file: 'soak.json', results, sections: [soakSection(results)] });
}

export function renderMostPlayersReport(results: MostPlayersResults): Report {
  const sections = [mostPlayersSection(results)];
  return render({ title: 'tickrelay: the most players', file: 'most-players.json', results, sections });
}

export function renderSessionLoadReport(results: SessionLoadResults): Report {
  const sections = [sessionLoadSection(results)];
  return render({ title: 'tickrelay: live sessions', file: 'sessions.json', results, sections });
}

export function renderScaleReport(results: ScaleResults): Report {
  const sections = [scaleSection(results)];
  return render({ title: 'tickrelay: sessions by the million', file: 'scale.json', results, sections });
}

export function renderLatencyReport(results: LatencyResults): Report {
  const sections = [latencySection(results)];
  return render({ title: 'tickrelay: round trips', file: 'latency.json', results, sections });
}

export function renderTcpReport(results: TcpResults): Report {
  return render({
    title: 'tickrelay TCP benchmark',
    file: 'tcp.json',
    results,
    sections: [tcpSection(results)],
  });
}

interface Parts {
  readonly title: string;
  /** Where the single measurements are. */
  readonly file: string;
  readonly results: { readonly machine: Machine; readonly startedAt: string };
  readonly sections: readonly Section[];
}

function render({ title, file, results: { machine, startedAt }, sections }: Parts): Report {
  const lead = `tickrelay ${machine.tickrelay}, ${startedAt.slice(0, 10)}, ${machine.cpuModel} (${machine.cores} cores), Node.js ${machine.node}`;
  return { text: renderText(sections), html: renderHtml({ title, lead, file, sections }) };
}
