import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import yargs from 'yargs';
import { command } from '../../../gameserver/command.ts';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import type { DatagramSocket } from '../../../net/datagram-socket.ts';
import { DatagramBatch } from '../../../net/datagram-socket.ts';
import { openDgramSocket } from '../../../net/dgram-socket.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { createWorldState, decodeWorldState } from '../../../wire/world-state.ts';
import { UdpPeer } from '../../support/udp-peer.ts';

/** What a signal would do, instead of one: the test runner has handlers of its own. */
let stop: () => void = () => undefined;
vi.mock('../../../command-line.ts', async (importOriginal) => ({
  ...(await importOriginal<object>()),
  onStopSignal: (handler: () => void) => {
    stop = handler;
    return () => undefined;
  },
}));

vi.mock('../../../net/linux/libc.ts', async (importOriginal) => {
  const original = await importOriginal<{ loadLibc: typeof loadLibc }>();
  return { ...original, loadLibc: vi.fn(original.loadLibc) };
});

let printed = '';
beforeEach(() => {
  printed = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += String(text);
    return true;
  });
});
afterEach(() => vi.restoreAllMocks());

/** Runs the command as cli.ts does. */
async function run(line: string): Promise<void> {
  await yargs(`gameserver --log-level silent ${line}`.split(' '))
    .command(command)
    .strict()
    .fail(false)
    .exitProcess(false)
    .parseAsync();
}

const lines = (): Record<string, unknown>[] =>
  printed
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

async function ready(): Promise<Endpoint> {
  await vi.waitFor(() => expect(printed).toContain('"ready"'));
  return Endpoint.parse(String(lines()[0]?.['udp']));
}

const UPDATE = Uint8Array.from(Buffer.from('002a3f8000004000000040400000', 'hex'));

/** Sends one update over a real socket and returns the answer. */
async function play(server: Endpoint): Promise<Uint8Array> {
  let socket: DatagramSocket | undefined;
  const answer = await new Promise<Uint8Array>((resolve) => {
    socket = openDgramSocket({
      local: Endpoint.parse('127.0.0.1:0'),
      onReceive: (batch) => resolve(batch.payloads[0]!.slice(0, batch.lengths[0])),
    });
    const batch = new DatagramBatch(1);
    batch.append(UPDATE, UPDATE.length, server.ip.words, 0, server.port);
    socket.send(batch);
  });
  await socket?.close();
  return answer;
}

const missing = ((loaded) => ('unavailable' in loaded ? loaded.unavailable : undefined))(loadLibc());

describe.each(['dgram', 'mmsg'] as const)('tickrelay gameserver --socket %s', (kind) => {
  if (kind === 'mmsg' && missing !== undefined) {
    test.skip(`skipped: ${missing}`, () => undefined);
    return;
  }

  test('says where it listens, answers players, and prints its counts at the end', async () => {
    const running = run(`--json --id 9 --socket ${kind}`);
    const answer = await play(await ready());
    const state = createWorldState();
    expect(decodeWorldState(answer, answer.length, state)).toBe(true);
    expect(state).toMatchObject({ serverId: 9, count: 1 });
    stop();
    await running;
    expect(lines()).toMatchObject([
      { event: 'ready', id: 9, socket: kind },
      { event: 'summary', id: 9, received: 1, accepted: 1, malformed: 0, sent: 1 },
    ]);
  });

  test.each(['immediate', 'tick'])(
    'on a wildcard address answers from where it was asked, %s',
    async (reply) => {
      const running = run(`--json --listen 0.0.0.0:0 --reply ${reply} --socket ${kind}`);
      const { port } = await ready();
      const client = new UdpPeer('127.0.0.1:0');
      const { from } = await client.ask(Endpoint.parse(`127.0.0.2:${port}`), UPDATE);
      // node:dgram can't see which address was asked; the route picks.
      expect(from.toString()).toBe(`${kind === 'mmsg' ? '127.0.0.2' : '127.0.0.1'}:${port}`);
      await client.close();
      stop();
      await running;
    },
  );

  test('without --json prints two lines for people', async () => {
    const running = run(`--reply tick --tick 64 --socket ${kind}`);
    await vi.waitFor(() =>
      expect(printed).toMatch(/^game server 1 on 127\.0\.0\.1:\d+: binary, .* 64 times a second\n$/),
    );
    stop();
    await running;
    expect(printed).toMatch(/\ngame server 1: received 0 \(0 accepted, 0 malformed\).* ticks, \d+ late/);
  });

  test.each([
    ['10.0.0.5', 'server-10.0.0.5'],
    ['fd00::5', 'server-fd00--5'],
  ])('with --register joins the pool as the address %s, and leaves it before the summary', async (ip, id) => {
    const requests: string[] = [];
    const relay = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk) => (body += String(chunk)));
      request.on('end', () => {
        requests.push(`${request.method ?? ''} ${request.url ?? ''} ${body}`.trim());
        response.end();
      });
    });
    await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve));
    const { port } = relay.address() as AddressInfo;
    const running = run(
      `--json --socket ${kind} --listen 0.0.0.0:0 --advertise ${ip} --id 2 --register http://127.0.0.1:${port}`,
    );
    const { port: bound } = await ready();
    await vi.waitFor(() => expect(requests).toHaveLength(1));
    stop();
    await running;
    const address = new Endpoint(IpAddress.parse(ip), bound).toString();
    expect(requests).toEqual([
      `PUT /v1/pools/game-servers/backends/${id}-${bound} {"address":"${address}","weight":1,"players":0}`,
      `DELETE /v1/pools/game-servers/backends/${id}-${bound}`,
    ]);
    relay.close();
  });

  test('fails at a port that is taken, naming it', async () => {
    const running = run(`--json --socket ${kind}`);
    const taken = await ready();
    await expect(run(`--socket ${kind} --listen ${taken.toString()}`)).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_BIND',
      message: expect.stringContaining(taken.toString()) as string,
    });
    stop();
    await running;
  });
});

describe('tickrelay gameserver', () => {
  test('without koffi takes dgram, and refuses mmsg with the reason', async () => {
    vi.mocked(loadLibc).mockReturnValue({ unavailable: 'koffi does not load: not found' });
    await expect(run('--socket mmsg')).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_ENGINE',
      message: expect.stringContaining('koffi does not load: not found') as string,
    });
    const running = run('--json');
    await ready();
    stop();
    await running;
    expect(lines()[0]).toMatchObject({ event: 'ready', socket: 'dgram' });
    vi.mocked(loadLibc).mockRestore();
  });

  test('will not register the address 0.0.0.0, and says what to do', async () => {
    await expect(run('--listen 0.0.0.0:0 --register http://127.0.0.1:7900')).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_CONFIG',
      message: expect.stringContaining('--advertise 10.0.0.5') as string,
    });
  });

  test.each([
    ['--id 65536', '--id takes an integer from 0 to 65535, not 65536'],
    ['--id two', '--id takes an integer'],
    ['--tick 0', '--tick takes an integer from 1 to 1000'],
    ['--match 86', '--match takes an integer from 1 to 85'],
    ['--weight 0', '--weight takes an integer from 1 to 256'],
    ['--forget 10', '"10" is not a duration'],
    ['--interval 50ms', '--interval 50ms is too short: at least 100ms'],
    ['--register relay:7900', '--register relay:7900 is not the URL'],
    ['--listen somewhere', '"somewhere" is not an address with a port'],
    ['--socket tcp', 'Choices: "auto", "dgram", "mmsg"'],
    ['--codec xml', 'Choices: "binary", "msgpack", "json", "http"'],
  ])('refuses %s', async (line, message) => {
    await expect(run(line)).rejects.toThrow(message);
  });
});
