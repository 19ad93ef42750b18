/** A backend is well when it answers a GET with the expected status. The body is not read. */
import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import type { HealthCheck } from './health-check.ts';

export interface HttpCheckConfig {
  readonly port: number | undefined;
  readonly path: string;
  readonly expectStatus: number;
}

export function httpCheck({ port, path, expectStatus }: HttpCheckConfig): HealthCheck {
  return async (endpoint, signal) => {
    const host = endpoint.ip.toString();
    const headers = { 'user-agent': 'tickrelay-health-check' };
    const request = get({ host, port: port ?? endpoint.port, path, headers, agent: false });
    try {
      const [response] = (await once(request, 'response', { signal })) as [IncomingMessage];
      return response.statusCode === expectStatus
        ? undefined
        : `status ${response.statusCode ?? 'unknown'} instead of ${expectStatus}`;
    } finally {
      request.on('error', () => undefined);
      request.destroy();
    }
  };
}
