/** TCP over node:net: the portable way. */
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import {
  BACKLOG,
  type AcceptedClient,
  type Acceptor,
  type ListenOptions,
  type TcpTransport,
} from '../transport.ts';
import { reset, STREAM_HIGH_WATER_BYTES } from './stream-ends.ts';
import { StreamLink } from './stream-link.ts';

export class StreamTransport implements TcpTransport {
  readonly name = 'streams';

  async listen(options: ListenOptions): Promise<Acceptor> {
    const { ip, port } = options.listen;
    const server = createServer({
      allowHalfOpen: true,
      pauseOnConnect: true,
      noDelay: true,
      highWaterMark: STREAM_HIGH_WATER_BYTES,
    });
    server.listen({ host: ip.toString(), port, backlog: BACKLOG });
    await once(server, 'listening');
    return new StreamAcceptor(server, options);
  }

  after(delayMs: number, run: () => void): () => void {
    const timer = setTimeout(run, delayMs);
    return () => clearTimeout(timer);
  }
}

class StreamAcceptor implements Acceptor {
  readonly port: number;
  readonly #server: Server;
  #keepAliveMs: number;

  constructor(server: Server, { keepAliveMs, onAccept, onError }: ListenOptions) {
    this.#server = server;
    this.#keepAliveMs = keepAliveMs;
    this.port = (server.address() as AddressInfo).port;
    server.on('connection', (socket) => onAccept(this.#accepted(socket)));
    server.on('error', onError);
  }

  setKeepAlive(keepAliveMs: number): void {
    this.#keepAliveMs = keepAliveMs;
  }

  close(): Promise<unknown> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    return closed;
  }

  #accepted(socket: Socket): AcceptedClient {
    const { remoteAddress, remotePort } = socket;
    const keepAliveMs = this.#keepAliveMs;
    return {
      address:
        remoteAddress === undefined ? undefined : new Endpoint(IpAddress.parse(remoteAddress), remotePort!),
      refuse: () => {
        socket.on('error', () => undefined);
        reset(socket);
      },
      open: (options) => {
        socket.setKeepAlive(keepAliveMs > 0, keepAliveMs);
        return new StreamLink(socket, options);
      },
    };
  }
}
