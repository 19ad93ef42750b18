/** The kernel engine on loopback, with its programs attached: in which order what belongs to a listener ends. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import { MAX_KERNEL_POOLS } from '../../relay/core/limits.ts';
import { ListenerTable } from '../../relay/engines/kernel/listener-table.ts';
import { Bed, ENGINES, RULES } from '../contract/engine-harness.ts';

const ENGINE = 'kernel, source client';
const unavailable = ENGINES[ENGINE]!.whyUnavailable();

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let bed: Bed;
  beforeEach(() => {
    bed = new Bed(ENGINE);
  });
  afterEach(async () => {
    vi.restoreAllMocks();
    await bed.stop();
  });

  /** A listener of its own for the pool. */
  const listenFor = (pool: string): Promise<Endpoint> =>
    bed.engine.addListener({ name: pool, listen: Endpoint.parse('127.0.0.1:0'), pool, ...RULES });

  test('a pool has its place until what is left of the listener that goes has ended', async () => {
    await bed.start(['a']);
    await bed.serversOf(bed.clients(3));
    for (let i = 1; i < MAX_KERNEL_POOLS; i++) {
      const pool = new BackendPool(`pool-${i}`);
      await bed.engine.publish(pool.snapshot());
      await listenFor(pool.name);
    }
    const removed = bed.engine.removeListener('game');
    expect(bed.engine.capacity().livePins).toBe(3);
    await expect(listenFor('one-more')).rejects.toMatchObject({ code: 'TICKRELAY_ERR_LIMIT' });
    await removed;
    expect(bed.engine.capacity()).toMatchObject({ liveSessions: 0, livePins: 0 });
    await listenFor('one-more');
  });

  test('the index of a listener that goes is free when its sessions and pins have ended', async () => {
    await bed.start(['a']);
    await bed.serversOf(bed.clients(3));
    const whenFreed: unknown[] = [];
    const free = vi.spyOn(ListenerTable.prototype, 'free');
    free.mockImplementation(() => void whenFreed.push(bed.engine.capacity()));
    await bed.engine.removeListener('game');
    expect(whenFreed).toMatchObject([{ liveSessions: 0, livePins: 0 }]);
  });
}
