/** The stub login service over TCP, with its accounts in this process and with a store that fails. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { logIn } from '../../../botclient/login.ts';
import { authenticate, MemoryAccounts, type Accounts } from '../../../gameserver/accounts.ts';
import { LoginService } from '../../../gameserver/login-service.ts';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { stubCredentials } from '../../../wire/login.ts';

const ANY = Endpoint.parse('127.0.0.1:0');
const LOCAL = IpAddress.parse('127.0.0.1');

async function open(accounts: Accounts, timeoutMs?: number): Promise<LoginService> {
  const service = await LoginService.open({
    listen: ANY,
    accounts,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
  onTestFinished(() => service.close());
  return service;
}

function dial({ local }: LoginService): Socket {
  const socket = connect({ host: local.ip.toString(), port: local.port });
  socket.on('error', () => undefined);
  onTestFinished(() => void socket.destroy());
  return socket;
}

async function ask(service: LoginService, text: string | Buffer): Promise<string> {
  const socket = dial(service);
  let answer = '';
  socket.on('data', (chunk: Buffer) => (answer += chunk.toString()));
  socket.write(text);
  await once(socket, 'close');
  return answer;
}

const attempts = (...indices: number[]) =>
  indices.map((index) => ({ credentials: stubCredentials(index), address: LOCAL }));

test('a player with the right password learns its id; others do not', async () => {
  const accounts = await MemoryAccounts.create(5);
  const { name, password } = stubCredentials(3);
  expect(await authenticate(accounts, { name, password })).toBe(3);
  expect(await authenticate(accounts, { name, password: 'secret-4' })).toBeUndefined();
  expect(await authenticate(accounts, { name: 'nobody', password })).toBeUndefined();
});

test('many players log in at once and get their ids in order', async () => {
  const service = await open(await MemoryAccounts.create(60));
  const ids = await logIn(service.local, attempts(...Array(60).keys()));
  expect(ids).toEqual([...Array(60).keys()]);
  expect(service.counts).toEqual({ welcomed: 60, denied: 0, unavailable: 0, malformed: 0 });
});

test('a player who is not let in is named', async () => {
  const service = await open(await MemoryAccounts.create(1));
  await expect(logIn(service.local, attempts(0, 9))).rejects.toMatchObject({
    code: 'TICKRELAY_ERR_LOGIN',
    message: expect.stringContaining('does not let "player-9" in') as string,
  });
  // Whether the other one was welcomed before the first refusal ended both is their race.
  expect(service.counts).toMatchObject({ denied: 1 });
});

test('a store that can not be asked is no reason to let anybody in', async () => {
  const service = await open({
    find: () => Promise.reject(new Error('no database')),
    close: () => Promise.resolve(),
  });
  await expect(logIn(service.local, attempts(0))).rejects.toMatchObject({
    code: 'TICKRELAY_ERR_LOGIN',
    message: expect.stringContaining("its accounts can't be reached") as string,
  });
  expect(service.counts).toMatchObject({ unavailable: 1 });
});

test.each([
  ['another protocol', 'GET / HTTP/1.1\r\n\r\n'],
  ['a line that is too long', `LOGIN a ${'b'.repeat(200)}\n`],
  ['a line without an end', 'x'.repeat(128)],
  ['bytes', Buffer.from([0, 255, 10])],
])('no login is cut off and counted: %s', async (_what, text) => {
  const service = await open(await MemoryAccounts.create(1));
  expect(await ask(service, text)).toBe('');
  expect(service.counts).toEqual({ welcomed: 0, denied: 0, unavailable: 0, malformed: 1 });
});

test('a client that says nothing is cut off in time', async () => {
  const service = await open(await MemoryAccounts.create(1), 30);
  expect(await ask(service, 'LOG')).toBe('');
  expect(service.counts.malformed).toBe(1);
});

test('a service that is not there is unreachable', async () => {
  const service = await LoginService.open({ listen: ANY, accounts: await MemoryAccounts.create(1) });
  await service.close();
  await expect(logIn(service.local, attempts(0))).rejects.toMatchObject({
    code: 'TICKRELAY_ERR_UNREACHABLE',
  });
});

test('an address that is taken is an error that names it', async () => {
  const accounts = await MemoryAccounts.create(0);
  const { local } = await open(accounts);
  await expect(LoginService.open({ listen: local, accounts })).rejects.toMatchObject({
    code: 'TICKRELAY_ERR_BIND',
    message: expect.stringContaining(`can't bind TCP ${local.toString()}`) as string,
  });
});
