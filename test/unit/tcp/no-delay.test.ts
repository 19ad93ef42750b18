/** Small messages leave at once: both of a connection's sockets have TCP_NODELAY, whichever way they were made. */
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { describe, expect, test } from 'vitest';
import { IPPROTO_TCP, TCP_NODELAY } from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import { type Libc, loadLibc } from '../../../net/linux/libc.ts';
import { readLocal } from '../../../net/linux/mmsg-socket.ts';
import { benchOfEach, echo, nextText, TRANSPORTS_HERE } from './tcp-bench.ts';

const loaded = loadLibc();

/** Whether TCP_NODELAY is on, for every TCP socket of this process that has the port on its side. */
function noDelayOf(libc: Libc, port: number): readonly boolean[] {
  const memory = new Arena(libc, 4_096);
  const [value, length] = [memory.address, memory.address + 64];
  try {
    return readdirSync('/proc/self/fd').flatMap((name) => {
      const fd = Number(name);
      memory.u32.set([0], 0);
      memory.u32.set([4], 16);
      if (!isSocket(name) || libc.getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, value, length) !== 0) return [];
      return readLocal(libc, fd).port === port ? [memory.u32[0]! !== 0] : [];
    });
  } finally {
    memory.free();
  }
}

function isSocket(fd: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:');
  } catch {
    // The descriptor that listed the folder.
    return false;
  }
}

if ('unavailable' in loaded) {
  test.skip(`skipped: ${loaded.unavailable}`, () => undefined);
} else {
  describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
    const bench = benchOfEach(transport);

    test('towards the client and towards the backend', async () => {
      let relayPort = 0;
      await bench.backend('a', (socket) => {
        relayPort = socket.remotePort!;
        echo(socket);
      });
      await bench.listen();
      const client = bench.dial();
      await once(client, 'connect');
      client.write('hello');
      expect(await nextText(client)).toBe('hello');
      const of = (port: number) => noDelayOf(loaded.libc, port);
      // The client's own socket, as node:net makes it: what is looked at is seen to differ.
      expect(of((client.address() as AddressInfo).port)).toEqual([false]);
      expect(of(relayPort)).toEqual([true]);
      // The connection's, and one that listens: with `streams` that one has no need of it.
      expect(of(bench.local.port)).toHaveLength(2);
      expect(of(bench.local.port)).toContain(true);
    });
  });
}
