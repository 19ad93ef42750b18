/** Pools and their backends: list them, drain, disable and enable them. */
import type { FastifyInstance } from 'fastify';
import type { PoolController } from '../pool-controller.ts';
import type { PoolView } from '../pool-view.ts';
import { sessionsOf } from '../sessions-of.ts';
import type { AdminContext, BackendParams } from './admin-context.ts';

const OPERATIONS = ['drain', 'enable', 'disable'] as const;

export function poolRoutes(app: FastifyInstance, { relay, control }: AdminContext): void {
  const describe = (pools: readonly PoolController[]): object[] => {
    const sessions = sessionsOf(relay.udpListeners(), relay.tcpListeners());
    return pools.map((pool) => withSessions(pool.view(), sessions.get(pool.config.name)));
  };

  app.get('/v1/pools', () => ({ pools: describe(control.pools()) }));

  app.get<{ Params: BackendParams }>(
    '/v1/pools/:pool',
    ({ params }) => describe([control.pool(params.pool)])[0],
  );

  for (const operation of OPERATIONS) {
    app.post<{ Params: BackendParams }>(`/v1/pools/:pool/backends/:id/${operation}`, async ({ params }) => {
      const pool = control.pool(params.pool);
      const view = pool[operation](params.id);
      await pool.obeyed();
      return view;
    });
  }
}

function withSessions(
  { backends, ...pool }: PoolView,
  sessions: ReadonlyMap<string, number> | undefined,
): object {
  return {
    ...pool,
    backends: backends.map((backend) => ({ ...backend, sessions: sessions?.get(backend.id) ?? 0 })),
  };
}
