/** Game servers join a pool, stay by repeating the same request, and leave. Guarded by the pool's token. */
import type { FastifyInstance } from 'fastify';
import { readRegistration } from '../registration-request.ts';
import { requireToken } from './access.ts';
import type { AdminContext, BackendParams } from './admin-context.ts';

const BACKEND = '/v1/pools/:pool/backends/:id';

export function registrationRoutes(app: FastifyInstance, { relay, control }: AdminContext): void {
  app.addHook<{ Params: BackendParams }>('onRequest', (request, _reply, done) => {
    const { registration } = control.pool(request.params.pool).config;
    requireToken(request, registration?.token ?? relay.config().admin?.token);
    done();
  });

  // Wherever a registration was refused, here it is counted: token, body, target or pool.
  app.addHook<{ Params: BackendParams }>('onResponse', ({ method, params }, { statusCode }, done) => {
    const isRefused = method === 'PUT' && statusCode >= 400 && statusCode < 500;
    if (isRefused)
      control
        .pools()
        .find(({ config }) => config.name === params.pool)
        ?.countRefusal();
    done();
  });

  app.put<{ Params: BackendParams }>(BACKEND, async ({ params, body }) => {
    const pool = control.pool(params.pool);
    pool.register(params.id, readRegistration(body));
    await pool.obeyed();
    return pool.backend(params.id);
  });

  app.delete<{ Params: BackendParams }>(BACKEND, async ({ params }, reply) => {
    const pool = control.pool(params.pool);
    pool.leave(params.id);
    await pool.obeyed();
    return reply.code(204).send();
  });
}
