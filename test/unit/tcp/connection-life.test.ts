/** What becomes of connections as backends come and go and time passes, and how they are listed and closed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { describe, expect, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import {
  echo,
  eventually,
  greet,
  hold,
  howItEnds,
  isBalanced,
  nextText,
  benchOfEach,
  TRANSPORTS_HERE,
} from './tcp-bench.ts';

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  const bench = benchOfEach(transport);

  describe('a backend', () => {
    test('that is unhealthy loses its connections at once, and new ones go elsewhere', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen();
      const clients = [bench.dial(), bench.dial()];
      const names = await Promise.all(clients.map(nextText));
      const onA = clients[names.indexOf('a')]!;
      const onB = clients[names.indexOf('b')]!;
      bench.pool.setHealthy('a', false);
      const ending = howItEnds(onA);
      bench.publish();
      expect(await ending).toBe('reset');
      for (let i = 0; i < 4; i++) expect(await nextText(bench.dial())).toBe('b');
      expect(onB.destroyed).toBe(false);
      expect(bench.liveByBackend()).toEqual({ b: 5 });
      expect(bench.closed('backend-unusable')).toBe(1);
    });

    test('that was removed and whose slot another one took loses its connections', async () => {
      await bench.backend('old', greet('old'));
      await bench.listen();
      const client = bench.dial();
      await nextText(client);
      bench.pool.remove('old');
      await bench.backend('new', greet('new'));
      const ending = howItEnds(client);
      bench.publish();
      expect(await ending).toBe('reset');
      expect(await nextText(bench.dial())).toBe('new');
    });

    test('whose process is killed ends its connections, and new ones go elsewhere', async () => {
      const victim = spawn(process.execPath, [
        '-e',
        `require('net').createServer((s) => s.pipe(s)).listen(0, '127.0.0.1', function () { console.log(this.address().port) })`,
      ]);
      const [port] = (await once(victim.stdout, 'data')) as [Buffer];
      bench.pool.add({
        id: 'victim',
        endpoint: Endpoint.parse(`127.0.0.1:${port.toString().trim()}`),
        weight: 256,
      });
      await bench.backend('survivor', echo);
      await bench.listen();
      const clients = await bench.dialMany(10);
      for (const client of clients) {
        client.write('x');
        await nextText(client);
      }
      const orphans = bench.status().connectionsByBackend.get('victim')!;
      expect(orphans).toBeGreaterThan(0);
      for (const client of clients) client.on('end', () => client.end()).resume();
      victim.kill('SIGKILL');
      await eventually(() => expect(bench.closed('completed') + bench.closed('backend-reset')).toBe(orphans));
      // Nobody told the pool yet: the retry finds the survivor.
      const next = bench.dial();
      next.write('y');
      expect(await nextText(next)).toBe('y');
      expect(isBalanced(bench.engine)).toBe(true);
    });

    test('that drains keeps its connections and gets no new ones', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, echo);
      await bench.listen();
      await bench.dialMany(2);
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 1, b: 1 }));
      bench.pool.setDraining('a', true);
      bench.publish();
      await bench.dialMany(3);
      await eventually(() => expect(bench.liveByBackend()).toEqual({ a: 1, b: 4 }));
    });
  });

  describe('an idle connection', () => {
    test('is kept for the timeout minus a millisecond and reset at the timeout', async () => {
      let nowMs = 1_000;
      await bench.start({ now: () => nowMs, sweepIntervalMs: 5 });
      await bench.backend('a', echo);
      await bench.listen({ idleTimeoutMs: 60_000 });
      const [quiet, busy] = [bench.dial(), bench.dial()];
      for (const client of [quiet, busy]) {
        client.write('x');
        await nextText(client);
      }
      nowMs += 59_999;
      busy.write('x');
      await nextText(busy);
      expect(bench.status().liveConnections).toBe(2);
      const ending = howItEnds(quiet);
      nowMs += 1;
      expect(await ending).toBe('reset');
      await eventually(() => expect(bench.closed('idle-timeout')).toBe(1));
      expect(bench.status().liveConnections).toBe(1);
    });
  });

  describe('the connection table', () => {
    test('lists client, backend, state, age, idle time and bytes', async () => {
      let nowMs = 5_000;
      await bench.start({ now: () => nowMs });
      await bench.backend('a', greet('hello'));
      await bench.listen();
      const client = bench.dial();
      await nextText(client);
      client.write('hi');
      await eventually(() => expect(bench.status().counts.downstreamBytes).toBe(2));
      nowMs = 6_500;
      const { connections, total, truncated } = bench.engine.connections({ limit: 10 });
      expect({ total, truncated }).toEqual({ total: 1, truncated: false });
      expect(connections[0]).toEqual({
        id: 1,
        listener: 'login',
        client: `127.0.0.1:${(client.address() as AddressInfo).port}`,
        backend: 'a',
        state: 'established',
        ageMs: 1_500,
        idleMs: 1_500,
        downstreamBytes: 2,
        upstreamBytes: 5,
        bufferedBytes: 0,
      });
    });

    test('answers a query by listener, backend and client IP, up to a limit', async () => {
      for (const id of ['a', 'b']) await bench.backend(id, hold);
      await bench.listen();
      for (const localAddress of ['127.0.0.2', '127.0.0.2', '127.0.0.3', '127.0.0.4'])
        bench.dial({ localAddress });
      await eventually(() => expect(bench.status().liveConnections).toBe(4));
      const { engine } = bench;
      expect(engine.connections({ limit: 3 })).toMatchObject({ total: 4, truncated: true });
      expect(engine.connections({ limit: 9, clientIp: '127.0.0.2' }).total).toBe(2);
      expect(engine.connections({ limit: 9, clientIp: '::ffff:127.0.0.3' }).total).toBe(1);
      expect(engine.connections({ limit: 9, backend: 'a' }).total).toBe(2);
      expect(engine.connections({ limit: 9, listener: 'nobody' }).total).toBe(0);
      expect(() => engine.connections({ limit: 9, clientIp: 'x' })).toThrow(/"x" is not an IP address/);
    });

    test('closes one connection by id', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen();
      const client = bench.dial();
      await nextText(client);
      const ending = howItEnds(client);
      expect(bench.engine.closeConnection(1)).toBe(true);
      expect(await ending).toBe('reset');
      await eventually(() => expect(bench.closed('operator')).toBe(1));
      expect(bench.engine.closeConnection(1)).toBe(false);
    });
  });
});
