import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { DatagramBatch, type DatagramSocket } from '../../../net/datagram-socket.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { chooseSocket, type ChosenSocket } from '../../../net/socket-choice.ts';
import { startTicker } from '../../../net/ticker.ts';

vi.mock('../../../net/linux/libc.ts', async (importOriginal) => {
  const original = await importOriginal<{ loadLibc: typeof loadLibc }>();
  return { ...original, loadLibc: vi.fn(original.loadLibc) };
});

const available = loadLibc();
const missing = 'unavailable' in available ? available.unavailable : undefined;

afterEach(() => vi.mocked(loadLibc).mockRestore());

/** As on a machine without koffi. */
function withoutKoffi(): void {
  vi.mocked(loadLibc).mockReturnValue({ unavailable: 'koffi does not load: not found' });
}

test('dgram is taken when it is asked for', () => {
  expect(chooseSocket('dgram')).toMatchObject({ kind: 'dgram', reason: 'it was asked for' });
});

test('auto takes what works here', () => {
  const socket = chooseSocket('auto');
  socket.close();
  expect(socket.kind).toBe(missing === undefined ? 'mmsg' : 'dgram');
  if (missing !== undefined) expect(socket.reason).toBe(missing);
});

test('auto falls back to dgram, and says why', () => {
  withoutKoffi();
  expect(chooseSocket('auto')).toMatchObject({ kind: 'dgram', reason: 'koffi does not load: not found' });
});

test('mmsg that can’t be had is an error with the reason and the remedy', () => {
  withoutKoffi();
  expect(() => chooseSocket('mmsg')).toThrow(
    expect.objectContaining({
      code: 'TICKRELAY_ERR_ENGINE',
      message: expect.stringMatching(
        /koffi does not load: not found\. Take --socket auto, or install/,
      ) as string,
    }),
  );
});

describe.each(['dgram', 'mmsg'] as const)('the %s socket', (kind) => {
  if (kind === 'mmsg' && missing !== undefined) {
    test.skip(`skipped: ${missing}`, () => undefined);
    return;
  }

  function open(socket: ChosenSocket, onReceive: (batch: DatagramBatch) => void): DatagramSocket {
    return socket.open({ local: Endpoint.parse('127.0.0.1:0'), onReceive });
  }

  test('carries datagrams that its metronome’s ticks send', async () => {
    const socket = chooseSocket(kind);
    const sender = open(socket, () => undefined);
    const payloads: number[] = [];
    await new Promise<void>((resolve) => {
      const receiver = open(socket, (batch) => {
        for (let i = 0; i < batch.count; i++) payloads.push(batch.payloads[i]![0]!);
        if (payloads.length === 20) resolve();
      });
      const batch = new DatagramBatch(1);
      const ticker = startTicker({
        periodMs: 1.5,
        metronome: socket.metronome,
        catchUpTicks: Infinity,
        onTick: (tick, intendedMs) => {
          expect(performance.now()).toBeGreaterThanOrEqual(intendedMs);
          batch.clear();
          batch.append(Uint8Array.of(tick), 1, receiver.local.ip.words, 0, receiver.local.port);
          sender.send(batch);
          if (tick === 19) ticker.stop();
        },
      });
    });
    expect(payloads).toEqual(Array.from({ length: 20 }, (_, tick) => tick));
    await sender.close();
    socket.close();
    socket.close();
  });

  test('a datagram that a timer of Node’s sends leaves without a datagram that arrives', async () => {
    const socket = chooseSocket(kind);
    await new Promise<void>((resolve) => {
      const receiver = open(socket, () => resolve());
      setTimeout(() => {
        const batch = new DatagramBatch(1);
        batch.append(Uint8Array.of(1), 1, receiver.local.ip.words, 0, receiver.local.port);
        receiver.send(batch);
      }, 5);
    });
    socket.close();
  });

  test('lets timers and signals through while it is idle, and the process end when it is closed', async () => {
    const script = `
      const { chooseSocket } = await import('./dist/net/socket-choice.js');
      const { Endpoint } = await import('./dist/net/address.js');
      const socket = chooseSocket('${kind}');
      const opened = socket.open({ local: Endpoint.parse('127.0.0.1:0'), onReceive() {} });
      process.once('SIGTERM', async () => {
        await opened.close();
        socket.close();
        process.stdout.write('closed');
      });
      setTimeout(() => process.kill(process.pid, 'SIGTERM'), 10);`;
    const run = promisify(execFile);
    const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', script]);
    expect(stdout).toBe('closed');
  });
});
