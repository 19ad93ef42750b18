/** What a TCP listener of a pin group does with the answer of whoever keeps the pins, and when it lets a pin go. */
import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import { formatWords } from '../../../net/address.ts';
import type { PinRequest } from '../../../relay/core/pin-group.ts';
import { echo, eventually, greet, howItEnds, nextText, benchOfEach, TRANSPORTS_HERE } from './tcp-bench.ts';

/** Answers a request when the test says so, or at once. */
class PinDesk {
  readonly asked: PinRequest[] = [];
  /** Holds by client. */
  readonly holds = new Map<string, number>();
  /** Backend id by client. */
  readonly pins = new Map<string, string>();
  /** Set: requests wait for its end. */
  pause: Promise<void> | undefined;

  readonly request = async (request: PinRequest): Promise<string | undefined> => {
    this.asked.push(request);
    await this.pause;
    const client = formatWords(request.client, 0);
    const id = this.pins.get(client) ?? request.proposal;
    if (id !== undefined && request.hold) this.holds.set(client, (this.holds.get(client) ?? 0) + 1);
    return id;
  };

  readonly letGo = (group: string, client: Uint32Array): void => {
    expect(group).toBe('players');
    const ip = formatWords(client, 0);
    this.holds.set(ip, this.holds.get(ip)! - 1);
  };
}

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  const GROUPED = { pinGroup: 'players' };
  const ALICE = '127.0.0.2';

  let desk: PinDesk;
  // Before the bench's own, so that it runs after it.
  afterEach(() => expect([...desk.holds.values()].filter((held) => held !== 0)).toEqual([]));
  const bench = benchOfEach(transport, () => ({ pins: (desk = new PinDesk()) }));

  const dial = () => bench.dial({ localAddress: ALICE });

  function paused(): () => void {
    let goOn: () => void = () => undefined;
    desk.pause = new Promise((resolve) => (goOn = resolve));
    return () => {
      desk.pause = undefined;
      goOn();
    };
  }

  test('the pin decides where connections go, and is held while they live', async () => {
    for (const id of ['a', 'b', 'c']) await bench.backend(id, greet(id));
    await bench.listen(GROUPED);
    desk.pins.set(ALICE, 'b');
    const clients = [dial(), dial(), dial()];
    for (const client of clients) expect(await nextText(client)).toBe('b');
    expect(bench.liveByBackend()).toEqual({ b: 3 });
    expect(desk.holds.get(ALICE)).toBe(3);
    // Those that are let go no longer count towards the backends that were chosen first.
    for (const client of clients) client.resetAndDestroy();
    await eventually(() => expect([bench.status().liveConnections, desk.holds.get(ALICE)]).toEqual([0, 0]));
  });

  test('without a group nobody asks', async () => {
    await bench.backend('a', greet('a'));
    await bench.listen();
    await nextText(dial());
    expect(desk.asked).toEqual([]);
  });

  test('a pinned backend that drains is followed, also where nobody is ready; one that failed is not', async () => {
    for (const id of ['a', 'b']) await bench.backend(id, greet(id));
    await bench.listen(GROUPED);
    for (const id of ['a', 'b']) bench.pool.setDraining(id, true);
    bench.publish();
    desk.pins.set(ALICE, 'b');
    expect(await nextText(dial())).toBe('b');
    expect(desk.asked.at(-1)?.proposal).toBeUndefined();
    expect(await howItEnds(bench.dial({ localAddress: '127.0.0.3' }))).toBe('reset');
    await eventually(() => expect(bench.closed('no-backend')).toBe(1));
    bench.pool.setDraining('a', false);
    bench.pool.setHealthy('b', false);
    bench.publish();
    expect(await nextText(dial())).toBe('a');
  });

  test('a pinned backend that has its cap is passed over', async () => {
    await bench.backend('a', greet('a'));
    await bench.backend('b', greet('b'), { maxConnections: 1 });
    await bench.listen(GROUPED);
    desk.pins.set(ALICE, 'b');
    expect([await nextText(dial()), await nextText(dial())]).toEqual(['b', 'a']);
  });

  test('who comes while others ask meets the limits as they will be', async () => {
    await bench.backend('a', greet('a'));
    await bench.listen({ ...GROUPED, maxConnections: 2 });
    const goOn = paused();
    const clients = [dial(), dial()];
    await eventually(() => expect(desk.asked).toHaveLength(2));
    expect(await howItEnds(dial())).toBe('reset');
    expect(bench.closed('connection-limit')).toBe(1);
    goOn();
    for (const client of clients) expect(await nextText(client)).toBe('a');
  });

  test('who finds every backend at its cap asks first, then waits, and is let in', async () => {
    await bench.backend('a', greet('a'), { maxConnections: 1 });
    await bench.listen({ ...GROUPED, queue: { size: 1, timeoutMs: 60_000 } });
    const first = dial();
    await nextText(first);
    const second = dial();
    await eventually(() => expect(bench.status().queuedConnections).toBe(1));
    expect(await howItEnds(dial())).toBe('reset');
    await eventually(() => expect(bench.closed('backend-connection-limit')).toBe(1));
    first.resetAndDestroy();
    expect(await nextText(second)).toBe('a');
    expect(desk.holds.get(ALICE)).toBe(1);
  });

  test.each(['the operator ends it', 'the listener goes', 'its backend fails'])(
    'what happens while a connection asks is obeyed: %s',
    async (what) => {
      for (const id of ['a', 'b']) await bench.backend(id, greet(id));
      await bench.listen({ ...GROUPED, algorithm: 'ip-hash' });
      const goOn = paused();
      const client = dial();
      await once(client, 'connect');
      await eventually(() => expect(desk.asked).toHaveLength(1));
      const proposal = desk.asked[0]!.proposal!;
      const ended = what === 'its backend fails' ? undefined : howItEnds(client);
      const { id } = bench.engine.connections({ limit: 1 }).connections[0]!;
      let gone: Promise<void> | undefined;
      if (what === 'the operator ends it') bench.engine.closeConnection(id);
      else if (what === 'the listener goes') gone = bench.engine.removeListener('login');
      else {
        bench.pool.setHealthy(proposal, false);
        bench.publish();
      }
      goOn();
      if (ended === undefined) expect(await nextText(client)).toBe(proposal === 'a' ? 'b' : 'a');
      else expect(await ended).toBe('reset');
      await gone;
      const others = bench.engine.connections({ limit: 1, backend: proposal });
      await eventually(() => expect(others.total).toBe(0));
    },
  );

  test('a retry says which backend could not be reached, and holds no second time', async () => {
    await bench.deadBackend('dead');
    await bench.backend('a', echo);
    await bench.listen(GROUPED);
    desk.pins.set(ALICE, 'dead');
    const client = dial();
    client.write('x');
    expect(await nextText(client)).toBe('x');
    expect(desk.asked.at(-1)).toMatchObject({ proposal: 'a', instead: 'dead', hold: false });
    expect(desk.holds.get(ALICE)).toBe(1);
  });
});
