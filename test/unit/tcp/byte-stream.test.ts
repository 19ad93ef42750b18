/** What a byte stream must survive on its way through the relay: nothing lost, nothing reordered, ends kept, memory bounded. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { echo, eventually, hold, howItEnds, nextText, benchOfEach, TRANSPORTS_HERE } from './tcp-bench.ts';

const MIB = 1024 * 1024;

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  /** What node:net can't do: it sees no reset while it does not read. */
  const testOfPump = transport === 'pump' ? test : () => undefined;
  const bench = benchOfEach(transport);

  /** Bytes and pauses from a small generator, so that a failure repeats. */
  function lehmer(seed: number): () => number {
    let state = seed;
    return () => (state = (state * 48_271) % 0x7fff_ffff);
  }

  /** Sends `total` pseudo-random bytes in chunks of random size, waiting now and then, and returns their hash. */
  async function sendRandomly(socket: Socket, total: number, seed: number): Promise<string> {
    const next = lehmer(seed);
    const block = Buffer.alloc(256 * 1024);
    for (let i = 0; i + 4 <= block.length; i += 4) block.writeUInt32LE(next(), i);
    const hash = createHash('sha256');
    for (let sent = 0; sent < total;) {
      const at = next() % 100_000;
      const chunk = Buffer.from(block.subarray(at, at + Math.min(total - sent, 1 + (next() % 150_000))));
      hash.update(chunk);
      sent += chunk.length;
      if (!socket.write(chunk)) await once(socket, 'drain');
      if (next() % 50 === 0) await delay(next() % 5);
    }
    socket.end();
    return hash.digest('hex');
  }

  /** Hashes all that arrives, pausing now and then. */
  async function receiveRandomly(socket: Socket, seed: number): Promise<string> {
    const next = lehmer(seed);
    const hash = createHash('sha256');
    for await (const chunk of socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      if (next() % 100 === 0) await delay(next() % 5);
    }
    return hash.digest('hex');
  }

  test('64 MB both ways at once arrive byte for byte, with pauses on every side', async () => {
    const total = 64 * MIB;
    const atBackend = new Promise<[string, string]>((resolve, reject) => {
      void bench.backend('a', (socket) => {
        Promise.all([sendRandomly(socket, total, 3), receiveRandomly(socket, 4)]).then(resolve, reject);
      });
    });
    await eventually(() => expect(bench.pool.list()).toHaveLength(1));
    await bench.listen();
    const client = bench.dial();
    const [sentByClient, receivedByClient] = await Promise.all([
      sendRandomly(client, total, 1),
      receiveRandomly(client, 2),
    ]);
    const [sentByBackend, receivedByBackend] = await atBackend;
    expect(receivedByBackend).toBe(sentByClient);
    expect(receivedByClient).toBe(sentByBackend);
    await eventually(() => expect(bench.closed('completed')).toBe(1));
    expect(bench.status().counts).toMatchObject({ downstreamBytes: total, upstreamBytes: total });
  });

  describe('half-close', () => {
    test('the client ends first and still gets the answer', async () => {
      await bench.backend('a', (socket) => {
        let request = '';
        socket.on('data', (chunk: Buffer) => (request += chunk.toString()));
        socket.on('end', () => socket.end(`got ${request}`));
      });
      await bench.listen();
      const client = bench.dial();
      client.end('question');
      expect(await nextText(client)).toBe('got question');
      expect(await howItEnds(client)).toBe('end');
      await eventually(() => expect(bench.closed('completed')).toBe(1));
    });

    test('the backend ends first and still gets the rest', async () => {
      let received = '';
      await bench.backend('a', (socket) => {
        socket.end('bye');
        socket.on('data', (chunk: Buffer) => (received += chunk.toString()));
      });
      await bench.listen();
      const client = bench.dial();
      client.resume();
      await once(client, 'end');
      expect(bench.engine.connections({ limit: 1 }).connections[0]?.state).toBe('backend-ended');
      client.end('last words');
      await eventually(() => expect(bench.closed('completed')).toBe(1));
      await eventually(() => expect(received).toBe('last words'));
    });

    test('is listed as such', async () => {
      const backend = await bench.backend('a', hold);
      await bench.listen();
      const client = bench.dial();
      client.end();
      await eventually(() => expect(backend.sockets.size).toBe(1));
      const state = () => bench.engine.connections({ limit: 1 }).connections[0]?.state;
      await eventually(() => expect(state()).toBe('client-ended'));
    });
  });

  describe('a reset', () => {
    test('of the client reaches the backend as a reset', async () => {
      const backend = await bench.backend('a', echo);
      await bench.listen();
      const client = bench.dial();
      client.write('x');
      await once(client, 'data');
      client.resetAndDestroy();
      await eventually(() => expect(backend.errorCodes).toEqual(['ECONNRESET']));
      await eventually(() => expect(bench.closed('client-reset')).toBe(1));
    });

    test('of the backend reaches the client as a reset', async () => {
      const backend = await bench.backend('a', echo);
      await bench.listen();
      const client = bench.dial();
      client.write('x');
      await once(client, 'data');
      for (const socket of backend.sockets) socket.resetAndDestroy();
      expect(await howItEnds(client)).toBe('reset');
      await eventually(() => expect(bench.closed('backend-reset')).toBe(1));
    });

    test('right after accepting is passed on and counted', async () => {
      await bench.backend('a', (socket) => socket.resetAndDestroy());
      await bench.listen();
      expect(await howItEnds(bench.dial())).toBe('reset');
      // Whether the system reports it as a failed connect or a later reset is a matter of microseconds.
      await eventually(() => expect(bench.closed('backend-reset') + bench.closed('connect-failed')).toBe(1));
    });
  });

  testOfPump('a reset that follows a FIN is noticed at once', async () => {
    const backend = await bench.backend('a', (socket) => socket.resume());
    await bench.listen();
    const client = bench.dial();
    client.end('last words');
    const state = () => bench.engine.connections({ limit: 1 }).connections[0]?.state;
    await eventually(() => expect(state()).toBe('client-ended'));
    client.resetAndDestroy();
    await eventually(() => expect(bench.closed('client-reset')).toBe(1));
    // The backend has to look at its socket to see the reset.
    for (const socket of backend.sockets) socket.write('too late');
    await eventually(() => expect(backend.errorCodes).toHaveLength(1));
  });

  describe('a reader that stops', () => {
    /** Writes for ever; the number of bytes that the system took tells whether it was stopped. */
    function pour(socket: Socket): () => number {
      const chunk = Buffer.alloc(64 * 1024, 7);
      const more = (): void => {
        while (socket.writable && socket.write(chunk));
      };
      socket.on('drain', more);
      more();
      return () => socket.bytesWritten - socket.writableLength;
    }

    /** docs/tcp.md: of one direction. */
    const DIRECTION_BOUND_BYTES = transport === 'pump' ? 128 * 1024 : 160 * 1024;

    /** Watches the relay's buffers until no byte has moved for half a second; they must stay bounded throughout. */
    async function untilStopped(moved: () => number): Promise<void> {
      for (let before = 0, quiet = 0; quiet < 25;) {
        await delay(20);
        const bytes = moved();
        quiet = bytes === before ? quiet + 1 : 0;
        before = bytes;
        expect(buffered()).toBeLessThanOrEqual(DIRECTION_BOUND_BYTES);
      }
      expect(buffered()).toBeGreaterThan(0);
    }

    const buffered = (): number => bench.engine.connections({ limit: 1 }).connections[0]?.bufferedBytes ?? 0;

    test('at the client stops the backend, with the memory between them bounded', async () => {
      let written = (): number => 0;
      await bench.backend('a', (socket) => (written = pour(socket)));
      await bench.listen();
      const client = bench.dial();
      client.pause();
      await untilStopped(() => written());
      const stoppedAt = written();
      client.resume();
      await eventually(() => expect(written()).toBeGreaterThan(stoppedAt + 16 * MIB));
    });

    test('at the backend stops the client, with the memory between them bounded', async () => {
      const backend = await bench.backend('a', (socket) => socket.pause());
      await bench.listen();
      const client = bench.dial();
      const written = pour(client);
      await untilStopped(written);
      const stoppedAt = written();
      for (const socket of backend.sockets) socket.resume();
      await eventually(() => expect(written()).toBeGreaterThan(stoppedAt + 16 * MIB));
    });

    test('can be reset although bytes wait for it', async () => {
      await bench.backend('a', pour);
      await bench.listen();
      bench.dial().pause();
      await untilStopped(() => bench.status().counts.upstreamBytes);
      const [view] = bench.engine.connections({ limit: 1 }).connections;
      expect(bench.engine.closeConnection(view!.id)).toBe(true);
      await eventually(() => expect(bench.closed('operator')).toBe(1));
    });

    testOfPump('does not hide that the other side resets', async () => {
      const backend = await bench.backend('a', pour);
      await bench.listen();
      bench.dial().pause();
      await untilStopped(() => bench.status().counts.upstreamBytes);
      for (const socket of backend.sockets) socket.resetAndDestroy();
      await eventually(() => expect(bench.closed('backend-reset')).toBe(1));
      expect(bench.status().liveConnections).toBe(0);
    });
  });
});
