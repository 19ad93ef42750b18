/** What a metric is, and how its values are read from a sample: for each listener, direction, backend and pool. */
import type { BackendFigures, Histogram } from '../core/backend-figures.ts';
import type { ListenerCounts } from '../core/counters.ts';
import { DIRECTIONS } from '../core/counters.ts';
import type { ReloadStatus } from './config-reloader.ts';
import type { PoolCounts, PoolView } from './pool-view.ts';
import type { RelayView, TcpListenerView, UdpListenerView } from './relay-view.ts';

/** Everything that one scrape reports, read once. */
export interface Sample {
  readonly version: string;
  readonly engine: { readonly name: string; readonly reason: string };
  readonly tcpEngine: { readonly name: string; readonly reason: string };
  readonly udp: readonly UdpListenerView[];
  readonly tcp: readonly TcpListenerView[];
  readonly pools: readonly (PoolView & { readonly counts: PoolCounts })[];
  readonly capacity: ReturnType<RelayView['capacity']>;
  readonly reload: ReloadStatus;
}

export type Reading = readonly [labels: Readonly<Record<string, string>>, value: number];

export interface Metric {
  /** Without the prefix `tickrelay_`. */
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  readonly labels: readonly string[];
  readonly read: (sample: Sample) => Iterable<Reading>;
}

export function gauge(name: string, help: string, labels: readonly string[], read: Metric['read']): Metric {
  return { name, type: 'gauge', help, labels, read };
}

export function counter(name: string, help: string, labels: readonly string[], read: Metric['read']): Metric {
  return { name, type: 'counter', help, labels, read };
}

export function perDirection(
  name: string,
  help: string,
  value: (counts: ListenerCounts['downstream']) => number,
): Metric {
  return counter(name, help, ['listener', 'direction'], ({ udp }) =>
    udp.flatMap(({ name: listener, counts }) =>
      DIRECTIONS.map((direction): Reading => [{ listener, direction }, value(counts[direction])]),
    ),
  );
}

export function perUdpListener(
  type: Metric['type'],
  name: string,
  help: string,
  value: (listener: UdpListenerView) => number,
): Metric {
  const read: Metric['read'] = ({ udp }) =>
    udp.map((listener) => [{ listener: listener.name }, value(listener)]);
  return { name, type, help, labels: ['listener'], read };
}

export function perTcpListener(
  type: Metric['type'],
  name: string,
  help: string,
  value: (listener: TcpListenerView) => number,
): Metric {
  const read: Metric['read'] = ({ tcp }) =>
    tcp.map((listener) => [{ listener: listener.name }, value(listener)]);
  return { name, type, help, labels: ['listener'], read };
}

export function perBackend(
  pools: Sample['pools'],
  read: (
    backend: PoolView['backends'][number],
    labels: { readonly pool: string; readonly backend: string },
  ) => readonly Reading[],
): Reading[] {
  return pools.flatMap(({ name, backends }) =>
    backends.flatMap((backend) => read(backend, { pool: name, backend: backend.id })),
  );
}

/** Listeners of one pool report the same, so each pool is read once. */
export function perFigures(
  { udp }: Sample,
  read: (
    figures: BackendFigures,
    labels: { readonly pool: string; readonly backend: string },
  ) => readonly Reading[],
): Reading[] {
  const pools = new Map(udp.map(({ pool, figuresByBackend }) => [pool, figuresByBackend]));
  return Array.from(pools).flatMap(([pool, byBackend]) =>
    Array.from(byBackend ?? []).flatMap(([backend, figures]) => read(figures, { pool, backend })),
  );
}

/** The buckets and the count of a histogram of each backend, `NAME_bucket` and `NAME_count`. */
export function perBackendHistogram(
  name: string,
  { buckets, count }: { readonly buckets: string; readonly count: string },
  histogram: (figures: BackendFigures) => Histogram,
): Metric[] {
  return [
    counter(`${name}_bucket`, buckets, ['pool', 'backend', 'le'], (sample) =>
      perFigures(sample, (figures, labels) => {
        const { boundsSeconds, counts } = histogram(figures);
        let below = 0;
        return counts.map((inBucket, i): Reading => {
          below += inBucket;
          return [{ ...labels, le: String(boundsSeconds[i] ?? '+Inf') }, below];
        });
      }),
    ),
    counter(`${name}_count`, count, ['pool', 'backend'], (sample) =>
      perFigures(sample, (figures, labels) => [
        [labels, histogram(figures).counts.reduce((sum, inBucket) => sum + inBucket, 0)],
      ]),
    ),
  ];
}

export function perBackendAndDirection(
  name: string,
  help: string,
  value: (traffic: BackendFigures['downstream']) => number,
): Metric {
  return counter(name, help, ['pool', 'backend', 'direction'], (sample) =>
    perFigures(sample, (figures, labels) =>
      DIRECTIONS.map((direction): Reading => [{ ...labels, direction }, value(figures[direction])]),
    ),
  );
}

export function perResult(
  pools: Sample['pools'],
  counts: (pool: PoolCounts) => Readonly<Record<string, number>>,
): Reading[] {
  return pools.flatMap((pool) =>
    Object.entries(counts(pool.counts)).map(([result, count]): Reading => [
      { pool: pool.name, result },
      count,
    ]),
  );
}
