/** What arrives at the admin address over real connections, whole or not. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { expect, onTestFinished, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { createRig } from './control-rig.ts';

const LOCAL = Endpoint.parse('127.0.0.1:0');

/** Connects to an admin server that gives requests half a second. */
async function client(): Promise<Socket> {
  const rig = createRig();
  const { ip, port } = await rig.server.listen(LOCAL);
  const socket = connect(port, ip.toString());
  onTestFinished(() => void socket.destroy());
  await once(socket, 'connect');
  return socket;
}

test.each([
  ['half a head', 'GET /livez HTTP/1.1\r\nHost: x\r\n'],
  [
    'half a body',
    'PUT /v1/config HTTP/1.1\r\nHost: x\r\nContent-Type: application/yaml\r\nContent-Length: 10\r\n\r\nabc',
  ],
])('a request that does not arrive whole is answered and cut: %s', async (_name, half) => {
  const socket = await client();
  socket.write(half);
  const answer = await text(socket);
  expect(answer).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n/);
  expect(JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')))).toMatchObject({
    code: 'TICKRELAY_ERR_REQUEST',
    message: 'the request took too long to arrive',
  });
});

test.each([
  ['no HTTP', 'hello\r\n\r\n', 400, 'is not HTTP'],
  [
    'two lengths',
    'GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    400,
    'is not HTTP',
  ],
  [
    'a head without end',
    `GET /livez HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`,
    431,
    'has too large a head',
  ],
])('what is malformed is refused with a code: %s', async (_name, request, status, message) => {
  const socket = await client();
  socket.write(request);
  const answer = await text(socket);
  expect(answer.startsWith(`HTTP/1.1 ${status} `)).toBe(true);
  expect(answer).toContain(`"code":"TICKRELAY_ERR_REQUEST","message":"the request ${message}"`);
});

test('a request without a Host is answered', async () => {
  const socket = await client();
  socket.write('GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n');
  expect(await text(socket)).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
});
