/** A TCP port for programs that can't be told to take any free one: it was free a moment ago. */
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { Endpoint } from '../net/address.ts';

export async function freeTcpPort(): Promise<Endpoint> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return Endpoint.parse(`127.0.0.1:${port}`);
}
