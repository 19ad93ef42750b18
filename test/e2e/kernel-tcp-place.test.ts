/** Which TCP listeners are in the kernel and which in user space, when the configuration leaves it to the relay. */
import { expect } from 'vitest';
import { expectEcho, kernelTcpTest as test } from '../support/kernel-tcp-stage.ts';
import type { TcpClient } from '../support/tcp-client.ts';

test('a listener that asks for what only user space has, or can do, stays there, and says why; the other goes on in the kernel', async ({
  stage,
}) => {
  const echo = await stage.backend('echo');
  const backends = [echo.address];
  const relay = await stage.relay({
    ...stage.config([echo]),
    engine: 'auto',
    listeners: [
      { name: 'plain', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'own' },
      { name: 'waits', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', queue: { size: 5 } },
      { name: 'named', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', engine: 'userspace' },
      { name: 'both', protocol: 'tcp', listen: '[::]:0', pool: 'logins' },
      { name: 'outside', protocol: 'tcp', listen: '0.0.0.0:0', pool: 'logins' },
    ],
    pools: Object.fromEntries(
      ['own', 'logins'].map((name) => [name, { healthCheck: { type: 'none' }, backends }]),
    ),
  });
  for (const name of ['plain', 'waits', 'named', 'both', 'outside'])
    await expectEcho(await stage.client(relay, name), 'hello');
  const rows = await relay.connections();
  const inKernel = rows.filter(({ id }) => id >= 1e12).map(({ listener }) => listener);
  expect(inKernel).toEqual(['plain']);
  const everywhere = ['both', 'named', 'outside', 'plain', 'waits'];
  expect(rows.map(({ listener }) => listener).sort()).toEqual(everywhere);
  for (const reason of [
    'queue.size: a connection that waits is held by a socket',
    'takes clients with IPv4 and IPv6',
    'Linux routes nothing from outside to loopback',
  ])
    expect(relay.process.stderr).toContain(reason);
});

test('listeners of one pool are together, so that a backend’s cap is one for both', async ({ stage }) => {
  const echo = await stage.backend('echo');
  const queue = { size: 1, timeout: '1s' };
  const both = (second: object): object => ({
    ...stage.config([echo]),
    listeners: [
      { name: 'waits', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', queue },
      { name: 'plain', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', ...second },
    ],
    pools: {
      logins: {
        healthCheck: { type: 'none' },
        backends: [{ id: 'echo', address: echo.address, maxConnections: 3 }],
      },
    },
  });
  const relay = await stage.relay(both({}));
  expect(relay.process.stderr).toContain(
    'its pool\'s connections are counted in user space, where listener \\"waits\\" is',
  );
  const open = (name: string): Promise<TcpClient> => stage.client(relay, name);
  for (const name of ['waits', 'plain', 'plain']) await expectEcho(await open(name), 'in');
  // The reset may come before or after the client has heard that it is connected.
  const end = open('plain').then(
    async (refused) => {
      await refused.untilOver();
      return refused.failure;
    },
    (error: unknown) => (error as NodeJS.ErrnoException).code,
  );
  expect(await end).toBe('ECONNRESET');
  // Where both are meant to be where they are, each counts for itself.
  relay.writeConfig(both({ engine: 'kernel' }));
  expect(await relay.reload()).toBe(true);
  expect((await relay.connections()).map(({ listener }) => listener)).toEqual(['waits']);
  for (let i = 0; i < 3; i++) await expectEcho(await open('plain'), 'in');
});
