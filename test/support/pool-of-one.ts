/** The smallest pool that can serve anybody, for tests that are about something else. */
import type { Endpoint } from '../../net/address.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';

/** A pool with one backend, `a`, which is ready. */
export function poolOfOne(name: string, endpoint: Endpoint): BackendPool {
  const pool = new BackendPool(name);
  pool.add({ id: 'a', endpoint, weight: 1 });
  return pool;
}
