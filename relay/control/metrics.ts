/**
 * Prometheus metrics (metric-list.ts). Values are read from the relay's own counters at the moment of a scrape, so that counting
 * costs the data planes nothing more.
 *
 * Labels are bounded: names from the configuration, fixed lists, and backend ids, of which a pool has at most 1,024.
 * Never a client address.
 */
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';
import type { ConfigReloader } from './config-reloader.ts';
import type { ControlPlane } from './control-plane.ts';
import { METRICS } from './metric-list.ts';
import type { Metric, Reading, Sample } from './metric-readings.ts';
import type { RelayView } from './relay-view.ts';

export interface MetricsOptions {
  readonly relay: RelayView;
  readonly control: ControlPlane;
  readonly reloader: ConfigReloader;
  /** The version of tickrelay. */
  readonly version: string;
}

/** How often the lag of the event loop is measured, in ms. Each time wakes a relay that has nothing else to do. */
const LAG_PRECISION_MS = 50;

export class Metrics {
  readonly #options: MetricsOptions;
  readonly #registry = new Registry();
  #sample: Sample | undefined;

  constructor(options: MetricsOptions) {
    this.#options = options;
    collectDefaultMetrics({ register: this.#registry, eventLoopMonitoringPrecision: LAG_PRECISION_MS });
    for (const metric of METRICS) this.#register(metric);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** The text of one scrape. */
  scrape(): Promise<string> {
    this.#sample = this.#takeSample();
    return this.#registry.metrics();
  }

  /** Names and types of all metrics, for the test of the docs. */
  list(): readonly { readonly name: string; readonly type: string }[] {
    return this.#registry.getMetricsAsArray().map(({ name, type }) => ({ name, type: String(type) }));
  }

  #register({ name, type, help, labels, read }: Metric): void {
    const readings = (): Iterable<Reading> => (this.#sample === undefined ? [] : read(this.#sample));
    const options = { name: `tickrelay_${name}`, help, labelNames: [...labels], registers: [this.#registry] };
    if (type === 'gauge') {
      new Gauge({
        ...options,
        collect() {
          this.reset();
          for (const [values, value] of readings()) this.set(values, value);
        },
      });
    } else {
      new Counter({
        ...options,
        collect() {
          this.reset();
          for (const [values, value] of readings()) this.inc(values, value);
        },
      });
    }
  }

  #takeSample(): Sample {
    const { relay, control, reloader, version } = this.#options;
    return {
      version,
      engine: relay.engine(),
      tcpEngine: relay.tcpEngine(),
      udp: relay.udpListeners(),
      tcp: relay.tcpListeners(),
      pools: control.pools().map((pool) => ({ ...pool.view(), counts: pool.counts() })),
      capacity: relay.capacity(),
      reload: reloader.status(),
    };
  }
}
