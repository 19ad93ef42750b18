/** What live sessions cost the relay process. */
import type { SessionLoadResults } from '../results.ts';
import { figure, formatKnown, formatNumber, text, type Section } from './section.ts';
import { describePinning, setupTable } from './setup-table.ts';

const MB = 1e6;

export function sessionLoadSection(results: SessionLoadResults): Section {
  const { sessions, addresses, before, during, route, machine, startedAt, pinning, openingMs } = results;
  const grownBytes = during.residentBytes - before.residentBytes;
  return {
    title: `${formatNumber(sessions)} live sessions: ${route.name}`,
    findings: [
      during.liveSessions === sessions
        ? { kind: 'good', text: `All ${formatNumber(sessions)} sessions were answered and live at once.` }
        : {
            kind: 'bad',
            text: `Only ${formatNumber(during.liveSessions)} of ${formatNumber(sessions)} sessions LIVE at once.`,
          },
      {
        kind: 'note',
        text:
          `The relay process had ${formatNumber(during.residentBytes / MB, 1)} MB resident with them, ` +
          `${formatNumber(before.residentBytes / MB, 1)} MB before: ${formatNumber(grownBytes / sessions)} bytes a session.`,
      },
    ],
    tables: [
      {
        caption: 'The relay process',
        columns: [text('what'), ...['before', 'with the sessions'].map(figure)],
        rows: [
          ['resident, MB', ...[before, during].map((look) => formatNumber(look.residentBytes / MB, 1))],
          ['descriptors', ...[before, during].map((look) => formatKnown(look.openDescriptors))],
          ['upstream sockets', ...[before, during].map((look) => formatNumber(look.upstreamSockets))],
          ['live sessions', ...[before, during].map((look) => formatNumber(look.liveSessions))],
        ],
      },
      setupTable({
        machine,
        startedAt,
        rows: [
          ['route', route.detail],
          ['processors', describePinning(pinning)],
        ],
      }),
    ],
    plots: [],
    method:
      `Each session is a client address and port of its own, ${formatNumber(addresses)} addresses in all, whose two updates were ` +
      `answered; opening them took ${formatNumber(openingMs / 1000, 1)} s. A megabyte is 1,000,000 bytes. Resident memory and ` +
      "descriptors are those that the relay's metrics report, which read /proc; descriptors and upstream sockets include the reserve.",
  };
}
