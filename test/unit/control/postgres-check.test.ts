/** The check `postgres` against scripted answers; test/e2e/postgresql.test.ts has it against real servers. */
import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { postgresCheck } from '../../../relay/control/health-checks/postgres-check.ts';

const SSL_REQUEST = '0000000804d2162f';
const check = postgresCheck({
  port: undefined,
  user: undefined,
  password: undefined,
  database: 'postgres',
  role: 'any',
});

/** A server that answers each message of the check with the next of `answers`, in hex. */
async function scripted(
  ...answers: string[]
): Promise<{ endpoint: Endpoint; received: string[]; open: Set<Socket> }> {
  const received: string[] = [];
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    const left = [...answers];
    socket.on('error', () => undefined).on('close', () => open.delete(socket));
    socket.on('data', (chunk: Buffer) => {
      received.push(chunk.toString('hex'));
      const answer = left.shift();
      if (answer === 'end') socket.end();
      else if (answer !== undefined) socket.write(Buffer.from(answer, 'hex'));
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return { endpoint: Endpoint.parse(`127.0.0.1:${(server.address() as AddressInfo).port}`), received, open };
}

const ask = (endpoint: Endpoint, timeoutMs = 10_000): Promise<string | undefined> =>
  check(endpoint, AbortSignal.timeout(timeoutMs));

/** An ErrorResponse with these fields. */
function errorResponse(...fields: string[]): string {
  const body = Buffer.from(`${fields.map((field) => `${field}\0`).join('')}\0`);
  const length = Buffer.alloc(4);
  length.writeInt32BE(body.length + 4);
  return `45${length.toString('hex')}${body.toString('hex')}`;
}

test('a server that asks for a password is well; it was asked for TLS and for a connection, and nothing is left open', async () => {
  const { endpoint, received, open } = await scripted('4e', '520000000800000003');
  expect(await ask(endpoint)).toBeUndefined();
  expect(received[0]).toBe(SSL_REQUEST);
  // int32 length, int32 196608, then user, database and application_name
  expect(received[1]).toMatch(/^0000004500030000/);
  expect(Buffer.from(received[1]!, 'hex').toString('latin1', 8)).toBe(
    'user\0tickrelay\0database\0postgres\0application_name\0tickrelay\0\0',
  );
  expect(received[1]).toHaveLength(2 * 0x45);
  await expect.poll(() => open.size).toBe(0);
});

test('a server that offers TLS is spoken to through TLS', async () => {
  const { endpoint, received } = await scripted('53', 'end');
  await expect(ask(endpoint)).rejects.toThrow();
  // RFC 8446 section 5.1: a record of type 22 (handshake), version 3.x, length; in it a ClientHello (1)
  expect(received[1]).toMatch(/^1603[0-9a-f]{2}[0-9a-f]{4}01/);
});

test.each([
  ['the account does not exist', errorResponse('SFATAL', 'C28000', 'Mrole "tickrelay" does not exist')],
  ['every connection is taken', errorResponse('SFATAL', 'C53300', 'Msorry, too many clients already')],
])('a server that refuses this client only is well: %s', async (_what, answer) => {
  const { endpoint } = await scripted('4e', answer);
  expect(await ask(endpoint)).toBeUndefined();
});

test.each(['starting up', 'shutting down', 'in recovery mode'])(
  'a server that is %s is not well',
  async (what) => {
    const text = `the database system is ${what}`;
    const { endpoint } = await scripted('4e', errorResponse('SFATAL', 'VFATAL', 'C57P03', `M${text}`));
    expect(await ask(endpoint)).toBe(`${text} (57P03)`);
  },
);

test.each([
  ['HTTP', '485454502f312e31203430302042616420526571756573740d0a'],
  ['a message of an unknown type', '4e58'],
])('another protocol is not well: %s', async (_what, answer) => {
  const { endpoint } = await scripted(answer, '58000000080000000000');
  expect(await ask(endpoint)).toBe('the answer is not PostgreSQL');
});

test('an answer of an absurd length is not well, and not waited for', async () => {
  const { endpoint } = await scripted('4e', '457fffffff');
  expect(await ask(endpoint)).toBe('the answer is not PostgreSQL');
});

test('a server that ends without an answer, or gives none, is not well', async () => {
  const { endpoint } = await scripted('end');
  await expect(ask(endpoint)).rejects.toThrow('the connection ended without an answer');
  const silent = await scripted();
  await expect(ask(silent.endpoint, 30)).rejects.toThrow();
  const half = await scripted('4e', '5200');
  await expect(ask(half.endpoint, 50)).rejects.toThrow();
  await expect.poll(() => silent.open.size + half.open.size).toBe(0);
});

test('a closed port is not well, whether or not a role is asked for', async () => {
  const { endpoint } = await scripted();
  const closed = new Endpoint(endpoint.ip, 1);
  await expect(ask(closed)).rejects.toThrow('ECONNREFUSED');
  const role = postgresCheck({ port: 1, user: 'x', password: undefined, database: 'x', role: 'primary' });
  expect(await role(endpoint, AbortSignal.timeout(10_000))).toContain('ECONNREFUSED');
});

test('a role is not waited for longer than the time limit', async () => {
  const { endpoint, open } = await scripted();
  const role = postgresCheck({ port: undefined, user: 'x', password: 'x', database: 'x', role: 'replica' });
  await expect(role(endpoint, AbortSignal.timeout(30))).rejects.toThrow();
  await expect(role(endpoint, AbortSignal.abort())).rejects.toThrow();
  await expect.poll(() => open.size).toBe(0);
});
