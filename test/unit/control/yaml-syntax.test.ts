import { expect, test } from 'vitest';
import { RelayError } from '../../../net/relay-error.ts';
import { parseConfig } from '../../../relay/control/config.ts';

/** The message about a text, without its first line, which is always the same. */
const problemOf = (text: string): string[] => {
  try {
    parseConfig(text, { source: 'relay.yaml' });
  } catch (error) {
    if (!(error instanceof RelayError)) throw error;
    expect(error.code).toBe('TICKRELAY_ERR_CONFIG');
    const [first, ...rest] = error.message.split('\n');
    expect(first).toBe('relay.yaml: 1 problem');
    return rest;
  }
  throw new Error('the configuration was accepted');
};

test.each([
  [
    'a tab as indentation',
    'listeners:\n\t- { name: game }\n',
    'line 2, column 1: is not valid YAML: a tab (shown as →) stands in the indentation; indent with spaces',
    '→- { name: game }',
    '^',
  ],
  [
    'no space after a colon',
    'listeners:\n  - name:game\n    protocol: udp\n',
    'line 2, column 9: is not valid YAML: a space is missing after the colon; write "name: game"',
    '  - name:game',
    '        ^',
  ],
  [
    'no space after the last colon of a section',
    'engine: auto\nworkers:1\n',
    'line 2, column 8: is not valid YAML: a space is missing after the colon; write "workers: 1"',
    'workers:1',
    '       ^',
  ],
  [
    'no colon',
    'engine: auto\nworkers\nhashSeed: 1\n',
    'line 2, column 1: is not valid YAML: a colon is missing; write "workers:" and the value',
    'workers',
    '^',
  ],
  [
    'a quote that is not closed',
    'engine: auto\nadmin: { listen: "127.0.0.1:7900 }\nworkers: 1\n',
    'line 2, column 18: is not valid YAML: the quote (") that opens here is never closed; close it after the value',
    'admin: { listen: "127.0.0.1:7900 }',
    '                 ^',
  ],
  [
    'a single quote that is not closed',
    "engine: 'auto\n",
    "line 1, column 9: is not valid YAML: the quote (') that opens here is never closed; close it after the value",
    "engine: 'auto",
    '        ^',
  ],
  [
    'a bracket that is not closed',
    'pools:\n  games: { backends: [ "10.0.0.1:1", "10.0.0.2:1" }\nengine: auto\n',
    'line 2, column 22: is not valid YAML: the bracket that opens here is not closed; close it with "]", and indent what is within',
    '  games: { backends: [ "10.0.0.1:1", "10.0.0.2:1" }',
    '                     ^',
  ],
  [
    'a brace that is not closed',
    'admin: { listen: x\nengine: auto\n',
    'line 1, column 8: is not valid YAML: the bracket that opens here is not closed; close it with "}", and indent what is within',
    'admin: { listen: x',
    '       ^',
  ],
  [
    'a bracket too many',
    'listeners: [ ] ]\n',
    'line 1, column 16: is not valid YAML: "]" closes nothing; take it away, or open it before',
    'listeners: [ ] ]',
    '               ^',
  ],
  [
    'a key given twice',
    'engine: auto\nworkers: 1\nengine: dgram\n',
    'line 3, column 1: is not valid YAML: the key "engine" is given twice, first on line 1; keep one of them',
    'engine: dgram',
    '^',
  ],
  [
    'a comma that is missing in a list',
    'a: [ "x" "y" ]\n',
    'line 1, column 10: is not valid YAML: a comma is missing before this value',
    'a: [ "x" "y" ]',
    '         ^',
  ],
  [
    'a line that stands at no column of its section',
    'admin:\n  listen: x\n token: y\n',
    'line 3, column 1: is not valid YAML: the line begins at another column than those it belongs to; ' +
      'give all keys of a section, and all dashes of a list, the same indentation',
    ' token: *',
    '^',
  ],
  [
    'two keys in one line',
    'engine: admin: x\n',
    'line 1, column 9: is not valid YAML: a second ": " stands in this line; put the value into quotes, ' +
      'or the second key on a line of its own',
    'engine: admin: x',
    '        ^',
  ],
  [
    'a value that begins with a reserved character',
    'engine: @auto\n',
    'line 1, column 9: is not valid YAML: a value can\'t begin with "@"; put it into quotes',
    'engine: @auto',
    '        ^',
  ],
])('says what is wrong with %s, where, and what would be right', (_name, text, message, line, caret) => {
  expect(problemOf(text)).toEqual([`  ${message}`, `    | ${line}`, `    | ${caret}`]);
  expect(problemOf(text.replaceAll('\n', '\r\n'))).toEqual([
    `  ${message}`,
    `    | ${line}`,
    `    | ${caret}`,
  ]);
});

test('shows the surroundings of a place in a long line', () => {
  const [, line, caret] = problemOf(`a: [ ${'"x", '.repeat(100)}"y" "z", ${'"x", '.repeat(100)}]\n`);
  expect(line!.length).toBeLessThan(120);
  expect(line![caret!.indexOf('^')]).toBe('"');
  expect(line!.slice(caret!.indexOf('^'))).toMatch(/^"z"/);
});

test('never shows a token', () => {
  for (const text of [
    'admin: { token: geheim, listen: "x }\n',
    'admin:\n  token:geheim\n  listen: x\n',
    'admin: { token: "geheim, listen: x }\n',
    'admin:\n\ttoken: geheim\n',
  ])
    expect(problemOf(text).join('\n')).not.toContain('geheim');
});

test('shows no control characters', () => {
  const shown = problemOf('engine: "\u001b[31m\\q"\n').join('\n');
  expect(shown).toContain('there is no such escape');
  expect(shown).not.toContain('\u001b');
});
