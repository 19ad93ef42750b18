/**
 * A backend is well when it answers a datagram, with the expected first bytes if some are. The socket is connected, so
 * that only the backend's own answer counts and a closed port is known at once (ICMP port unreachable).
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import type { HealthCheck } from './health-check.ts';

export interface UdpCheckConfig {
  readonly port: number | undefined;
  readonly payload: Uint8Array;
  readonly expect: Uint8Array;
}

export function udpCheck({ port, payload, expect }: UdpCheckConfig): HealthCheck {
  return async (endpoint, signal) => {
    const socket = createSocket(endpoint.ip.isV4 ? 'udp4' : 'udp6');
    try {
      socket.connect(port ?? endpoint.port, endpoint.ip.toString());
      await once(socket, 'connect', { signal });
      socket.send(payload);
      const [answer] = (await once(socket, 'message', { signal })) as [Buffer];
      const isExpected = expect.every((byte, i) => answer[i] === byte);
      return isExpected ? undefined : 'the answer does not begin with the expected bytes';
    } finally {
      socket.on('error', () => undefined);
      socket.close();
    }
  };
}
