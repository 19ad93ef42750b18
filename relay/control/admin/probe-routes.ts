/** What machines ask every few seconds, without a token: is it alive, may it have traffic, how is it doing. */
import type { FastifyInstance } from 'fastify';
import type { AdminContext } from './admin-context.ts';

export function probeRoutes(app: FastifyInstance, { relay, control, metrics }: AdminContext): void {
  app.get('/livez', () => ({ alive: true }));

  // Pools without a ready backend are named, but do not count: a relay that was taken out of its service for want of
  // game servers could not be reached by the game servers that want to register.
  app.get('/readyz', async (_request, reply) => {
    const { ready, reasons } = relay.readiness();
    const poolsWithoutBackend = control
      .pools()
      .map((pool) => pool.view())
      .filter((pool) => pool.ready === 0)
      .map(({ name }) => name);
    return reply.code(ready ? 200 : 503).send({ ready, reasons, poolsWithoutBackend });
  });

  app.get('/metrics', async (_request, reply) =>
    reply.type(metrics.contentType).send(await metrics.scrape()),
  );
}
