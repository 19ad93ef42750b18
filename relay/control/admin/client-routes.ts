/** Live UDP sessions and TCP connections: list them, and end a connection. */
import type { FastifyInstance } from 'fastify';
import { Endpoint } from '../../../net/address.ts';
import { suggestion } from '../config-problems.ts';
import { Refusal } from '../refusal.ts';
import type { ClientQuery } from '../relay-view.ts';
import type { AdminContext } from './admin-context.ts';

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 10_000;
const KEYS = ['limit', 'listener', 'backend', 'client'] as const;

type QueryString = Readonly<Record<string, string | readonly string[]>>;

export function clientRoutes(app: FastifyInstance, { relay }: AdminContext): void {
  app.get<{ Querystring: QueryString }>('/v1/sessions', ({ query }) => relay.sessions(readQuery(query)));

  app.get<{ Querystring: QueryString }>('/v1/connections', ({ query }) =>
    relay.connections(readQuery(query)),
  );

  app.delete<{ Params: { listener: string; client: string } }>(
    '/v1/sessions/:listener/:client',
    async ({ params: { listener, client } }, reply) => {
      if (!relay.endSession(listener, Endpoint.parse(client))) {
        throw new Refusal(404, 'TICKRELAY_ERR_POOL', 'the relay has no such session');
      }
      return reply.code(204).send();
    },
  );

  app.delete<{ Params: { id: string } }>('/v1/connections/:id', async ({ params: { id } }, reply) => {
    if (!/^\d{1,15}$/.test(id) || !(await relay.closeConnection(Number(id)))) {
      throw new Refusal(404, 'TICKRELAY_ERR_POOL', 'the relay has no such connection');
    }
    return reply.code(204).send();
  });
}

/** @throws Refusal 400 */
function readQuery(query: QueryString): ClientQuery {
  for (const [key, value] of Object.entries(query)) {
    if (!(KEYS as readonly string[]).includes(key)) {
      refuse(`"${key}" is not a parameter here; they are ${KEYS.join(', ')}${suggestion(key, KEYS)}`);
    }
    if (typeof value !== 'string') refuse(`${key} is given more than once`);
  }
  const {
    limit = String(DEFAULT_LIMIT),
    listener,
    backend,
    client,
  } = query as Readonly<Record<string, string>>;
  if (!/^\d{1,6}$/.test(limit) || Number(limit) > MAX_LIMIT) {
    refuse(`limit: "${limit}" should be a whole number from 0 to ${MAX_LIMIT}`);
  }
  return {
    limit: Number(limit),
    ...(listener === undefined ? {} : { listener }),
    ...(backend === undefined ? {} : { backend }),
    ...(client === undefined ? {} : { clientIp: client }),
  };
}

function refuse(message: string): never {
  throw new Refusal(400, 'TICKRELAY_ERR_ADDRESS', message);
}
