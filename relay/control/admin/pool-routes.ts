/** Pools and their backends: list them, drain, disable and enable them. */
import type { FastifyInstance } from 'fastify';
import { parseDurationMs } from '../../../net/duration.ts';
import { MAX_DURATION_MS } from '../config-schema.ts';
import type { PoolController } from '../pool-controller.ts';
import type { PoolView } from '../pool-view.ts';
import { Refusal } from '../refusal.ts';
import { sessionsOf } from '../sessions-of.ts';
import type { AdminContext, BackendParams } from './admin-context.ts';

const OPERATIONS = ['enable', 'disable'] as const;

/** `deadline` may be an array where it is given twice, which is no duration. */
type DrainQuery = Readonly<Record<string, string>>;

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

  app.post<{ Params: BackendParams; Querystring: DrainQuery }>(
    '/v1/pools/:pool/backends/:id/drain',
    async ({ params, query }) => {
      const pool = control.pool(params.pool);
      const view = pool.drain(params.id, readDeadline(query));
      await pool.obeyed();
      return view;
    },
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

/** @throws Refusal 400 */
function readDeadline({ deadline, ...others }: DrainQuery): number | undefined {
  const [stranger] = Object.keys(others);
  if (stranger !== undefined) {
    throw new Refusal(
      400,
      'TICKRELAY_ERR_ADDRESS',
      `"${stranger}" is not a parameter here; there is deadline`,
    );
  }
  if (deadline === undefined) return undefined;
  try {
    const deadlineMs = parseDurationMs(deadline);
    if (deadlineMs <= MAX_DURATION_MS) return deadlineMs;
  } catch {
    // As below.
  }
  const message = `deadline: "${deadline}" should be a duration with a unit, such as 30s or 5m, up to 24d`;
  throw new Refusal(400, 'TICKRELAY_ERR_ADDRESS', message);
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
