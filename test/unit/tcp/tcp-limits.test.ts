/** Who is let in, who waits and for how long, who is refused: the limits of a listener, of a client IP and of a backend. */
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { IpAddress } from '../../../net/address.ts';
import { SourceTable } from '../../../relay/tcp/source-table.ts';
import {
  echo,
  eventually,
  greet,
  howItEnds,
  listenerSpec,
  nextText,
  benchOfEach,
  TRANSPORTS_HERE,
} from './tcp-bench.ts';

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  const bench = benchOfEach(transport);

  const perSource = (connectionsPerSource: number) => ({
    limits: { connectionsPerSource, connectionRatePerSource: 0 },
  });
  const stateOf = (id: number) =>
    bench.engine.connections({ limit: 100 }).connections.find((view) => view.id === id)?.state;

  /** A client that has been let in and greeted. */
  async function admitted(localAddress = '127.0.0.1') {
    const client = bench.dial({ localAddress });
    await nextText(client);
    return client;
  }

  /** A client that waits in the queue. */
  async function waiting(localAddress = '127.0.0.1') {
    const before = bench.status().queuedConnections;
    const client = bench.dial({ localAddress });
    await eventually(() => expect(bench.status().queuedConnections).toBe(before + 1));
    return client;
  }

  describe('a client IP', () => {
    test('that has its cap is refused, others are not, and it comes in again below it', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen(perSource(2));
      const [first] = [await admitted('127.0.0.2'), await admitted('127.0.0.2')];
      expect(await howItEnds(bench.dial({ localAddress: '127.0.0.2' }))).toBe('reset');
      await admitted('127.0.0.3');
      expect(bench.closed('source-connection-limit')).toBe(1);
      first.resetAndDestroy();
      await eventually(() => expect(bench.status().liveConnections).toBe(2));
      await admitted('127.0.0.2');
    });

    test('that opens connections too fast is refused, others are not, until its tokens are back', async () => {
      let nowMs = 1_000;
      await bench.start({ now: () => nowMs });
      await bench.backend('a', greet('a'));
      await bench.listen({ limits: { connectionsPerSource: 0, connectionRatePerSource: 2 } });
      const from = { localAddress: '127.0.0.2' };
      await nextText(bench.dial(from));
      await nextText(bench.dial(from));
      expect(await howItEnds(bench.dial(from))).toBe('reset');
      await admitted('127.0.0.3');
      expect(bench.closed('source-rate-limit')).toBe(1);
      nowMs += 500;
      await nextText(bench.dial(from));
      expect(await howItEnds(bench.dial(from))).toBe('reset');
      expect(bench.closed('source-rate-limit')).toBe(2);
    });
  });

  describe('what is known of client IPs', () => {
    const ip = IpAddress.parse('192.0.2.1');

    test('goes at once where no rate is limited', () => {
      const table = new SourceTable();
      const source = table.of(ip);
      expect(source.takeToken(0, 0)).toBe(true);
      table.forget(source, 0);
      expect(table.size).toBe(0);
    });

    test('stays until the tokens are back, and while a connection lives or waits', () => {
      const table = new SourceTable();
      const source = table.of(ip);
      expect([source.takeToken(0, 1), source.takeToken(500, 1)]).toEqual([true, false]);
      table.sweep(1_499);
      expect(table.of(ip)).toBe(source);
      source.waiting = 1;
      table.sweep(5_000);
      expect(table.size).toBe(1);
      source.waiting = 0;
      table.sweep(5_000);
      expect(table.size).toBe(0);
    });
  });

  describe('a backend', () => {
    test('that has its cap is passed over, whatever the algorithm; when all have it, clients are refused', async () => {
      await bench.backend('a', greet('a'), { maxConnections: 2 });
      await bench.backend('b', greet('b'), { maxConnections: 3 });
      for (const algorithm of ['ip-hash', 'least-connections', 'round-robin'] as const) {
        await bench.listen({ algorithm });
        const clients = [];
        for (let i = 0; i < 5; i++) clients.push(await admitted());
        expect(Object.fromEntries(bench.status().connectionsByBackend)).toEqual({ a: 2, b: 3 });
        expect(await howItEnds(bench.dial())).toBe('reset');
        expect(bench.closed('backend-connection-limit')).toBe(1);
        for (const client of clients) client.resetAndDestroy();
        await bench.engine.removeListener('login');
      }
    });

    test('at its cap takes no connection of one that failed', async () => {
      await bench.deadBackend('dead');
      await bench.backend('full', greet('full'), { maxConnections: 1 });
      await bench.listen();
      // The retry of one of them takes the only place, or one is given it at once; the others find none.
      for (let i = 0; i < 3; i++) bench.dial();
      await eventually(() => expect(bench.status().counts.accepted).toBe(3));
      await eventually(() => expect(bench.status().liveConnections).toBe(1));
      expect(bench.closed('connect-failed') + bench.closed('backend-connection-limit')).toBe(2);
    });
  });

  describe('the queue', () => {
    const queue = { size: 2, timeoutMs: 60_000 };

    test('lets clients in by the order of their coming when a place is free, with their early bytes', async () => {
      await bench.backend('a', echo);
      await bench.listen({ maxConnections: 1, queue });
      const first = bench.dial();
      first.write('first');
      await nextText(first);
      const second = await waiting();
      second.write('second');
      const third = await waiting();
      third.write('third');
      expect(await howItEnds(bench.dial())).toBe('reset');
      expect(bench.closed('connection-limit')).toBe(1);
      expect(bench.status()).toMatchObject({ liveConnections: 3, queuedConnections: 2 });
      expect([stateOf(2), stateOf(3)]).toEqual(['queued', 'queued']);

      first.end();
      expect(await nextText(second)).toBe('second');
      expect(bench.status().queuedConnections).toBe(1);
      second.resetAndDestroy();
      expect(await nextText(third)).toBe('third');
      expect(bench.status().queuedConnections).toBe(0);
    });

    test('keeps a client no longer than its timeout', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen({ maxConnections: 1, queue: { size: 2, timeoutMs: 30 } });
      await admitted();
      expect(await howItEnds(bench.dial())).toBe('reset');
      await eventually(() => expect(bench.closed('queue-timeout')).toBe(1));
      expect(bench.status()).toMatchObject({ liveConnections: 1, queuedConnections: 0 });
    });

    test('is not held up by a client IP that has its cap, nor filled by it', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen({ ...perSource(1), maxConnections: 2, queue: { size: 10, timeoutMs: 60_000 } });
      const greedy = await admitted('127.0.0.2');
      await waiting('127.0.0.2');
      expect(await howItEnds(bench.dial({ localAddress: '127.0.0.2' }))).toBe('reset');
      const other = await admitted('127.0.0.3');
      const late = await waiting('127.0.0.4');
      other.resetAndDestroy();
      expect(await nextText(late)).toBe('a');
      expect(bench.status().queuedConnections).toBe(1);
      greedy.resetAndDestroy();
      await eventually(() => expect(bench.status().queuedConnections).toBe(0));
    });

    test('waits for backends at their cap, for one that another listener uses too', async () => {
      await bench.backend('a', greet('a'), { maxConnections: 1 });
      const spec = await bench.listen({ queue });
      const mine = await waitingBehind(spec.name);
      expect(await nextText(mine)).toBe('a');
    });

    /** Takes the only place through another listener, waits at the first one, and frees the place. */
    async function waitingBehind(name: string) {
      const { local } = bench;
      bench.local = await bench.engine.addListener({ ...listenerSpec(), name: 'other' });
      const holder = await admitted();
      bench.local = local;
      const client = bench.dial();
      await eventually(() =>
        expect(bench.engine.listeners().find((listener) => listener.name === name)!.queuedConnections).toBe(
          1,
        ),
      );
      holder.resetAndDestroy();
      return client;
    }

    test('lets clients in when a cap is raised, or a backend comes up', async () => {
      await bench.backend('a', greet('a'), { maxConnections: 1 });
      const spec = await bench.listen({ maxConnections: 1, queue });
      await admitted();
      const next = await waiting();
      await bench.engine.updateListener({ ...spec, maxConnections: 2 });
      expect(bench.status().queuedConnections).toBe(1);
      await bench.backend('b', greet('b'));
      bench.publish();
      expect(await nextText(next)).toBe('b');
    });

    test('takes nobody when no backend is ready: that is refused at once', async () => {
      await bench.listen({ queue });
      expect(await howItEnds(bench.dial())).toBe('reset');
      expect(bench.closed('no-backend')).toBe(1);
    });

    test('ends with its listener, and with one connection that an operator closes', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen({ maxConnections: 1, queue });
      await admitted();
      const [one, two] = [await waiting(), await waiting()];
      const ends = [one, two].map(howItEnds);
      expect(bench.engine.closeConnection(2)).toBe(true);
      await eventually(() => expect(bench.closed('operator')).toBe(1));
      await bench.engine.removeListener('login');
      expect(await Promise.all(ends)).toEqual(['reset', 'reset']);
    });

    test('serves those who wait when the relay drains', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen({ maxConnections: 1, queue });
      const first = await admitted();
      const second = await waiting();
      await bench.engine.drain();
      first.resetAndDestroy();
      expect(await nextText(second)).toBe('a');
    });
  });

  test('a client that gives up in the queue takes no place', async () => {
    await bench.backend('a', greet('a'));
    await bench.listen({ maxConnections: 1, queue: { size: 3, timeoutMs: 60_000 } });
    const first = await admitted();
    (await waiting()).resetAndDestroy();
    // The epoll tells of it at once, node:net only when the client is read.
    if (transport === 'pump') {
      await eventually(() => expect(bench.status().queuedConnections).toBe(0));
      expect(bench.closed('client-reset')).toBe(1);
    }
    const patient = await waiting();
    first.resetAndDestroy();
    await once(patient, 'data');
    await eventually(() => expect(bench.status().liveConnections).toBe(1));
  });
});
