/** A backend is well when it accepts a TCP connection, which is reset at once and leaves no TIME_WAIT behind. */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { HealthCheck } from './health-check.ts';

export function tcpCheck({ port }: { readonly port: number | undefined }): HealthCheck {
  return async (endpoint, signal) => {
    const socket = connect({ host: endpoint.ip.toString(), port: port ?? endpoint.port });
    try {
      await once(socket, 'connect', { signal });
      return undefined;
    } finally {
      socket.on('error', () => undefined);
      // A reset of a socket that is still connecting would wait for the connection.
      if (socket.connecting) socket.destroy();
      else socket.resetAndDestroy();
    }
  };
}
