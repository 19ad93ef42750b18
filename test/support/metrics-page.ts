/** A scrape of /metrics as numbers. Only what prom-client writes is understood; names are without `tickrelay_`. */
export type Labels = Readonly<Record<string, string>>;

interface Sample {
  readonly name: string;
  readonly labels: Labels;
  readonly value: number;
}

export class MetricsPage {
  readonly #samples: readonly Sample[];

  constructor(text: string) {
    this.#samples = text.split('\n').flatMap((line) => {
      const match = /^tickrelay_(?<name>\w+)(?:\{(?<labels>.*)\})? (?<value>\S+)$/.exec(line);
      if (match?.groups === undefined) return [];
      const { name = '', labels = '', value } = match.groups;
      const pairs = Array.from(labels.matchAll(/(\w+)="([^"]*)"/g), ([, key, text]) => [key, text] as const);
      return [{ name, labels: Object.fromEntries(pairs) as Labels, value: Number(value) }];
    });
  }

  /** The sum of all samples of this name that have these labels; undefined when there is none. */
  value(name: string, labels: Labels = {}): number | undefined {
    const found = this.#samples.filter(
      (sample) =>
        sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
    );
    return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0);
  }

  /** received - forwarded - dropped of a listener and direction: 0 once nothing is in flight. */
  unaccounted(listener: string, direction: 'downstream' | 'upstream'): number {
    const labels = { listener, direction };
    const [received, forwarded, dropped] = ['received', 'forwarded', 'dropped'].map(
      (what) => this.value(`datagrams_${what}_total`, labels) ?? Number.NaN,
    ) as [number, number, number];
    return received - forwarded - dropped;
  }
}
