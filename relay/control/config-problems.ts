/** Collects what is wrong with a configuration, so that all of it is reported at once, and in one form. */
import { closest, distance } from 'fastest-levenshtein';
import type { z } from 'zod';
import { RelayError } from '../../net/relay-error.ts';

/** Where in the configuration: keys and list indexes from the root. */
export type ConfigPath = readonly PropertyKey[];

interface Problem {
  readonly path: ConfigPath;
  /** Instead of the path. */
  readonly where?: string;
  readonly text: string;
}

/** Problems beyond these say nothing new. */
const MAX_PRINTED = 50;

const BY_LINE = new Intl.Collator('en', { numeric: true });

export class Problems {
  readonly #list: Problem[] = [];
  readonly #seen = new Set<string>();

  get isEmpty(): boolean {
    return this.#list.length === 0;
  }

  /** Adds a problem, but for a path that has one: the first says why, the next ones would be its consequences. */
  add(path: ConfigPath, text: string): void {
    const where = formatPath(path);
    if (path.length > 0 && this.#seen.has(where)) return;
    this.#seen.add(where);
    this.#list.push({ path, text });
  }

  /** Adds a problem with the text itself, at a place in it such as `line 4, column 3`. */
  addAt(where: string, text: string): void {
    this.#list.push({ path: [], where, text });
  }

  /** Parses `value` with a schema of config-schema.ts; on failure adds its problems and returns nothing. */
  read<T>(schema: z.ZodType<T>, value: unknown, at: ConfigPath): T | undefined {
    const result = schema.safeParse(value, { error: describeIssue });
    if (result.success) return result.data;
    for (const issue of result.error.issues) {
      const path = [...at, ...issue.path];
      if (issue.code === 'unrecognized_keys') {
        // The message has one line for each key (config-schema.ts).
        const lines = issue.message.split('\n');
        issue.keys.forEach((key, i) => this.add([...path, key], lines[i] ?? 'is not a key'));
      } else this.add(path, issue.message);
    }
    return undefined;
  }

  /** @param describe how a place is named to the operator, such as `line 4: listeners[0].name` */
  toError(source: string, describe: (path: ConfigPath) => string): RelayError {
    const found = this.#list
      .map(({ path, where = describe(path), text }) => `  ${where}: ${text}`)
      .sort(BY_LINE.compare);
    const lines = found.slice(0, MAX_PRINTED);
    const more = found.length - lines.length;
    if (more > 0) lines.push(`  and ${more} more`);
    const count = this.#list.length === 1 ? '1 problem' : `${this.#list.length} problems`;
    return new RelayError('TICKRELAY_ERR_CONFIG', [`${source}: ${count}`, ...lines].join('\n'));
  }
}

/** `listeners[0].limits.sessionRate`; the root is `the configuration`. */
export function formatPath(path: ConfigPath): string {
  const text = path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('');
  return text === '' ? 'the configuration' : text.replace(/^\./, '');
}

/** ` (did you mean "x"?)` for the nearest of `known`, or nothing when none is near. */
export function suggestion(text: string, known: readonly string[]): string {
  if (known.length === 0) return '';
  const nearest = closest(text.toLowerCase(), known);
  const near = distance(text.toLowerCase(), nearest.toLowerCase()) <= Math.max(2, text.length / 3);
  return near ? `; did you mean "${nearest}"?` : '';
}

/** The value as the operator wrote it, short. */
export function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'a section of keys';
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 77)}..."` : text;
}

/** Wording for the issues that the schemas themselves have no words for. */
function describeIssue(issue: z.core.$ZodRawIssue): string {
  const { input } = issue;
  const should =
    issue.code === 'invalid_type' ? `should be ${EXPECTED[issue.expected] ?? issue.expected}` : '';
  if (input === undefined) return `is missing; it ${should || 'has no default'}`;
  return should === '' ? (issue.message ?? 'is not valid') : `${shown(input)} ${should}`;
}

const EXPECTED: Readonly<Record<string, string>> = {
  object: 'a section of keys',
  record: 'a section of keys',
  array: 'a list',
};
