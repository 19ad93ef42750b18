import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import yargs from 'yargs';
import { command } from '../../../botclient/command.ts';
import type { GameServer } from '../../../gameserver/game-server.ts';
import { localGameServer } from '../../support/local-game-server.ts';

/** What a signal would do, instead of one: the test runner has handlers of its own. */
let stop: () => void = () => undefined;
vi.mock('../../../command-line.ts', async (importOriginal) => ({
  ...(await importOriginal<object>()),
  onStopSignal: (handler: () => void) => {
    stop = handler;
    return () => undefined;
  },
}));

let printed = '';
let server: GameServer;

beforeEach(() => {
  printed = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += String(text);
    return true;
  });
  server = localGameServer();
});

afterEach(async () => {
  vi.restoreAllMocks();
  await server.close();
});

/** Runs the command as cli.ts does. */
async function run(line: string): Promise<void> {
  await yargs(`bots --log-level silent --ramp 0s --warmup 0s ${line}`.split(' '))
    .command(command)
    .strict()
    .fail(false)
    .exitProcess(false)
    .parseAsync();
}

describe('tickrelay bots', () => {
  test('names its socket when it is ready, and prints one summary of all workers', async () => {
    await run(
      `--json --target ${server.local.toString()} --players 5 --duration 250ms --workers 2 --socket dgram`,
    );
    const [ready, summary, ...rest] = printed
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(rest).toEqual([]);
    expect(ready).toEqual({
      event: 'ready',
      target: server.local.toString(),
      players: 5,
      workers: 2,
      socket: 'dgram',
    });
    expect(summary).toMatchObject({ event: 'summary', players: 5, intended: 160, servers: { 3: 5 } });
  });

  test('more workers than players are as many as players', async () => {
    await run(`--target ${server.local.toString()} --players 2 --duration 250ms --workers 8 --socket dgram`);
    expect(printed).toMatch(/^measured +2 players at 128 Hz for 0\.3 s$/m);
  });

  test('with --live shows how the players fare meanwhile', async () => {
    let shown = '';
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
      shown += String(text);
      return true;
    });
    const running = run(`--target ${server.local.toString()} --workers 2 --duration 10m --live`);
    await vi.waitFor(() => expect(shown).toMatch(/ s {2}measuring {2}10 players .* answered\/s/), 20_000);
    stop();
    await running;
    expect(printed).toMatch(/^players +server 3: 10$/m);
  });

  test.each([
    ['--workers 0', '--workers takes auto or an integer from 1 to 256, not 0'],
    ['--workers many', '--workers takes auto or an integer from 1 to 256, not many'],
    ['--socket tcp', 'Choices: "auto", "dgram", "mmsg"'],
    ['--first-address ::1', '"::1" is not an IPv4 address to count up from'],
    ['--first-player 65535 --players 2', 'reach id 65536; the highest is 65535'],
  ])('refuses %s', async (line, message) => {
    await expect(run(`--target 127.0.0.1:7777 ${line}`)).rejects.toThrow(message);
  });
});
