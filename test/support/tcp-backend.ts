/** Programs that stand behind a relay's TCP listener in end-to-end tests, each a process of its own, and what an echo must bring back. */
import { createHash, randomBytes } from 'node:crypto';
import { expect } from 'vitest';
import type { ManagedProcess } from '../../bench/process-group.ts';
import { Endpoint, IpAddress } from '../../net/address.ts';
import type { RelayProcess } from './relay-process.ts';
import type { Stage } from './stage.ts';
import type { TcpClient } from './tcp-client.ts';

const LISTEN = `server.listen(0, process.argv[1] ?? '127.0.0.1', () =>
  console.log(JSON.stringify({ event: 'ready', port: server.address().port })));`;

/** Sends back what it gets, its FIN after the client's, and tells of connections that were reset. */
export const ECHO = `
  const server = require('node:net').createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', ({ code }) => console.log(JSON.stringify({ event: 'reset', code })));
    socket.pipe(socket);
  });
  ${LISTEN}
`;

/** Reads to the client's FIN, and only then answers with the hash of what it read. */
export const DIGEST = `
  const server = require('node:net').createServer({ allowHalfOpen: true }, (socket) => {
    const hash = require('node:crypto').createHash('sha256');
    socket.on('data', (bytes) => hash.update(bytes)).on('end', () => socket.end(hash.digest('hex')));
  });
  ${LISTEN}
`;

/** Says who its client is. */
export const WHO = `
  const server = require('node:net').createServer((socket) => {
    socket.on('error', () => {}).end(socket.remoteAddress + ':' + socket.remotePort);
  });
  ${LISTEN}
`;

export interface TcpBackend {
  readonly id: string;
  readonly address: string;
  readonly process: ManagedProcess;
}

export async function startTcpBackend(
  stage: Stage,
  id: string,
  { program = ECHO, host = '127.0.0.1' } = {},
): Promise<TcpBackend> {
  const process = stage.start({ name: id, args: ['-e', program, host] });
  const { port } = await process.event('ready');
  return { id, address: new Endpoint(IpAddress.parse(host), port as number).toString(), process };
}

/** Bytes come back over the only connection, from a backend `echo`; it is listed with them, counted, and gone at its end. */
export async function expectEchoed(relay: RelayProcess, client: TcpClient, count: number): Promise<void> {
  const bytes = randomBytes(count);
  client.write(bytes);
  expect((await client.untilReceived(count)).equals(bytes)).toBe(true);
  const listed = { backend: 'echo', state: 'established', downstreamBytes: count, upstreamBytes: count };
  expect(await relay.connections()).toEqual([expect.objectContaining(listed)]);
  client.end();
  await client.untilOver();
  expect(client.failure).toBeUndefined();
  await relay.untilMetric('tcp_connections_closed_total', { reason: 'completed' }, 1);
  expect(await relay.connections()).toEqual([]);
  expect(await relay.metric('tcp_bytes_total')).toBe(2 * count);
}

/** 1 MiB with its half-close reaches a backend that sends the digest of what it got, and the answer still comes. */
export async function expectDigested(client: TcpClient): Promise<void> {
  const bytes = randomBytes(1024 * 1024);
  client.write(bytes);
  client.end();
  await client.untilOver();
  expect(client.received.toString()).toBe(createHash('sha256').update(bytes).digest('hex'));
  expect(client.failure).toBeUndefined();
}
