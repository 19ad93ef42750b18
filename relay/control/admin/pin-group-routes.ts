/** Pin groups: list them with their listeners, and say where a client's pin leads. */
import type { FastifyInstance } from 'fastify';
import { IpAddress } from '../../../net/address.ts';
import { pinGroupsOf } from '../pin-groups.ts';
import { Refusal } from '../refusal.ts';
import type { AdminContext } from './admin-context.ts';

export function pinGroupRoutes(app: FastifyInstance, { relay }: AdminContext): void {
  const groups = () => {
    const { listeners } = relay.config();
    return pinGroupsOf(listeners).map(({ name, pinTimeoutMs }) => ({
      name,
      pinTimeoutMs,
      listeners: listeners
        .filter(({ pinGroup }) => pinGroup === name)
        .map((listener) => ({ name: listener.name, protocol: listener.protocol, pool: listener.pool })),
    }));
  };

  app.get('/v1/pin-groups', () => ({ groups: groups() }));

  app.get<{ Params: { group: string; client: string } }>(
    '/v1/pin-groups/:group/pins/:client',
    async ({ params: { group, client } }) => {
      const found = groups().find(({ name }) => name === group);
      if (found === undefined)
        throw new Refusal(404, 'TICKRELAY_ERR_POOL', 'the relay has no such pin group');
      const { words } = IpAddress.parse(client);
      const pools = [...new Set(found.listeners.map(({ pool }) => pool))];
      const ask = async (pool: string) => [pool, await relay.pinnedBackend(group, pool, words)] as const;
      const asked = await Promise.all(pools.map(ask));
      return { group, client, backends: Object.fromEntries(asked.filter(([, id]) => id !== undefined)) };
    },
  );
}
