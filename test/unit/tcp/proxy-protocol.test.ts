/** Who the client is, when a proxy stands before the relay or a backend wants to know: PROXY headers in and out. */
import { once } from 'node:events';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Cidr } from '../../../net/address.ts';
import type { TcpListenerSpec } from '../../../relay/tcp/tcp-rules.ts';
import { eventually, greet, howItEnds, nextText, benchOfEach, TRANSPORTS_HERE } from './tcp-bench.ts';

describe.each(TRANSPORTS_HERE)('over %s', (transport) => {
  const bench = benchOfEach(transport);

  const PROXY = '127.0.0.2';
  const HEADER = 'PROXY TCP4 192.0.2.1 198.51.100.7 56324 5432\r\n';
  const V2_LOCAL = Buffer.from('0d0a0d0a000d0a515549540a20000000', 'hex');
  const V2_CLIENT = Buffer.from('0d0a0d0a000d0a515549540a2111000cc0000201c6336407dc041538', 'hex');

  const trusting = (timeoutMs = 60_000): Partial<TcpListenerSpec> => ({
    proxyProtocol: { accept: [Cidr.parse(`${PROXY}/32`)], timeoutMs, send: 'none' },
  });
  const sending = (send: 'v1' | 'v2'): Partial<TcpListenerSpec> => ({
    proxyProtocol: { accept: [Cidr.parse(`${PROXY}/32`)], timeoutMs: 60_000, send },
  });
  const fromProxy = (): Socket => bench.dial({ localAddress: PROXY });
  const rows = () => bench.engine.connections({ limit: 10 }).connections;

  /** A backend that keeps what it gets. */
  async function keeper(): Promise<{ received: Buffer; hasEnded: boolean }> {
    const kept = { received: Buffer.alloc(0), hasEnded: false };
    await bench.backend('keeper', (socket) => {
      socket.on('data', (chunk: Buffer) => (kept.received = Buffer.concat([kept.received, chunk])));
      socket.on('end', () => {
        kept.hasEnded = true;
        socket.end();
      });
    });
    return kept;
  }

  describe('a header of a trusted proxy', () => {
    test('names the client; the backend gets the bytes behind it and not the header', async () => {
      const kept = await keeper();
      await bench.listen(trusting());
      const client = fromProxy();
      client.write(`${HEADER}hello`);
      await eventually(() => expect(kept.received.toString()).toBe('hello'));
      expect(rows()[0]).toMatchObject({ client: '192.0.2.1:56324', downstreamBytes: 5 });
      expect(bench.engine.connections({ limit: 9, clientIp: '192.0.2.1' }).total).toBe(1);
      client.write(' again');
      await eventually(() => expect(kept.received.toString()).toBe('hello again'));
    });

    test('may come byte by byte, and be followed by the end alone', async () => {
      const kept = await keeper();
      await bench.listen(trusting());
      const client = fromProxy();
      await once(client, 'connect');
      for (const byte of V2_CLIENT) {
        client.write(Uint8Array.of(byte));
        await delay(1);
      }
      await eventually(() => expect(rows()[0]?.client).toBe('192.0.2.1:56324'));
      client.end();
      await eventually(() => expect(kept.hasEnded).toBe(true));
      expect(kept.received).toHaveLength(0);
      await eventually(() => expect(bench.closed('completed')).toBe(1));
    });

    test('may come with everything and the end at once', async () => {
      const kept = await keeper();
      await bench.listen(trusting());
      const bytes = Buffer.alloc(300_000, 'x');
      fromProxy().end(Buffer.concat([V2_CLIENT, bytes]));
      await eventually(() => expect(kept.hasEnded).toBe(true));
      expect(kept.received.equals(bytes)).toBe(true);
    });

    test.each([
      ['LOCAL', V2_LOCAL],
      ['UNKNOWN', 'PROXY UNKNOWN\r\n'],
    ])('that names nobody, %s, leaves the proxy as the client', async (_what, header) => {
      await bench.backend('a', greet('a'));
      await bench.listen(trusting());
      const client = fromProxy();
      client.write(header);
      expect(await nextText(client)).toBe('a');
      expect(rows()[0]?.client).toBe(`${PROXY}:${(client.address() as AddressInfo).port}`);
    });

    test('is what limits and ip-hash go by', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen({ ...trusting(), limits: { connectionsPerSource: 1, connectionRatePerSource: 0 } });
      const [one, same, other] = [fromProxy(), fromProxy(), fromProxy()];
      one.write(HEADER);
      expect(await nextText(one)).toBe('a');
      same.write(HEADER.replace('56324', '56325'));
      expect(await howItEnds(same)).toBe('reset');
      await eventually(() => expect(bench.closed('source-connection-limit')).toBe(1));
      other.write(HEADER.replace('192.0.2.1', '192.0.2.2'));
      expect(await nextText(other)).toBe('a');
    });

    test('that is malformed ends the connection and is counted', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen(trusting());
      const garbage = [
        'GET / HTTP/1.1\r\n',
        'PROXY TCP4 1.2.3.4\r\n',
        Buffer.from('00000008deadbeef', 'hex'),
      ];
      for (const [i, bytes] of garbage.entries()) {
        const client = fromProxy();
        client.write(bytes);
        expect(await howItEnds(client)).toBe('reset');
        await eventually(() => expect(bench.closed('bad-proxy-header')).toBe(i + 1));
      }
    });

    test('that is never complete ends the connection, by its end or by the time', async () => {
      await bench.backend('a', greet('a'));
      const spec = await bench.listen(trusting());
      const short = fromProxy();
      short.end('PROXY TC');
      expect(await howItEnds(short)).toBe('reset');
      await eventually(() => expect(bench.closed('bad-proxy-header')).toBe(1));

      const silent = fromProxy();
      await eventually(() => expect(rows().map(({ state }) => state)).toEqual(['proxy-header']));
      await bench.engine.updateListener({ ...spec, ...trusting(30) });
      expect(await howItEnds(fromProxy())).toBe('reset');
      await eventually(() => expect(bench.closed('proxy-header-timeout')).toBe(1));
      expect(silent.destroyed).toBe(false);
    });

    test('is waited for by a bounded number of connections, which count as live and can be closed', async () => {
      await bench.backend('a', greet('a'));
      await bench.listen({ ...trusting(), maxConnections: 2 });
      const [one] = [fromProxy(), fromProxy()];
      await eventually(() => expect(bench.status().liveConnections).toBe(2));
      expect(await howItEnds(fromProxy())).toBe('reset');
      expect(bench.closed('connection-limit')).toBe(1);
      const ending = howItEnds(one);
      expect(bench.engine.closeConnection(1)).toBe(true);
      expect(await ending).toBe('reset');
      await eventually(() => expect(bench.status().liveConnections).toBe(1));
      const next = fromProxy();
      next.write(HEADER);
      expect(await nextText(next)).toBe('a');
    });
  });

  test('nobody else is asked for a header: what looks like one passes as it is', async () => {
    const kept = await keeper();
    await bench.listen(trusting());
    bench.dial({ localAddress: '127.0.0.3' }).write(HEADER);
    await eventually(() => expect(kept.received.toString()).toBe(HEADER));
    expect(rows()[0]?.client).toMatch(/^127\.0\.0\.3:\d+$/);
  });

  describe('a backend that wants a header', () => {
    test.each(['v1', 'v2'] as const)(
      'gets version %s with the addresses of the connection',
      async (version) => {
        const kept = await keeper();
        await bench.listen(sending(version));
        const client = bench.dial();
        client.write('hello');
        await once(client, 'connect');
        const { port } = client.address() as AddressInfo;
        const wanted = {
          v1: Buffer.from(`PROXY TCP4 127.0.0.1 127.0.0.1 ${port} ${bench.local.port}\r\n`),
          v2: Buffer.from(
            `0d0a0d0a000d0a515549540a2111000c7f0000017f000001${u16(port)}${u16(bench.local.port)}`,
            'hex',
          ),
        }[version];
        await eventually(() =>
          expect(kept.received.toString('latin1')).toBe(`${wanted.toString('latin1')}hello`),
        );
        expect(bench.status().counts.downstreamBytes).toBe(5);
      },
    );

    test('gets what the proxy before the relay said', async () => {
      const kept = await keeper();
      await bench.listen(sending('v2'));
      fromProxy().write(`${HEADER}hello`);
      const all = Buffer.concat([V2_CLIENT, Buffer.from('hello')]);
      await eventually(() => expect(kept.received.toString('hex')).toBe(all.toString('hex')));
    });

    test('gets it although the client says nothing', async () => {
      const kept = await keeper();
      await bench.listen(sending('v1'));
      const client = bench.dial();
      await eventually(() => expect(kept.received.toString()).toMatch(/^PROXY TCP4 .*\r\n$/));
      client.end();
      await eventually(() => expect(bench.closed('completed')).toBe(1));
    });

    test('gets it from the connection that replaces a failed one', async () => {
      await bench.deadBackend('dead');
      const kept = await keeper();
      await bench.listen(sending('v1'));
      for (let i = 0; i < 3; i++) bench.dial().write('.');
      await eventually(() =>
        expect(kept.received.toString().match(/PROXY TCP4 [^\r]+\r\n\./g)).toHaveLength(3),
      );
    });
  });

  function u16(port: number): string {
    return port.toString(16).padStart(4, '0');
  }
});
