/** What an operator meets at the prompt: help, mistakes, taken ports, and what is left to pipe. */
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { stripVTControlCharacters } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CLI, runCli, type CliRun } from '../support/cli-run.ts';
import { gameConfig } from '../support/game-fleet.ts';
import { Stage } from '../support/stage.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const BACKEND = ['--backend', '127.0.0.1:9'];

async function takenTcpPort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  stage.closing({ close: () => void server.close() });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function takenUdpPort(): Promise<string> {
  const socket = createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  stage.closing({ close: () => void socket.close() });
  return `127.0.0.1:${socket.address().port}`;
}

/** Standard error without the JSON lines of the log: what a person is told. */
function told({ stderr }: CliRun): string[] {
  return stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
}

describe('a port that is taken', () => {
  test.each([
    [
      'UDP',
      async () => {
        const taken = await takenUdpPort();
        return [taken, ['--udp', taken, ...BACKEND]] as const;
      },
    ],
    [
      'TCP',
      async () => {
        const taken = await takenTcpPort();
        return [taken, ['--tcp', `${taken}=127.0.0.1:9`]] as const;
      },
    ],
    [
      'admin',
      async () => {
        const taken = await takenTcpPort();
        return [taken, ['--udp', '127.0.0.1:0', ...BACKEND, '--admin', taken]] as const;
      },
    ],
  ])('ends the relay with exit code 1 and one line: %s', async (_what, prepare) => {
    const [taken, flags] = await prepare();
    const run = await runCli('relay', '--json', ...flags);
    expect(run.code).toBe(1);
    expect(run.stdout).toBe('');
    expect(told(run)).toHaveLength(1);
    expect(told(run)[0]).toMatch(/^TICKRELAY_ERR_BIND: /);
    expect(told(run)[0]).toContain(taken);
  });

  test('ends a game server in the same way', async () => {
    const taken = await takenUdpPort();
    const run = await runCli('gameserver', '--listen', taken);
    expect(run.code).toBe(1);
    expect(told(run)).toEqual([expect.stringContaining(`TICKRELAY_ERR_BIND: can't bind UDP ${taken}`)]);
  });
});

describe('a mistake in the flags or the file', () => {
  test.each([
    [['relay', '--udp', '127.0.0.1', ...BACKEND], '--udp: "127.0.0.1" should be an IP address with a port'],
    [['relay', '--udp', '127.0.0.1:0', '--backend', '127.0.0.1:0'], '--backend'],
    [['relay', ...BACKEND], '--backend: needs --udp'],
    [['relay'], '--udp: is missing'],
    [
      ['relay', '--udp', '127.0.0.1:0', ...BACKEND, '--idle-timeout', '5'],
      '--idle-timeout: "5" should be a duration',
    ],
    [
      ['relay', '--udp', '127.0.0.1:0', ...BACKEND, '--max-sessions', '0'],
      '--max-sessions: "0" should be a whole number',
    ],
    [
      ['relay', '--udp', '127.0.0.1:0', ...BACKEND, '--hash-seed', 'abc'],
      '--hash-seed: "abc" should be a whole',
    ],
    [
      ['relay', '--udp', '127.0.0.1:0', '--udp', '127.0.0.1:1'],
      '--udp is given more than once: 127.0.0.1:0, 127.0.0.1:1',
    ],
    [['relay', '--udp', '127.0.0.1:0', '--engine', 'kernal'], 'Choices: "auto", "dgram", "mmsg", "kernel"'],
    [['relay', '--udp', '127.0.0.1:0', '--source-address', 'mine'], 'Choices: "client", "relay"'],
    [['relay', '--udp', '127.0.0.1:0', '--interface', 'a/b'], '--interface: "a/b" should be the name of an'],
    [['relay', '--udp', '127.0.0.1:0', ...BACKEND, '--algorithm', 'iphash'], 'Choices'],
    [['relay', '--upd', '127.0.0.1:0'], 'Unknown argument: upd (did you mean --udp?)'],
    [['gameserver', '--relpy', 'tick'], 'Unknown argument: relpy (did you mean --reply?)'],
    [['relay', '--config', 'x.yaml', '--udp', '127.0.0.1:0'], 'mutually exclusive'],
    [['relay', '--config', '/nonexistent/relay.yaml'], '/nonexistent/relay.yaml'],
    [['gameserver', '--id', '70000'], '--id takes an integer from 0 to 65535'],
    [['bots', '--target', 'nowhere'], '--target: "nowhere" is not an address with a port'],
    [['bots', '--target', '127.0.0.1:0'], '--target 127.0.0.1:0 has port 0'],
    [['bots', '--target', '239.0.0.1:7777'], '--target 239.0.0.1:7777 is multicast'],
    [['bots', '--target', '127.0.0.1:1', '--ramp', '1'], '--ramp: "1" is not a duration'],
    [
      ['bots', '--target', '127.0.0.1:1', '--players', 'ten'],
      '--players takes an integer from 1 to 65536, not ten',
    ],
    [['bots', '--target', '127.0.0.1:1', '--players', '1e9'], 'not 1e9'],
    [
      ['bots', '--target', '127.0.0.1:1', '--players', '2', '--players', '3'],
      '--players is given more than once: 2, 3',
    ],
    [['gameserver', '--pool', 'a', '--pool', 'b'], '--pool is given more than once: a, b'],
    [
      ['gameserver', '--listen', '127.0.0.1:99999'],
      '--listen: "127.0.0.1:99999" has port 99999; the highest is 65535',
    ],
    [['bench', '--quick', '--out', '/dev/null/results'], "--out /dev/null/results can't be written to"],
    [['bots'], 'target'],
  ])('tickrelay %j: exit code 2 and a line that names it', async (args, line) => {
    const run = await runCli(...args);
    expect(run.stderr).toContain(line);
    expect(run.stderr).not.toMatch(/\n\s+at /);
    expect(run.stdout).toBe('');
    expect(run.code).toBe(2);
  });

  test('a bad configuration file is refused with the path of each key, its value and a suggestion', async () => {
    const file = stage.writeFile(
      'bad.yaml',
      [
        'engin: dgram',
        'listeners:',
        '  - { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: game-servers, algorithm: ip-hsh }',
        'pools:',
        '  game-servers:',
        '    backends: [ { address: "10.0.0.3:7777", weight: 1000 } ]',
      ].join('\n'),
    );
    const started = await runCli('relay', '--config', file);
    const checked = await runCli('config', 'check', file);
    for (const { code, stderr, stdout } of [started, checked]) {
      expect(code).toBe(2);
      expect(stdout).toBe('');
      expect(stderr).toContain(`${file}: 3 problems`);
      expect(stderr).toContain('engin: is not a key here; did you mean "engine"?');
      expect(stderr).toMatch(
        /listeners\[0\]\.algorithm: "ip-hsh" should be one of .*; did you mean "ip-hash"\?/,
      );
      expect(stderr).toContain(
        'pools.game-servers.backends[0].weight: 1000 should be a whole number from 1 to 256',
      );
    }
  });

  test('an unknown command is named, with the nearest one', async () => {
    const near = await runCli('realy');
    expect(near).toMatchObject({ code: 2, stdout: '' });
    expect(near.stderr).toBe('Did you mean relay?\nSee tickrelay --help\n');
    const far = await runCli('frobnicate');
    expect(far).toMatchObject({ code: 2, stdout: '' });
    expect(far.stderr).toContain('frobnicate');
    expect((await runCli()).code).toBe(2);
  });

  test('an engine that cannot run here ends the relay with exit code 1', async () => {
    const rest = { engine: 'kernel', kernel: { bpffs: '/nonexistent' } };
    const file = stage.writeFile('kernel.yaml', gameConfig({ rest }));
    const run = await runCli('relay', '--config', file);
    expect(run.code).toBe(1);
    expect(told(run)).toEqual([
      expect.stringMatching(/^TICKRELAY_ERR_ENGINE: engine kernel can't run here: .*dgram/),
    ]);
  });
});

describe('help and results', () => {
  test.each(['relay', 'gameserver', 'bots', 'bench', 'config', 'detach'])(
    'tickrelay %s --help has examples and exit codes, and succeeds',
    async (command) => {
      const run = await runCli(command, '--help');
      expect(run.code).toBe(0);
      expect(run.stdout).toContain('Examples:');
      expect(run.stdout).toMatch(/exit code/i);
      // Where a description and its choices just fill a line, yargs leaves no space between them.
      expect(run.stdout).not.toMatch(/\S\[(?:choices|default|required|string|boolean|array)/);
      expect(run.stderr).toBe('');
    },
  );

  test('tickrelay --help lists every command, --version prints the version', async () => {
    const help = await runCli('--help');
    expect(help.code).toBe(0);
    for (const command of ['relay', 'gameserver', 'bots', 'bench', 'config'])
      expect(help.stdout).toContain(command);
    expect((await runCli('--version')).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test('config check says that a right file is right, with its warnings', async () => {
    const file = stage.writeFile(
      'good.yaml',
      gameConfig({ listener: { idleTimeout: '5s' }, pool: { backends: ['10.0.0.3:7777'] } }),
    );
    const run = await runCli('config', 'check', file);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    expect(run.stdout).toContain('warning: listeners[0].idleTimeout: 5000ms is below the 120s');
    expect(run.stdout).toContain('ok, engine auto, 1 listener, 1 pool, 1 static backend');
  });

  test('config show writes every default out and hides tokens', async () => {
    const file = stage.writeFile(
      'secret.yaml',
      gameConfig({
        pool: { registration: { allow: ['127.0.0.0/8'], token: 'hunter2' } },
        rest: { admin: { listen: '127.0.0.1:0', token: 'swordfish' } },
      }),
    );
    const run = await runCli('config', 'show', file);
    expect(run.code).toBe(0);
    expect(run.stdout).toContain('idleTimeout');
    expect(run.stdout + run.stderr).not.toMatch(/hunter2|swordfish/);
  });

  test('piped output has no control codes', async () => {
    const taken = await takenUdpPort();
    const runs = [
      await runCli('--help'),
      await runCli('relay', '--udp', taken, ...BACKEND),
      await runCli('bots', '--target', taken, '--duration', '100ms', '--ramp', '0ms', '--live'),
      await runCli('realy'),
    ];
    for (const { stdout, stderr } of runs)
      expect(stripVTControlCharacters(stdout + stderr)).toBe(stdout + stderr);
  });

  test('a relay whose output nobody reads any more still ends in order', async () => {
    const flags = ['relay', '--json', '--udp', '127.0.0.1:0', ...BACKEND];
    const relay = spawn(process.execPath, [CLI, ...flags], { stdio: ['ignore', 'pipe', 'ignore'] });
    stage.closing({ close: () => void relay.kill('SIGKILL') });
    await once(relay.stdout, 'data');
    relay.stdout.destroy();
    relay.kill('SIGTERM');
    expect(await once(relay, 'exit')).toEqual([0, null]);
  });
});
