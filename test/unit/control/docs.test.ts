import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { formatConfig } from '../../../relay/control/config-format.ts';
import { parseConfig } from '../../../relay/control/config.ts';
import { createRig } from './control-rig.ts';

const page = (name: string): string =>
  readFileSync(new URL(`../../../docs/${name}`, import.meta.url), 'utf8');

/** The first cells of the rows of all tables, without their backquotes. */
const firstCells = (text: string): string[] =>
  [...text.matchAll(/^\| `([^`]+)` /gm)].map((match) => match[1]!);

const yamlBlocks = (text: string): string[] =>
  [...text.matchAll(/```yaml\n(.*?)```/gs)].map((match) => match[1]!);

test('docs/metrics.md lists exactly the metrics of the registry, with their types', () => {
  const rows = [...page('metrics.md').matchAll(/^\| `([a-z0-9_]+)` +\| (counter|gauge|histogram) /gm)];
  const documented = rows.map(([, name, type]) => `${name} ${type}`);
  const registered = createRig()
    .metrics.list()
    .map(({ name, type }) => `${name} ${type}`);
  expect(documented.sort()).toEqual(registered.sort());
});

test('docs/metrics.md describes every drop reason', async () => {
  const { DROP_REASONS } = await import('../../../relay/core/drop-reason.ts');
  expect(firstCells(page('metrics.md'))).toEqual(expect.arrayContaining([...DROP_REASONS]));
});

/** Uses every key once. */
const EVERY_KEY = `
engine: auto
workers: 2
coalesceUs: 100
hashSeed: 1
kernel: { interfaces: [eth0], sourceAddress: client }
listeners:
  - { name: a, protocol: udp, listen: "0.0.0.0:1", pool: none, idleTimeout: 2m, pinTimeout: 5m, pinGroup: g }
  - { name: b, protocol: tcp, listen: "0.0.0.0:2", pool: http, proxyProtocol: { accept: ["10.0.0.0/8"] } }
pools:
  none: { registration: { allow: ["10.0.0.0/8"], token: x }, backends: [ { id: x, address: "10.0.0.3:1", weight: 2 } ] }
  http: { healthCheck: { type: http, port: 80 } }
  sql: { healthCheck: { type: postgres, port: 5432, user: x, password: x, role: primary } }
  udp: { healthCheck: { type: udp, payload: "00", expect: "01" } }
admin: { listen: "127.0.0.1:3", token: x }
`;

const keysOf = (value: unknown, path: string[] = []): string[] => {
  if (Array.isArray(value)) return value.flatMap((item) => keysOf(item, path));
  if (typeof value !== 'object' || value === null) return [path.join('.')];
  return Object.entries(value).flatMap(([key, item]) =>
    keysOf(item, [...path, path.at(-1) === 'pools' ? 'NAME' : key]),
  );
};

test('docs/configuration.md describes every key, and no others', () => {
  const { config } = parseConfig(EVERY_KEY);
  const keys = new Set(keysOf(parse(formatConfig(config))));
  expect(
    [...new Set(firstCells(page('configuration.md')))].filter((key) => !key.startsWith('--')).sort(),
  ).toEqual([...keys].sort());
});

test('every example of docs/configuration.md is a configuration that works, without warnings', () => {
  const examples = yamlBlocks(page('configuration.md'));
  expect(examples.length).toBeGreaterThan(1);
  for (const example of examples) {
    expect(parseConfig(example, { env: { TICKRELAY_TOKEN: 'x', ADMIN_TOKEN: 'y' } }).warnings).toEqual([]);
  }
});

test('docs/errors.md has one heading for each error code', () => {
  const source = readFileSync(new URL('../../../net/relay-error.ts', import.meta.url), 'utf8');
  const codes = [...source.matchAll(/\| '(TICKRELAY_ERR_[A-Z]+)'/g)].map((match) => match[1]!);
  const headings = [...page('errors.md').matchAll(/^## (TICKRELAY_ERR_[A-Z]+)$/gm)].map((match) => match[1]!);
  expect(headings.sort()).toEqual(codes.sort());
});

test('docs/errors.md lists the exit codes', async () => {
  const commandLine = await import('../../../command-line.ts');
  const codes = Object.entries(commandLine).flatMap(([name, value]) =>
    name.startsWith('EXIT_') ? [String(value)] : [],
  );
  expect(firstCells(page('errors.md'))).toEqual(expect.arrayContaining(codes));
});

test('docs/admin-api.md has a heading for every route', async () => {
  const { app } = createRig().server;
  await app.ready();
  const text = page('admin-api.md');
  const headings = [...text.matchAll(/^### `([A-Z]+) ([^`]+)`$/gm)].map(
    (match) => `${match[1]!} ${match[2]!}`,
  );
  for (const heading of headings) {
    const [method = '', url = ''] = heading.split(' ');
    const path = url.replaceAll(/\{(\w+)\}/g, ':$1');
    expect([heading, app.hasRoute({ method: method, url: path })]).toEqual([heading, true]);
  }
  const methods = [...app.printRoutes({ commonPrefix: false }).matchAll(/\(([A-Z, ]+)\)/g)];
  const routes = methods.flatMap((match) => match[1]!.split(', ')).filter((method) => method !== 'HEAD');
  expect(headings).toHaveLength(routes.length);
});
