/**
 * Nothing lost, nothing changed, nothing reordered: many connections through the relay at once, with random pauses on both
 * sides, half-closes, and backends that are killed in between. The bytes of a connection are a function of its number, so
 * that each is checked when it arrives.
 *
 * TICKRELAY_INTEGRITY_MIB says how much the connections are to carry, both ways together, 48 MiB by default. Those on killed
 * backends carry less: with 2048 at least 1 GiB goes through.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ManagedProcess } from '../../bench/process-group.ts';
import type { Endpoint } from '../../net/address.ts';
import { SeededBytes } from '../support/seeded-bytes.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

const MIB = 2 ** 20;
const TOTAL_BYTES = Number(process.env['TICKRELAY_INTEGRITY_MIB'] ?? '48') * MIB;
const CONNECTIONS = 24;
/** Both ways together are the total. */
const BYTES_EACH = Math.floor(TOTAL_BYTES / CONNECTIONS / 2);
const TIMEOUT_MS = 60_000 + TOTAL_BYTES / 5_000;

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

/** Sends back what it gets, with pauses, and its FIN after the client's. */
const ECHO = `
  const server = require('node:net').createServer({ allowHalfOpen: true }, (socket) => {
    let count = 0;
    socket.on('error', () => {}).on('end', () => socket.end()).on('drain', () => socket.resume());
    socket.on('data', (chunk) => {
      if (!socket.write(chunk)) socket.pause();
      else if (++count % 40 === 0) {
        socket.pause();
        setTimeout(() => socket.resume(), count % 7);
      }
    });
  });
  server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ event: 'ready', port: server.address().port })));
`;

/** A length that shares no factor with any power of two, so that a lost or repeated block never fits by chance. */
const BLOCK_BYTES = 1_000_003;

/** The bytes that connection `seed` sends: a block over and over. */
class ByteStream {
  readonly #block: Buffer;

  constructor(seed: number) {
    this.#block = new SeededBytes(`stream ${seed}`).bytes(BLOCK_BYTES);
  }

  /** At most `length` bytes from `offset` on. */
  at(offset: number, length: number): Buffer {
    const from = offset % BLOCK_BYTES;
    return this.#block.subarray(from, Math.min(BLOCK_BYTES, from + length));
  }

  /** Whether these are the bytes from `offset` on. */
  matches(offset: number, bytes: Buffer): boolean {
    for (let done = 0; done < bytes.length;) {
      const wanted = this.at(offset + done, bytes.length - done);
      if (!wanted.equals(bytes.subarray(done, done + wanted.length))) return false;
      done += wanted.length;
    }
    return true;
  }
}

interface Outcome {
  readonly received: number;
  readonly isRight: boolean;
  readonly ending: 'end' | 'reset';
}

async function send(socket: Socket, stream: ByteStream, random: SeededBytes): Promise<void> {
  const closed = new Promise((resolve) => socket.once('close', resolve));
  for (let offset = 0; offset < BYTES_EACH && socket.writable;) {
    const chunk = stream.at(offset, Math.min(BYTES_EACH - offset, 1 + random.integer(100_000)));
    offset += chunk.length;
    if (!socket.write(chunk)) {
      await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), closed]);
    }
    if (random.integer(40) === 0) await sleep(random.integer(8));
  }
  // Half-close: the echo of the last bytes is still on its way.
  socket.end();
}

function exchange(to: Endpoint, seed: number): Promise<Outcome> {
  const stream = new ByteStream(seed);
  const [sending, reading] = [new SeededBytes(`send ${seed}`), new SeededBytes(`read ${seed}`)];
  return new Promise((resolve) => {
    const socket = connect({ host: to.ip.toString(), port: to.port, allowHalfOpen: true });
    let received = 0;
    let isRight = true;
    let ending: Outcome['ending'] = 'reset';
    socket.on('data', (chunk: Buffer) => {
      isRight &&= stream.matches(received, chunk);
      received += chunk.length;
      if (reading.integer(40) !== 0) return;
      socket.pause();
      setTimeout(() => socket.resume(), reading.integer(8));
    });
    socket.on('end', () => {
      ending = 'end';
      socket.end();
    });
    socket.on('error', () => (ending = 'reset'));
    socket.on('close', () => resolve({ received, isRight, ending }));
    void send(socket, stream, sending);
  });
}

async function echoBackend(id: string): Promise<{ id: string; address: string; process: ManagedProcess }> {
  const process = stage.start({ name: id, args: ['-e', ECHO] });
  const { port } = await process.event('ready');
  return { id, address: `127.0.0.1:${port as number}`, process };
}

test(
  `${TOTAL_BYTES / MIB} MiB over ${CONNECTIONS} connections, two of four backends killed on the way`,
  { timeout: TIMEOUT_MS },
  async () => {
    const backends = await Promise.all(['a', 'b', 'c', 'd'].map(echoBackend));
    const relay = await stage.relay({
      listeners: [{ name: 'login', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins' }],
      pools: {
        logins: {
          healthCheck: { type: 'tcp', interval: '250ms', timeout: '250ms' },
          backends: backends.map(({ id, address }) => ({ id, address })),
        },
      },
      admin: { listen: '127.0.0.1:0' },
    });
    const running = Array.from({ length: CONNECTIONS }, (_, i) => exchange(relay.listener(), i + 1));
    const moved = async (): Promise<number> => (await relay.metric('tcp_bytes_total')) ?? 0;
    for (const [i, { process }] of backends.slice(0, 2).entries()) {
      await until(
        'some bytes to pass',
        async () => (await moved()) > ((i + 1) * TOTAL_BYTES) / 5,
        TIMEOUT_MS,
      );
      process.signal('SIGKILL');
    }
    const outcomes = await Promise.all(running);
    expect(outcomes.filter(({ isRight }) => !isRight)).toEqual([]);
    const whole = outcomes.filter(({ received, ending }) => received === BYTES_EACH && ending === 'end');
    // A quarter of the connections was on each backend.
    expect(whole.length).toBeGreaterThanOrEqual(CONNECTIONS / 2);
    expect(outcomes.every(({ received }) => received <= BYTES_EACH)).toBe(true);

    await relay.untilMetric('tcp_connections', {}, 0);
    const page = await relay.metrics();
    expect(page.value('tcp_connections_closed_total', { reason: 'completed' })).toBeGreaterThanOrEqual(
      whole.length,
    );
    expect(page.value('tcp_connections_closed_total')).toBe(CONNECTIONS);
  },
);
