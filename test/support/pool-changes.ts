/** What a model test does to a pool of backends, by name. */
import type { BackendPool } from '../../relay/core/backend-pool.ts';

export type PoolChange =
  'add' | 'remove' | 'unhealthy' | 'healthy' | 'drain' | 'undrain' | 'disable' | 'enable' | 'all down';

/** @param add adds the backend, which the pool does not have */
export function changePool(
  pool: BackendPool,
  { what, id, add }: { readonly what: PoolChange; readonly id: string; readonly add: () => void },
): void {
  if (what === 'add' && pool.get(id) === undefined) add();
  if (what === 'remove') pool.remove(id);
  if (what === 'unhealthy' || what === 'healthy') pool.setHealthy(id, what === 'healthy');
  if (what === 'drain' || what === 'undrain') pool.setDraining(id, what === 'drain');
  if (what === 'disable' || what === 'enable') pool.setEnabled(id, what === 'enable');
  if (what === 'all down') for (const each of pool.list()) pool.setHealthy(each.id, false);
}
