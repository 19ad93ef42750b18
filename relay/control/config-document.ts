/**
 * The YAML file: parsed, its `${NAME}` filled in from the environment, and able to say on which line a path stands.
 */
import {
  Lexer,
  LineCounter,
  isMap,
  isPair,
  isScalar,
  isSeq,
  parseDocument,
  visit,
  type Document,
  type Node,
} from 'yaml';
import { formatPath, type ConfigPath, type Problems } from './config-problems.ts';
import { describeSyntaxError } from './yaml-syntax.ts';

/** `${NAME}` or `${NAME:-default}`. */
const VARIABLE = /\$\{(?<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?<fallback>[^}]*))?\}/g;

/** Deeper than any configuration; much deeper ones exhaust the parser's stack, which ends the process. */
const MAX_DEPTH = 100;

export class ConfigDocument {
  /** Undefined when the text could not be read at all; the problems say why. */
  readonly data: unknown;
  readonly #document: Document;
  readonly #lines = new LineCounter();

  constructor(text: string, env: Readonly<Record<string, string | undefined>>, problems: Problems) {
    const isTooDeep = isNestedTooDeep(text);
    if (isTooDeep) problems.add([], `is nested more than ${MAX_DEPTH} deep`);
    const document = parseDocument(isTooDeep ? '' : text, {
      lineCounter: this.#lines,
      prettyErrors: false,
      logLevel: 'error',
    });
    this.#document = document;
    // The first error of syntax says where to look; the next ones are its consequences.
    for (const error of document.errors.slice(0, 1)) {
      const { where, text: reason } = describeSyntaxError(error, { text, lines: this.#lines, document });
      problems.addAt(where, reason);
    }
    this.#substitute(env, problems);
    try {
      this.data =
        !isTooDeep && document.errors.length === 0 ? document.toJS({ maxAliasCount: 100 }) : undefined;
    } catch {
      // The one thing that toJS refuses: aliases of aliases of aliases.
      problems.add([], 'has too many YAML aliases');
    }
  }

  /** `line 4: listeners[0].name`, or the path alone where it has no line. */
  describe(path: ConfigPath): string {
    const offset = this.#offsetOf(path);
    const where = formatPath(path);
    return offset === undefined ? where : `line ${this.#lines.linePos(offset).line}: ${where}`;
  }

  #substitute(env: Readonly<Record<string, string | undefined>>, problems: Problems): void {
    visit(this.#document, {
      Scalar: (key, node, ancestors) => {
        if (typeof node.value !== 'string') return;
        const path = pathOf(key, ancestors);
        if (key === 'key') {
          if (node.value === '__proto__') problems.add(path, 'is not a key');
          return;
        }
        node.value = node.value.replace(VARIABLE, (whole, name: string, fallback: string | undefined) => {
          const value = env[name] ?? fallback;
          if (value === undefined)
            problems.add(path, `needs the environment variable ${name}, which is not set`);
          return value ?? whole;
        });
      },
    });
  }

  /** Where in the text the last part of the path stands that the text has. */
  #offsetOf(path: ConfigPath): number | undefined {
    let node: unknown = this.#document.contents;
    let offset: number | undefined;
    for (const step of path) {
      if (isMap(node)) {
        const pair = node.items.find((item) => isScalar(item.key) && item.key.value === step);
        if (pair === undefined) break;
        offset = (pair.key as Node).range?.[0];
        node = pair.value;
      } else if (isSeq(node)) {
        node = node.items[Number(step)];
        offset = (node as Node | undefined)?.range?.[0] ?? offset;
      } else break;
    }
    return offset;
  }
}

/** The path of a node from those that it lies within: each pair gives its key, each list the index of what follows. */
function pathOf(key: unknown, ancestors: readonly unknown[]): PropertyKey[] {
  return ancestors.flatMap((ancestor, i): PropertyKey[] => {
    if (isPair(ancestor)) return isScalar(ancestor.key) ? [String(ancestor.key.value)] : [];
    if (!isSeq(ancestor)) return [];
    const next = ancestors[i + 1];
    return [next === undefined ? Number(key) : ancestor.items.indexOf(next)];
  });
}

/** Looks at tokens and lines, before anything recurses: open brackets, and what one line nests by indents and dashes. */
function isNestedTooDeep(text: string): boolean {
  let depth = 0;
  for (const token of new Lexer().lex(text)) {
    if (token === '[' || token === '{') depth++;
    else if (token === ']' || token === '}') depth = Math.max(0, depth - 1);
    if (depth > MAX_DEPTH) return true;
  }
  return new RegExp(`^[ \\t?:-]{${2 * MAX_DEPTH}}`, 'm').test(text);
}
