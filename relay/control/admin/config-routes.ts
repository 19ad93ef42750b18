/** The running configuration: show it with every default, or replace it. */
import type { FastifyInstance } from 'fastify';
import { describeConfig } from '../config-format.ts';
import type { AdminContext } from './admin-context.ts';

/** The largest configuration in a request. */
const MAX_CONFIG_BYTES = 1024 * 1024;

export function configRoutes(app: FastifyInstance, { relay, reloader }: AdminContext): void {
  // YAML has no one media type, and JSON is YAML: whatever comes is read as text.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'string', bodyLimit: MAX_CONFIG_BYTES }, (_request, body, done) =>
    done(null, body),
  );

  app.get('/v1/config', () => describeConfig(relay.config()));

  app.put<{ Body: string | undefined }>('/v1/config', { bodyLimit: MAX_CONFIG_BYTES }, async ({ body }) => {
    const text = body === undefined || body.trim() === '' ? undefined : body;
    return { applied: true, warnings: await reloader.reload(text) };
  });
}
