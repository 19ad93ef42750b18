/** The kernel engine with sessions by the million. */
import type { ScaleResults } from '../scale/scale-results.ts';
import { setupTable } from './setup-table.ts';
import { figure, formatNumber, formatRatio, formatShare, formatTime, text, type Section } from './section.ts';

/** What it is to reach. */
const MOST_RATIO = 1.3;
const MOST_SWEEP_MS = 1_000;
const MOST_PART_MS = 20;

export function scaleSection({ sessions, lanes, churn, sweeps, machine, ...run }: ScaleResults): Section {
  const costOf = (name: string): number => lanes.find((lane) => lane.name === name)!.machineCpuUsPerDatagram;
  const few = costOf('few');
  const ratio = costOf('all of many') / few;
  const looking = sweeps.find(({ walk, due }) => walk === 'sessions' && due === 'none')!;
  const longestMs = Math.max(...sweeps.map(({ longestPartMs }) => longestPartMs));
  const judged = (holds: boolean): 'good' | 'bad' => (holds ? 'good' : 'bad');
  const lost = churn.sent - churn.answered;
  return {
    title: `${formatNumber(sessions)} sessions: kernel`,
    findings: [
      {
        kind: judged(ratio <= MOST_RATIO),
        text:
          `A datagram of any of ${formatNumber(sessions)} sessions costs the machine ${formatRatio(ratio)} what one of ` +
          `1,000 costs; one of 1,000 busy sessions among them ${formatRatio(costOf('few of many') / few)}.`,
      },
      {
        kind: judged(lost === 0 && churn.dropped === 0),
        text:
          `${formatNumber(churn.newPerSecond)} new sessions a second for ${formatNumber(churn.tookMs / 1000)} s: ` +
          `${formatNumber(lost)} of ${formatNumber(churn.sent)} datagrams lost, ${formatNumber(churn.dropped)} dropped by the relay.`,
      },
      {
        kind: judged(looking.cpuMs < MOST_SWEEP_MS),
        text: `A sweep over all sessions took ${formatNumber(looking.cpuMs)} ms of one core.`,
      },
      {
        kind: judged(longestMs <= MOST_PART_MS),
        text: `No part of a sweep held the event loop for more than ${formatNumber(longestMs, 1)} ms.`,
      },
    ],
    tables: [
      {
        caption: `CPU of the whole machine for one datagram, at ${formatNumber(run.perSecond)} updates a second`,
        columns: [
          text('datagrams'),
          ...['sessions held', 'clients', 'CPU us', 'against few', 'sent', 'lost'].map(figure),
        ],
        rows: lanes.map((lane) => [
          lane.name,
          formatNumber(lane.held),
          formatNumber(lane.clients),
          formatTime(lane.machineCpuUsPerDatagram),
          formatRatio(lane.machineCpuUsPerDatagram / few),
          formatNumber(lane.sent),
          formatNumber(lane.lost),
        ]),
      },
      {
        caption: 'New sessions',
        columns: [text('what'), figure('value')],
        rows: [
          ['opened', formatNumber(churn.opened)],
          ['expired meanwhile', formatNumber(churn.expired)],
          ['evicted', formatNumber(churn.evicted)],
          ['most alive at once', formatNumber(churn.mostLive)],
          ['idle timeout, s', formatNumber(churn.idleTimeoutMs / 1000, 1)],
          ['machine in use', formatShare(churn.machineShare)],
        ],
      },
      {
        caption: 'Sweeps',
        columns: [text('over'), text('due'), ...['CPU ms', 'wall ms', 'longest part ms'].map(figure)],
        rows: sweeps.map(({ walk, due, cpuMs, tookMs, longestPartMs }) => [
          walk === 'reverse' ? 'resting reverse records' : walk,
          due,
          formatNumber(cpuMs),
          formatNumber(tookMs),
          formatNumber(longestPartMs, 1),
        ]),
      },
      setupTable({ machine, startedAt: run.startedAt, rows: [] }),
    ],
    plots: [],
    method:
      'One process speaks for all clients, from as many loopback addresses, in random order; an echo server answers. Each relay ' +
      'is in a network namespace of its own; the turns are taken in rounds, and medians count. New clients are heard twice, a ' +
      'second apart. Sweeps run in a process of their own with the engine in it.',
  };
}
