/** What is particular to sockets of node:net. */
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { reset } from '../../../relay/tcp/streams/stream-ends.ts';
import { benchOfEach, hold } from './tcp-bench.ts';

const bench = benchOfEach('streams');

test('a socket whose FIN is on its way can be given up without losing its descriptor', async () => {
  await bench.backend('a', hold);
  await bench.listen();
  const client = bench.dial();
  await once(client, 'connect');
  const errors: unknown[] = [];
  client.on('error', (error) => errors.push(error));
  client.end();
  // One tick later the system is asked to send the FIN; Node's own reset would now fail and leave the socket open.
  await new Promise<void>((resolve) => process.nextTick(resolve));
  reset(client);
  await once(client, 'close');
  expect(errors).toEqual([]);
});
