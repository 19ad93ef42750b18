/** What only the mmsg engine can show: its workers die and are replaced, and give back what they had. */
import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import { MmsgEngine } from '../../relay/engines/mmsg/mmsg-engine.ts';
import type { SessionView } from '../../relay/engines/engine.ts';
import { Bed, RULES, sums } from './engine-harness.ts';

const loaded = loadLibc();
const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

if ('unavailable' in loaded) {
  test.skip(`skipped: ${loaded.unavailable}`, () => undefined);
} else {
  describe('the workers of the mmsg engine', () => {
    let bed: Bed;

    afterEach(() => bed.stop());

    const start = async (): Promise<MmsgEngine> => {
      bed = await new Bed('mmsg, three workers').start(['a', 'b']);
      if (!(bed.engine instanceof MmsgEngine)) throw new Error('not the engine under test');
      return bed.engine;
    };

    const listed = async (): Promise<Map<string, SessionView>> => {
      const { sessions } = await bed.engine.sessions({ limit: 1_000 });
      return new Map(sessions.map((session) => [session.client, session]));
    };

    test('a worker that dies is replaced, and the sessions of the others go on', async () => {
      const engine = await start();
      const clients = bed.clients(60);
      const before = await bed.serversOf(clients);
      const sessionsBefore = await listed();
      await engine.killWorker(1);
      await expect.poll(async () => (await listed()).size).toBeLessThan(60);
      const survivors = await listed();
      expect(survivors.size).toBeGreaterThan(20);
      for (const [client, session] of survivors) {
        expect(session.upstreamPort).toBe(sessionsBefore.get(client)!.upstreamPort);
      }
      expect(await bed.serversOf(clients)).toEqual(before);
      expect((await listed()).size).toBe(60);
      expect(bed.engine.capacity().liveSessions).toBe(60);
      expect(
        [...bed.engine.listeners()[0]!.sessionsByBackend.values()].reduce((sum, count) => sum + count),
      ).toBe(60);
      const isExact = (): boolean =>
        sums(bed.counts()).every(({ received, accounted }) => received === accounted);
      await expect.poll(isExact).toBe(true);
    });

    test('what arrives while a worker is being replaced waits in its socket', async () => {
      const engine = await start();
      const clients = bed.clients(30);
      const killed = Promise.all([engine.killWorker(0), engine.killWorker(1), engine.killWorker(2)]);
      const answers = clients.map((client) => client.ask(bed.listener, 'while nobody looks'));
      await killed;
      expect(await Promise.all(answers)).toHaveLength(30);
    });

    test('a pool change and a drain reach a worker that was replaced', async () => {
      const engine = await start();
      await engine.killWorker(0);
      bed.pool.setHealthy('a', false);
      await bed.publish();
      await expect.poll(async () => (await listed()).size).toBe(0);
      expect(new Set(await bed.serversOf(bed.clients(20)))).toEqual(new Set(['b']));
      await engine.drain();
      await engine.killWorker(2);
      const newcomer = bed.peer('127.7.0.1:0');
      newcomer.send(bed.listener, 'too late');
      await expect.poll(() => bed.counts().downstream.dropped['draining']).toBe(1);
    });

    test('pools that are gone are forgotten by the engine and by each worker', async () => {
      const engine = await start();
      for (let i = 0; i < 50; i++) {
        const pool = new BackendPool(`pool-${i}`);
        pool.add({ id: 'x', endpoint: Endpoint.parse('127.0.0.1:9'), weight: 1 });
        await engine.publish(pool.snapshot());
        pool.remove('x');
        await engine.publish(pool.snapshot());
      }
      expect(engine.dump()).toEqual({ pools: ['game'], poolsOfWorkers: [1, 1, 1] });
      const listen = Endpoint.parse('127.0.0.1:0');
      await engine.addListener({ name: 'more', listen, pool: 'more', ...RULES });
      expect(engine.dump()).toEqual({ pools: ['game', 'more'], poolsOfWorkers: [2, 2, 2] });
      const more = new BackendPool('more');
      more.add({ id: 'm', endpoint: bed.addServer('m').local, weight: 1 });
      await engine.publish(more.snapshot());
      await Promise.all(bed.clients(9).map((client) => client.ask(engine.listeners()[1]!.local, 'x')));
      expect(engine.listeners()[1]!.sessionsByBackend.get('m')).toBe(9);
      more.remove('m');
      await engine.publish(more.snapshot());
      await engine.removeListener('more');
      expect(engine.dump()).toEqual({ pools: ['game'], poolsOfWorkers: [1, 1, 1] });
    });

    test('descriptors return to where they were, also those of workers that died', async () => {
      const before = openDescriptors();
      const engine = await start();
      const clients = bed.clients(20);
      await bed.serversOf(clients);
      for (const worker of [0, 1, 2, 0]) {
        await engine.killWorker(worker);
        await bed.serversOf(clients);
      }
      await bed.stop();
      await expect.poll(openDescriptors).toBeLessThanOrEqual(before);
    });
  });
}
