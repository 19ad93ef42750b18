/** A relay whose terminal is closed: with a file it plays on, without one it ends, and both end in order. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CLI } from '../support/cli-run.ts';
import { gameConfig } from '../support/game-fleet.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

/** Starts a relay on a terminal and closes that. @returns its process id, and its exit code once it has ended */
async function relayWithoutTerminal(flags: string): Promise<{ pid: number; exitCode: () => string }> {
  const [pidFile, codeFile] = [join(stage.folder, 'pid'), join(stage.folder, 'code')];
  const relay = `'${process.execPath}' '${CLI}' relay --json ${flags}`;
  const shell = `trap '' HUP; ${relay} & echo $! > '${pidFile}'; wait $!; echo $? > '${codeFile}'`;
  const terminal = stage.start({ name: 'terminal', program: 'script', args: ['-qec', shell, '/dev/null'] });
  await terminal.event('ready');
  const pid = Number(readFileSync(pidFile, 'utf8'));
  const exitCode = (): string => (existsSync(codeFile) ? readFileSync(codeFile, 'utf8').trim() : '');
  stage.closing({
    close: () => {
      if (exitCode() === '') process.kill(pid, 'SIGKILL');
    },
  });
  terminal.signal('SIGKILL');
  await terminal.ended(20_000);
  return { pid, exitCode };
}

test.skipIf(spawnSync('script', ['--version']).status !== 0)(
  'without a file it ends with the terminal, as with SIGTERM, however often it is told',
  async () => {
    const { pid, exitCode } = await relayWithoutTerminal('--udp 127.0.0.1:0 --backend 127.0.0.1:9');
    process.kill(pid, 'SIGHUP');
    process.kill(pid, 'SIGHUP');
    await until('its exit code', () => exitCode() !== '');
    expect(exitCode()).toBe('0');
  },
);

test.skipIf(spawnSync('script', ['--version']).status !== 0)(
  'with a file it reads that again, and a later SIGTERM ends it in order',
  async () => {
    const file = stage.writeFile('relay.yaml', gameConfig({ pool: { backends: ['127.0.0.1:9'] } }));
    const { pid, exitCode } = await relayWithoutTerminal(`--config '${file}'`);
    process.kill(pid, 'SIGHUP');
    process.kill(pid, 'SIGTERM');
    await until('its exit code', () => exitCode() !== '');
    expect(exitCode()).toBe('0');
  },
);
