/** The PROXY protocol against the programs that operators have: HAProxy and nginx, before the relay and behind it. */
import { once } from 'node:events';
import { connect, type AddressInfo } from 'node:net';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { freeTcpPort } from '../../bench/free-port.ts';
import { haproxyConfig } from '../../bench/tcp/haproxy.ts';
import { nginxStreamConfig } from '../../bench/tcp/nginx-stream.ts';
import { untilAccepts } from '../../bench/tcp/tcp-routes.ts';
import type { Endpoint } from '../../net/address.ts';
import { haproxy, haproxyEcho, nginx, nginxEcho } from '../support/proxies.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const HTTP_REQUEST = 'GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n';
const TRUSTED = { accept: ['127.0.0.1/32'] };

function relayTo(backend: Endpoint, proxyProtocol: object): Promise<RelayProcess> {
  return stage.relay({
    listeners: [{ name: 'login', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', proxyProtocol }],
    pools: { logins: { healthCheck: { type: 'none' }, backends: [backend.toString()] } },
    admin: { listen: '127.0.0.1:0' },
  });
}

/** @returns why HAProxy can't be had, or undefined when it runs */
async function startHaproxy(config: string, listen: Endpoint): Promise<string | undefined> {
  const found = haproxy();
  if ('absent' in found) return found.absent;
  const args = ['-db', '-f', stage.writeFile('haproxy.cfg', config)];
  const child = stage.start({ name: 'haproxy', program: found.program, args });
  await untilAccepts(listen, () => child.exit !== undefined);
  return undefined;
}

/** @returns why nginx can't be had, or undefined when it runs */
async function startNginx(servers: string, listen: Endpoint): Promise<string | undefined> {
  const found = nginx();
  if ('absent' in found) return found.absent;
  const directory = join(stage.folder, 'nginx');
  mkdirSync(directory);
  const config = nginxStreamConfig({ directory, module: found.module, servers });
  const args = ['-p', directory, '-c', stage.writeFile('nginx.conf', config)];
  const child = stage.start({ name: 'nginx', program: found.program, args });
  await untilAccepts(listen, () => child.exit !== undefined);
  return undefined;
}

/** Connects from an address of its own, says something, and reads to the end. @returns who it was, and the last line */
async function ask(to: Endpoint, text: string): Promise<{ local: string; answer: string }> {
  const socket = connect({ host: to.ip.toString(), port: to.port, localAddress: '127.8.7.6' });
  stage.closing({ close: () => void socket.destroy() });
  await once(socket, 'connect');
  const { address, port } = socket.address() as AddressInfo;
  let answer = '';
  socket.on('data', (chunk: Buffer) => (answer += chunk.toString()));
  socket.write(text);
  await once(socket, 'end');
  return { local: `${address}:${port}`, answer: answer.trimEnd().split('\n').at(-1)! };
}

describe.each(['v1', 'v2'])('a backend that gets headers of version %s learns who the client is', (send) => {
  test('HAProxy', async ({ skip }) => {
    const echo = await freeTcpPort();
    const absent = await startHaproxy(haproxyConfig([], haproxyEcho(echo.toString())), echo);
    if (absent !== undefined) return skip(absent);
    const relay = await relayTo(echo, { send });
    const { local, answer } = await ask(relay.listener(), HTTP_REQUEST);
    expect(answer).toBe(`${local} ${relay.listener().toString()}`);
  });

  test('nginx', async ({ skip }) => {
    const echo = await freeTcpPort();
    const absent = await startNginx(nginxEcho(echo.toString()), echo);
    if (absent !== undefined) return skip(absent);
    const relay = await relayTo(echo, { send });
    const { local, answer } = await ask(relay.listener(), '');
    expect(answer).toBe(`${local} ${relay.listener().toString()}`);
  });
});

describe('the relay learns who the client is, and tells it on,', () => {
  test.for(['send-proxy', 'send-proxy-v2', 'send-proxy-v2 proxy-v2-options crc32c'])(
    'from HAProxy with %s',
    async (server, { skip }) => {
      const [front, echo] = [await freeTcpPort(), await freeTcpPort()];
      const relay = await relayTo(echo, { ...TRUSTED, send: 'v2' });
      const services = [{ listen: front, backends: [relay.listener()], server }];
      const absent = await startHaproxy(haproxyConfig(services, haproxyEcho(echo.toString())), front);
      if (absent !== undefined) return skip(absent);
      const { local, answer } = await ask(front, HTTP_REQUEST);
      expect(answer).toBe(`${local} ${front.toString()}`);
      expect(await relay.metric('tcp_connections_closed_total', { reason: 'bad-proxy-header' })).toBe(0);
    },
  );

  test('from nginx', async ({ skip }) => {
    const [front, echo] = [await freeTcpPort(), await freeTcpPort()];
    const relay = await relayTo(echo, { ...TRUSTED, send: 'v1' });
    const before = `
  server {
    listen ${front.toString()};
    proxy_pass ${relay.listener().toString()};
    proxy_protocol on;
  }`;
    const absent = await startNginx(`${before}${nginxEcho(echo.toString())}`, front);
    if (absent !== undefined) return skip(absent);
    const { local, answer } = await ask(front, '');
    expect(answer).toBe(`${local} ${front.toString()}`);
  });
});

test('a client of a trusted address without a header gets nothing through, and is counted', async ({
  skip,
}) => {
  const echo = await freeTcpPort();
  const absent = await startNginx(nginxEcho(echo.toString()), echo);
  if (absent !== undefined) return skip(absent);
  const relay = await relayTo(echo, { ...TRUSTED, send: 'v2' });
  const { ip, port } = relay.listener();
  const socket = connect({ host: ip.toString(), port });
  stage.closing({ close: () => void socket.destroy() });
  socket.write(HTTP_REQUEST);
  await expect(once(socket, 'end')).rejects.toThrow('ECONNRESET');
  await relay.untilMetric('tcp_connections_closed_total', { reason: 'bad-proxy-header' }, 1);
});
