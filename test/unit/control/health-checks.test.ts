import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import type { HealthCheckConfig } from '../../../relay/control/config.ts';
import { activeCheck, type HealthCheck } from '../../../relay/control/health-checks/health-check.ts';

const timing = { intervalMs: 1_000, timeoutMs: 500, rise: 2, fall: 3, connectFailures: 0 };
const checkOf = (config: HealthCheckConfig): HealthCheck => activeCheck(config)!;
const tcp = checkOf({ type: 'tcp', ...timing, port: undefined });
const http = checkOf({ type: 'http', ...timing, port: undefined, path: '/healthz', expectStatus: 200 });
const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'));
const udp = (expect = ''): HealthCheck =>
  checkOf({ type: 'udp', ...timing, port: undefined, payload: hex('cafe'), expect: hex(expect) });

const never = (): AbortSignal => new AbortController().signal;
const aborted = (): AbortSignal => AbortSignal.abort();

const openServer = async (server: Server, host: string): Promise<Endpoint> => {
  server.listen(0, host);
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  return endpointOf(server.address() as AddressInfo);
};

const endpointOf = ({ address, port }: AddressInfo): Endpoint =>
  Endpoint.parse(address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`);

/** An address on which nothing listens any more. */
const closedEndpoint = async (): Promise<Endpoint> => {
  const server = createServer();
  const endpoint = await openServer(server, '127.0.0.1');
  server.close();
  await once(server, 'close');
  return endpoint;
};

const answerHttp = (
  handler: (request: IncomingMessage, response: ServerResponse) => void,
  host = '127.0.0.1',
) => openServer(createHttpServer(handler), host);

const answerUdp = async (answer: string | undefined): Promise<{ endpoint: Endpoint; received: string[] }> => {
  const socket = createSocket('udp4');
  const received: string[] = [];
  socket.on('message', (message, from) => {
    received.push(message.toString('hex'));
    if (answer !== undefined) socket.send(Buffer.from(answer, 'hex'), from.port, from.address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  onTestFinished(() => void socket.close());
  return { endpoint: endpointOf(socket.address()), received };
};

test.each(['127.0.0.1', '::1'])(
  'tcp: a backend that accepts is well, and the connection is closed: %s',
  async (host) => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => sockets.push(socket.on('error', () => undefined)));
    const endpoint = await openServer(server, host);
    expect(await tcp(endpoint, never())).toBeUndefined();
    await vi.waitFor(() => expect(sockets.every((socket) => socket.destroyed)).toBe(true));
  },
);

test('tcp: a closed port fails with the reason', async () => {
  await expect(tcp(await closedEndpoint(), never())).rejects.toThrow('ECONNREFUSED');
});

test('tcp: another port can be asked', async () => {
  const endpoint = await openServer(
    createServer((socket) => socket.on('error', () => undefined)),
    '127.0.0.1',
  );
  const check = checkOf({ type: 'tcp', ...timing, port: endpoint.port });
  expect(await check(Endpoint.parse('127.0.0.1:1'), never())).toBeUndefined();
});

test.each(['127.0.0.1', '::1'])('http: the expected status is well: %s', async (host) => {
  const asked: string[] = [];
  const endpoint = await answerHttp((request, response) => {
    asked.push(`${request.method ?? ''} ${request.url ?? ''}`);
    response.end('ok');
  }, host);
  expect(await http(endpoint, never())).toBeUndefined();
  expect(asked).toEqual(['GET /healthz']);
});

test('http: another status fails and names both', async () => {
  const endpoint = await answerHttp((_request, response) => response.writeHead(503).end());
  expect(await http(endpoint, never())).toBe('status 503 instead of 200');
});

test('http: an endless body is not read, and the connection is closed', async () => {
  let isClosed = false;
  const endpoint = await answerHttp((_request, response) => {
    response.on('close', () => (isClosed = true));
    response.write('x'.repeat(1_000));
  });
  expect(await http(endpoint, never())).toBeUndefined();
  await vi.waitFor(() => expect(isClosed).toBe(true));
});

test('http: what is no HTTP fails', async () => {
  const server = createServer((socket) => socket.on('error', () => undefined).end('SSH-2.0-OpenSSH\r\n'));
  await expect(http(await openServer(server, '127.0.0.1'), never())).rejects.toThrow();
});

test('udp: any answer is well when none in particular is expected', async () => {
  const { endpoint, received } = await answerUdp('00');
  expect(await udp()(endpoint, never())).toBeUndefined();
  expect(received).toEqual(['cafe']);
});

test('udp: the answer must begin with the expected bytes', async () => {
  const { endpoint } = await answerUdp('ffffffff49aa');
  expect(await udp('ffffffff49')(endpoint, never())).toBeUndefined();
  expect(await udp('ffffffff50')(endpoint, never())).toBe(
    'the answer does not begin with the expected bytes',
  );
});

test('udp: an answer that is too short is not the expected one', async () => {
  const { endpoint } = await answerUdp('ff');
  expect(await udp('ffff')(endpoint, never())).toBe('the answer does not begin with the expected bytes');
});

test('udp: a closed port fails at once', async () => {
  await expect(udp()(await closedEndpoint(), never())).rejects.toThrow('ECONNREFUSED');
});

test('every check settles when its time is up', async () => {
  const silentServer = createServer((socket) => socket.on('error', () => undefined));
  const endpoint = await openServer(silentServer, '127.0.0.1');
  const { endpoint: silentUdp } = await answerUdp(undefined);
  const soon = (): AbortSignal => AbortSignal.timeout(50);
  await expect(http(endpoint, soon())).rejects.toThrow('abort');
  await expect(udp()(silentUdp, soon())).rejects.toThrow('abort');
  await expect(tcp(endpoint, aborted())).rejects.toThrow('abort');
});

test('the types none and heartbeat ask nobody', () => {
  expect(activeCheck({ type: 'none', ...timing })).toBeUndefined();
  expect(activeCheck({ type: 'heartbeat', ...timing })).toBeUndefined();
});
