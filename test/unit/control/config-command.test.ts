import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import yargs from 'yargs';
import { command } from '../../../relay/config-command.ts';

let folder: string;
let path: string;
let out: string;
let err: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tickrelay-'));
  path = join(folder, 'relay.yaml');
  out = '';
  err = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => ((out += String(text)), true));
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => ((err += String(text)), true));
});

afterEach(async () => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
  await rm(folder, { recursive: true });
});

const run = async (...args: string[]): Promise<number | string | null | undefined> => {
  process.exitCode = undefined;
  await yargs(['config', ...args])
    .command(command)
    .exitProcess(false)
    .fail(false)
    .parseAsync();
  return process.exitCode;
};

const GOOD = `
listeners: [ { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: servers, idleTimeout: 60s } ]
pools: { servers: { registration: { allow: ["10.0.0.0/8"], token: secret } } }
admin: { listen: "127.0.0.1:7900" }
`;

test('config check says ok with a summary and the warnings, exit code 0', async () => {
  await writeFile(path, GOOD);
  expect(await run('check', path)).toBe(0);
  expect(out).toContain('warning: listeners[0].idleTimeout: 60000ms is below the 120s');
  expect(out).toContain(`${path}: ok, engine auto, 1 listener, 1 pool, 0 static backends`);
});

test('config check prints every problem on standard error, exit code 2', async () => {
  await writeFile(path, GOOD.replace('pool: servers', 'pool: servres').replace('engine', 'engin'));
  expect(await run('check', path)).toBe(2);
  expect(err).toContain(`TICKRELAY_ERR_CONFIG: ${path}: 1 problem`);
  expect(err).toContain(
    'line 2: listeners[0].pool: "servres" is not one of the pools; did you mean "servers"?',
  );
  expect(out).toBe('');
});

test('config check of a file that is not there has exit code 2', async () => {
  expect(await run('check', join(folder, 'nothing.yaml'))).toBe(2);
  expect(err).toContain("can't be read (ENOENT)");
});

test('config show prints the configuration with its defaults and without its tokens', async () => {
  await writeFile(path, GOOD);
  expect(await run('show', path)).toBe(0);
  expect(out).toContain('pinTimeout: 600s');
  expect(out).toContain('token: "********"');
  expect(out).not.toContain('secret');
  expect(err).toContain('warning: listeners[0].idleTimeout');
});
