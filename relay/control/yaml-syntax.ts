/**
 * What is wrong with a text that is no YAML, in the words of whoever wrote it: what stands there, what would be right, and
 * the line itself with a caret under the place. The parser knows where it stopped; a bracket or a quote that was never
 * closed is shown where it was opened.
 */
import {
  isMap,
  isScalar,
  Lexer,
  visit,
  type Document,
  type LineCounter,
  type Node,
  type YAMLError,
} from 'yaml';

export interface SyntaxProblem {
  /** `line 4, column 3`. */
  readonly where: string;
  /** What is wrong and what would be right; then, on lines of their own, the text and the caret. */
  readonly text: string;
}

interface Finding {
  readonly offset: number;
  readonly text: string;
}

export interface SyntaxSource {
  readonly text: string;
  readonly lines: LineCounter;
  readonly document: Document;
}

/** Characters of a line that are shown around the place. */
const SHOWN_BEFORE = 60;
const SHOWN_AFTER = 40;

/** A key with its colon and no space after it. */
const NO_SPACE = /^(?<key>\s*(?:- +)*["']?[A-Za-z][\w-]*["']?):(?<value>[^\s:].*)$/;

/** Values that may not end up in a log. */
const SECRET = /(?<key>token["']?\s*:\s*)(?<value>"[^"]*"?|'[^']*'?|[^\s,}\]]+)/gi;

export function describeSyntaxError(error: YAMLError, source: SyntaxSource): SyntaxProblem {
  const { offset, text } = findingOf(error, source);
  const { line, col } = source.lines.linePos(offset);
  return {
    where: `line ${line}, column ${col}`,
    text: `is not valid YAML: ${text}\n${excerpt(lineAt(source, offset), col)}`,
  };
}

function findingOf({ code, pos, message }: YAMLError, source: SyntaxSource): Finding {
  const [offset] = pos;
  const here = (text: string): Finding => ({ offset, text });
  switch (code) {
    case 'TAB_AS_INDENT':
      return here('a tab (shown as →) stands in the indentation; indent with spaces');
    case 'DUPLICATE_KEY':
      return here(describeTwice(offset, source));
    case 'MISSING_CHAR':
      if (message.startsWith('Missing closing')) return unclosedQuote(source) ?? here(message);
      if (message.startsWith('Missing ,')) return here('a comma is missing before this value');
      return missingColon(offset, source) ?? here(message);
    case 'MULTILINE_IMPLICIT_KEY':
      return missingColon(offset, source) ?? here(message);
    case 'BLOCK_AS_IMPLICIT_KEY':
      return missingColon(offset, source) ?? here(describeSecondKey(offset, source));
    case 'BLOCK_IN_FLOW':
      return here('a comma is missing here: within [ ] and { } commas part the entries');
    case 'BAD_INDENT':
      if (message.startsWith('Flow')) return unclosedBracket(offset, source) ?? here(message);
      return here(
        'the line begins at another column than those it belongs to; give all keys of a section, and all dashes of a ' +
          'list, the same indentation',
      );
    case 'UNEXPECTED_TOKEN':
      if (/^[\]}]/.test(source.text.slice(offset)))
        return here(`"${source.text[offset]!}" closes nothing; take it away, or open it before`);
      if (message.includes('at node end'))
        return here('text follows a value that has ended; put the whole value into quotes');
      return here(message);
    case 'BAD_SCALAR_START':
      return here(`a value can't begin with ${JSON.stringify(source.text[offset])}; put it into quotes`);
    case 'BAD_ALIAS':
      return here('"*" begins an alias in YAML; put the value into quotes');
    case 'BAD_DQ_ESCAPE':
      return here('there is no such escape; write \\\\ for a backslash, or use single quotes');
    case 'MULTIPLE_DOCS':
      return here('a second document begins; a configuration is one, so take the line away');
    default:
      return here(message);
  }
}

function describeTwice(offset: number, { document, lines }: SyntaxSource): string {
  let text = 'this key is given twice; keep one of them';
  visit(document, {
    Map: (_key, map) => {
      const keys = map.items.flatMap(({ key }) => (isScalar(key) ? [key] : []));
      const second = keys.find((key) => key.range?.[0] === offset);
      if (second === undefined || !isMap(map)) return undefined;
      const first = keys.find((key) => key.value === second.value);
      const { line } = lines.linePos((first as Node).range![0]);
      text = `the key ${JSON.stringify(second.value)} is given twice, first on line ${line}; keep one of them`;
      return visit.BREAK;
    },
  });
  return text;
}

/** A key whose colon has no space behind it, or that has no colon at all. */
function missingColon(offset: number, source: SyntaxSource): Finding | undefined {
  const line = lineAt(source, offset);
  const start = offset - source.lines.linePos(offset).col + 1;
  const { key, value } = NO_SPACE.exec(line)?.groups ?? {};
  if (key !== undefined && value !== undefined) {
    const name = key.trim().replace(/^(?:- +)*/, '');
    return {
      offset: start + key.length,
      text: `a space is missing after the colon; write "${masked(`${name}: ${value.trim()}`)}"`,
    };
  }
  const word = /^\s*(?:- +)*(?<word>[A-Za-z][\w-]*)\s*$/.exec(line)?.groups?.['word'];
  if (word === undefined) return undefined;
  return { offset: start + line.indexOf(word), text: `a colon is missing; write "${word}:" and the value` };
}

function describeSecondKey(offset: number, source: SyntaxSource): string {
  const { col } = source.lines.linePos(offset);
  return /: /.test(lineAt(source, offset).slice(col - 1))
    ? 'a second ": " stands in this line; put the value into quotes, or the second key on a line of its own'
    : 'this key has a value, but the next line is indented as if it had keys of its own; take one of them away';
}

/** The last quote that was opened and not closed. */
function unclosedQuote({ text }: SyntaxSource): Finding | undefined {
  const open = tokensOf(text).findLast(
    ({ token }) => /^["']/.test(token) && (token.length === 1 || !token.endsWith(token[0]!)),
  );
  if (open === undefined) return undefined;
  const quote = open.token[0] === '"' ? 'the quote (")' : "the quote (')";
  return { offset: open.offset, text: `${quote} that opens here is never closed; close it after the value` };
}

/** The innermost bracket that is open where the parser stopped. */
function unclosedBracket(offset: number, { text }: SyntaxSource): Finding | undefined {
  const open: Finding[] = [];
  for (const { token, offset: at } of tokensOf(text)) {
    if (at >= offset) break;
    if (token === '[' || token === '{') open.push({ offset: at, text: token });
    else if (token === ']' || token === '}') open.pop();
  }
  const innermost = open.at(-1);
  if (innermost === undefined) return undefined;
  const closing = innermost.text === '[' ? ']' : '}';
  return {
    offset: innermost.offset,
    text: `the bracket that opens here is not closed; close it with "${closing}", and indent what is within`,
  };
}

/** Tokens that are marks of the lexer's own, not text: a document begins, a flow collection ends wrongly, a scalar begins. */
const MARKS: ReadonlySet<string> = new Set(['\u0002', '\u0018', '\u001f']);

/** The lexer's tokens with their places. */
function tokensOf(text: string): { readonly token: string; readonly offset: number }[] {
  let offset = 0;
  return Array.from(new Lexer().lex(text), (token) => {
    const at = offset;
    if (!MARKS.has(token)) offset += token.length;
    return { token, offset: at };
  });
}

function lineAt({ text }: SyntaxSource, offset: number): string {
  const start = text.lastIndexOf('\n', offset - 1) + 1;
  const end = text.indexOf('\n', offset);
  return text.slice(start, end === -1 ? text.length : end).replace(/\r$/, '');
}

/** The line around the column, and a caret under it. */
function excerpt(line: string, column: number): string {
  const from = Math.max(0, column - 1 - SHOWN_BEFORE);
  const shown = masked(line)
    .slice(from, column - 1 + SHOWN_AFTER)
    .replaceAll('\t', '→')
    .replaceAll(/\p{Cc}/gu, '?');
  return `    | ${shown}\n    | ${' '.repeat(column - 1 - from)}^`;
}

function masked(text: string): string {
  return text.replaceAll(SECRET, (_all, key: string, value: string) => key + '*'.repeat(value.length));
}
