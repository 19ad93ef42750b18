/** Listeners on wildcard addresses of a machine with several addresses and links, in a network of this file's own. */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import { Bed, ENGINES, SOCKETLESS_ENGINES } from './engine-harness.ts';

/** Two links, each between an end of the relay and an end of a client, with the same link-local addresses on both. */
const missing = enterOwnNetwork([
  ...['10.7.0.1/32', '10.7.0.2/32', 'fd00:7::1/128', 'fd00:7::2/128'].map(
    (address) => `address add ${address} dev lo`,
  ),
  ...['one', 'two'].flatMap((link) => [
    `link add ${link}-relay type veth peer name ${link}-client`,
    ...['relay', 'client'].flatMap((end) => [
      `link set ${link}-${end} addrgenmode none`,
      `link set ${link}-${end} up`,
      `address add fe80::${end === 'relay' ? 'a' : 'b'}/64 dev ${link}-${end} nodad`,
    ]),
  ]),
]);

describe.each(Object.keys(ENGINES))('engine %s', (engineName) => {
  const reason = ENGINES[engineName]!.whyUnavailable() ?? missing;
  if (reason !== undefined) {
    test.skip(`skipped: ${reason}`, () => undefined);
    return;
  }

  /** A link-local address is one on each link, and what passes no socket carries no link. */
  const testOfLinks = SOCKETLESS_ENGINES.includes(engineName) ? () => undefined : test;
  const beds: Bed[] = [];
  const sockets: Socket[] = [];

  afterEach(async () => {
    await Promise.all(beds.splice(0).map((bed) => bed.stop()));
    for (const socket of sockets.splice(0)) socket.close();
  });

  /** With a server of the clients' family, which is all that some engines can reach. */
  async function startOn(listen: string, server = '127.0.0.1:0'): Promise<Bed> {
    const bed = new Bed(engineName);
    beds.push(bed);
    bed.addServer('a', server);
    return bed.start([], { listen: Endpoint.parse(`${listen}:0`) });
  }

  /** A client that, unlike the sockets of the project, may name the link of a link-local address. */
  async function linkLocalClient(address: string): Promise<Socket> {
    const socket = createSocket('udp6');
    sockets.push(socket);
    socket.bind(0, address);
    await once(socket, 'listening');
    return socket;
  }

  test.each([
    ['0.0.0.0', '127.9.0.1', ['10.7.0.1', '10.7.0.2', '127.0.0.1']],
    ['[::]', '127.9.0.1', ['10.7.0.1', '10.7.0.2', '127.0.0.1']],
    ['[::]', '[::1]', ['[fd00:7::1]', '[fd00:7::2]', '[::1]']],
  ])(
    'on %s, a client at %s is answered from the address that it contacted',
    async (listen, host, contacted) => {
      const b = await startOn(listen, host === '[::1]' ? '[::1]:0' : '127.0.0.1:0');
      const client = b.peer(`${host}:0`);
      const answeredFrom: string[] = [];
      for (const address of contacted) {
        const { from } = await client.ask(Endpoint.parse(`${address}:${b.listener.port}`), 'x');
        answeredFrom.push(from.toString());
      }
      const at = (address: string): string => `${address}:${b.listener.port}`;
      expect(answeredFrom).toEqual(contacted.map(at));
    },
  );

  test('clients who come at once by several addresses are each answered from their own', async () => {
    const b = await startOn('0.0.0.0', '127.0.0.1:0');
    const clients = b.clients(40);
    const addresses = ['10.7.0.1', '10.7.0.2', '127.0.0.1'];
    const at = (i: number): Endpoint => Endpoint.parse(`${addresses[i % 3]!}:${b.listener.port}`);
    for (const round of ['first', 'second']) {
      const answers = await Promise.all(clients.map((client, i) => client.ask(at(i), round)));
      expect(answers.map(({ from }) => from.toString())).toEqual(clients.map((_, i) => at(i).toString()));
    }
  });

  testOfLinks('a link-local client is answered on its own link', async () => {
    const b = await startOn('[::]');
    const { port } = b.listener;
    for (const link of ['one-client', 'two-client', 'one-client']) {
      const client = await linkLocalClient(`fe80::b%${link}`);
      client.send(`to ${link}`, port, `fe80::a%${link}`);
      const [payload, from] = (await once(client, 'message')) as [Buffer, RemoteInfo];
      expect(payload.toString()).toBe(`a:to ${link}`);
      expect(from).toMatchObject({ address: `fe80::a%${link}`, port });
    }
  });
});
