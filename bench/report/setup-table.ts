/** The table that ends every report: where and how its figures came about. */
import { describeRelayCpu } from '../pinning.ts';
import type { Machine, Pinning } from '../results.ts';
import { formatNumber, formatShare, text, type Table } from './section.ts';

export interface SetupTable {
  readonly machine: Machine;
  readonly startedAt: string;
  /** What this benchmark has beside: name and value. */
  readonly rows: readonly (readonly [string, string])[];
}

export function setupTable({ machine, startedAt, rows }: SetupTable): Table {
  const { cpuModel, cores, memoryBytes, kernel, platform, busyBefore, node, tickrelay, commit } = machine;
  return {
    caption: 'Where and how this ran',
    columns: [text('what'), text('value')],
    rows: [
      ['date', startedAt],
      ['CPU', `${cpuModel}, ${cores} cores`],
      ['memory', `${formatNumber(memoryBytes / 2 ** 30, 1)} GiB`],
      ['system', `${kernel}, ${platform}`],
      ['busy before', formatShare(busyBefore)],
      ['Node.js', node],
      ['tickrelay', tickrelay + (commit === undefined ? '' : `, commit ${commit}`)],
      ...rows,
    ],
  };
}

export function describePinning(pinning: Pinning | undefined): string {
  return pinning === undefined
    ? 'every process on any'
    : `relay or peer on ${describeRelayCpu(pinning)}, players and game servers on ${pinning.loadCpus.join(', ')}`;
}
