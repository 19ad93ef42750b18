import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import {
  DatagramBatch,
  type DatagramSocket,
  MAX_DATAGRAM_BYTES,
  type OpenDatagramSocket,
} from '../../../net/datagram-socket.ts';
import { openDgramSocket } from '../../../net/dgram-socket.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { Poller } from '../../../net/linux/poller.ts';

interface Received {
  payload: Buffer;
  from: string;
}

interface Subject {
  open: OpenDatagramSocket;
  close: () => void;
}

/** One line for each implementation of the contract. */
const SOCKETS: Record<string, () => Subject | string> = {
  dgram: () => ({ open: openDgramSocket, close: () => undefined }),
  mmsg: () => polled(true),
  'mmsg, without io_uring': () => polled(false),
};

function polled(ring: boolean): Subject | string {
  const loaded = loadLibc();
  if ('unavailable' in loaded) return loaded.unavailable;
  const poller = new Poller(loaded.libc, { blockMs: 1, ring });
  poller.drive();
  return { open: (options) => poller.open(options), close: () => poller.close() };
}

describe.each(Object.keys(SOCKETS))('a %s socket', (name) => {
  const subject = SOCKETS[name]!();
  if (typeof subject === 'string') {
    test.skip(`skipped: ${subject}`, () => undefined);
    return;
  }
  const openSocket = subject.open;
  afterAll(() => subject.close());

  const opened: DatagramSocket[] = [];

  afterEach(async () => {
    await Promise.all(opened.splice(0).map((socket) => socket.close()));
  });

  /** A socket that keeps what it receives and lets a test wait for the n-th datagram. */
  function open(local: string, sendQueueLimit?: number, remote?: Endpoint) {
    const received: Received[] = [];
    const outcome = { sent: 0, failed: 0 };
    const errors: string[] = [];
    let wake = (): void => undefined;
    const socket = openSocket({
      local: Endpoint.parse(local),
      remote,
      onError: ({ message }) => {
        errors.push(message);
        wake();
      },
      ...(sendQueueLimit === undefined ? {} : { sendQueueLimit }),
      onReceive: (batch) => {
        for (let i = 0; i < batch.count; i++) {
          const from = new Endpoint(IpAddress.fromWords(batch.words, 4 * i), batch.ports[i]!);
          received.push({
            payload: Buffer.from(batch.payloads[i]!.subarray(0, batch.lengths[i])),
            from: from.toString(),
          });
        }
        wake();
      },
      onSent: (sent, failed) => {
        outcome.sent += sent;
        outcome.failed += failed;
        wake();
      },
    });
    opened.push(socket);
    const until = async (done: () => boolean): Promise<void> => {
      while (!done()) await new Promise<void>((resolve) => (wake = resolve));
    };
    return { socket, received, outcome, errors, until };
  }

  function batchTo(to: Endpoint, ...payloads: Uint8Array[]): DatagramBatch {
    const batch = new DatagramBatch(Math.max(1, payloads.length));
    for (const payload of payloads) batch.append(payload, payload.length, to.ip.words, 0, to.port);
    return batch;
  }

  test.each([
    ['127.0.0.1:0', '127.0.0.1:0'],
    ['[::1]:0', '[::1]:0'],
  ])('a datagram from %s reaches %s with its source', async (here, there) => {
    const a = open(here);
    const b = open(there);
    expect(a.socket.send(batchTo(b.socket.local, Buffer.from('cafe', 'hex')))).toBe(1);
    await b.until(() => b.received.length === 1);
    expect(b.received[0]).toEqual({ payload: Buffer.from('cafe', 'hex'), from: a.socket.local.toString() });
  });

  test('sockets that share a handler tag what they receive, each with its own tag', async () => {
    const sender = open('127.0.0.1:0');
    const received: string[] = [];
    let wake = (): void => undefined;
    const onReceive = ({ count, tags, payloads, lengths }: DatagramBatch): void => {
      for (let i = 0; i < count; i++)
        received.push(`${tags[i]} ${Buffer.from(payloads[i]!.subarray(0, lengths[i])).toString('hex')}`);
      wake();
    };
    const tagged = Array.from({ length: 100 }, (_, tag) => {
      const socket = openSocket({ local: Endpoint.parse('127.0.0.1:0'), tag, onReceive });
      opened.push(socket);
      return socket;
    });
    const other = open('127.0.0.1:0');
    for (const [i, socket] of tagged.entries()) {
      sender.socket.send(batchTo(socket.local, Buffer.of(i), Buffer.of(i, i), Buffer.of()));
      if (i === 50) sender.socket.send(batchTo(other.socket.local, Buffer.of(1)));
    }
    while (received.length < 300) await new Promise<void>((resolve) => (wake = resolve));
    const inOrder = received.toSorted((a, b) => Number(a.split(' ')[0]) - Number(b.split(' ')[0]));
    expect(inOrder).toEqual(
      Array.from({ length: 100 }, (_, i) => i.toString(16).padStart(2, '0')).flatMap((hex, i) => [
        `${i} ${hex}`,
        `${i} ${hex}${hex}`,
        `${i} `,
      ]),
    );
    await other.until(() => other.received.length === 1);
  });

  test('a socket on [::] receives IPv4 as v4-mapped and answers it', async () => {
    const server = open('[::]:0');
    const client = open('127.0.0.1:0');
    client.socket.send(
      batchTo(Endpoint.parse(`127.0.0.1:${server.socket.local.port}`), Buffer.from('01', 'hex')),
    );
    await server.until(() => server.received.length === 1);
    expect(server.received[0]?.from).toBe(client.socket.local.toString());
    server.socket.send(batchTo(client.socket.local, Buffer.from('02', 'hex')));
    await client.until(() => client.received.length === 1);
    expect(client.received[0]?.from).toBe(`127.0.0.1:${server.socket.local.port}`);
  });

  test.each([
    ['0.0.0.0:0', '127.0.0.1'],
    ['[::]:0', '127.0.0.1'],
    ['[::]:0', '[::1]'],
  ])('a socket on %s answers %s on the path of the question', async (local, host) => {
    const server = openSocket({
      local: Endpoint.parse(local),
      tellPaths: true,
      onReceive: (batch) => {
        const answer = new DatagramBatch(1);
        const { payloads, lengths, words, ports, paths } = batch;
        // The second datagram is without a path, after one that had one.
        answer.append(payloads[0]!, lengths[0]!, words, 0, ports[0]!, paths[0]);
        server.send(answer);
        answer.clear();
        answer.append(payloads[0]!, lengths[0]!, words, 0, ports[0]!);
        server.send(answer);
      },
    });
    opened.push(server);
    const client = open(`${host}:0`);
    const contacted = host === '[::1]' ? '[::1]' : '127.0.0.2';
    const at = (address: string): string => `${address}:${server.local.port}`;
    client.socket.send(batchTo(Endpoint.parse(at(contacted)), Buffer.from('01', 'hex')));
    await client.until(() => client.received.length === 2);
    const answeredFrom = client.received.map(({ from }) => from);
    expect(answeredFrom).toEqual([at(name !== 'dgram' ? contacted : host), at(host)]);
  });

  test('each datagram of a batch keeps its own payload, length and path', async () => {
    const received: { to: number; n: number; length: number; path: number }[] = [];
    let wake = (): void => undefined;
    const server = openSocket({
      local: Endpoint.parse('0.0.0.0:0'),
      tellPaths: true,
      onReceive: ({ count, payloads, lengths, paths }) => {
        for (let i = 0; i < count; i++) {
          const [to, n] = payloads[i]!;
          received.push({ to: to!, n: n!, length: lengths[i]!, path: paths[i]! });
        }
        wake();
      },
    });
    opened.push(server);
    const client = open('127.0.0.1:0');
    for (let n = 0; n < 40; n++) {
      for (const to of [1, 2]) {
        const payload = Buffer.alloc(2 + n).fill(0xff);
        payload.set([to, n]);
        client.socket.send(batchTo(Endpoint.parse(`127.0.0.${to}:${server.local.port}`), payload));
      }
    }
    while (received.length < 80) await new Promise<void>((resolve) => (wake = resolve));
    const pathsOf = (wanted: number) =>
      new Set(received.filter(({ to }) => to === wanted).map(({ path }) => path));
    expect([pathsOf(1).size, pathsOf(2).size]).toEqual([1, 1]);
    expect(pathsOf(1)).not.toEqual(pathsOf(2));
    const numbers = [...received.map(({ to, n }) => 100 * to + n)].sort((x, y) => x - y);
    expect(numbers).toEqual([1, 2].flatMap((to) => Array.from({ length: 40 }, (_, n) => 100 * to + n)));
    expect(received.filter(({ n, length }) => length !== 2 + n)).toEqual([]);
  });

  test('a socket that another one’s owner closes in the same turn reports nothing more', async () => {
    let isClosed = false;
    let reportedLate = 0;
    const sender = open('127.0.0.1:0');
    const second = openSocket({
      local: Endpoint.parse('127.0.0.1:0'),
      onReceive: ({ count }) => {
        if (isClosed) reportedLate += count;
      },
    });
    opened.push(second);
    await new Promise<void>((resolve) => {
      const first = openSocket({
        local: Endpoint.parse('127.0.0.1:0'),
        onReceive: () => {
          isClosed = true;
          void second.close().then(resolve);
        },
      });
      opened.push(first);
      sender.socket.send(batchTo(first.local, Buffer.of(1)));
      for (let i = 0; i < 5; i++) sender.socket.send(batchTo(second.local, Buffer.of(i)));
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(reportedLate).toBe(0);
  });

  test('a socket that does not tell paths answers all the same', async () => {
    const server = open('0.0.0.0:0');
    const client = open('127.0.0.1:0');
    const to = Endpoint.parse(`127.0.0.2:${server.socket.local.port}`);
    client.socket.send(batchTo(to, Buffer.from('01', 'hex')));
    await server.until(() => server.received.length === 1);
    const answer = batchTo(client.socket.local, Buffer.from('02', 'hex'));
    answer.paths.fill(1);
    server.socket.send(answer);
    await client.until(() => client.received.length === 1);
    expect(client.received[0]?.from).toBe(`127.0.0.1:${server.socket.local.port}`);
  });

  test.each(['127.0.0.1:0', '[::1]:0'])(
    'with one remote end, datagrams go there and come from there: %s',
    async (here) => {
      const server = open(here);
      const client = open(here, undefined, server.socket.local);
      client.socket.send(batchTo(server.socket.local, Buffer.from('01', 'hex'), Buffer.from('02', 'hex')));
      await server.until(() => server.received.length === 2);
      server.socket.send(batchTo(client.socket.local, Buffer.from('03', 'hex')));
      await client.until(() => client.received.length === 1);
      expect(client.received[0]?.from).toBe(server.socket.local.toString());
      expect(server.received.map(({ from }) => from)).toEqual(
        Array.from({ length: 2 }, () => client.socket.local.toString()),
      );
    },
  );

  if (name !== 'dgram') {
    test('a remote end without a socket is reported, and nobody else gets through', async () => {
      const gone = open('127.0.0.1:0');
      const { local: remote } = gone.socket;
      await gone.socket.close();
      const client = open('127.0.0.1:0', undefined, remote);
      client.socket.send(batchTo(remote, Buffer.from('01', 'hex')));
      await client.until(() => client.errors.length > 0);
      expect(client.errors[0]).toContain('ECONNREFUSED');
      open('127.0.0.1:0').socket.send(batchTo(client.socket.local, Buffer.from('02', 'hex')));
      client.socket.send(batchTo(remote, Buffer.from('03', 'hex')));
      await client.until(() => client.errors.length > 1);
      expect(client.received).toEqual([]);
    });
  }

  test('empty and largest datagrams arrive byte-exact', async () => {
    const a = open('127.0.0.1:0');
    const b = open('127.0.0.1:0');
    const largest = Buffer.alloc(MAX_DATAGRAM_BYTES, 'tick');
    a.socket.send(batchTo(b.socket.local, new Uint8Array(0), largest));
    await b.until(() => b.received.length === 2);
    expect(b.received[0]?.payload.length).toBe(0);
    expect(b.received[1]?.payload.equals(largest)).toBe(true);
  });

  test('datagrams that came while nobody looked are reported together', async () => {
    const counts: number[] = [];
    let wake = (): void => undefined;
    const receiver = openSocket({
      local: Endpoint.parse('127.0.0.1:0'),
      onReceive: ({ count }) => {
        counts.push(count);
        wake();
      },
    });
    opened.push(receiver);
    const sender = open('127.0.0.1:0');
    sender.socket.send(batchTo(receiver.local, ...Array.from({ length: 20 }, (_, i) => Buffer.of(i))));
    const sum = (): number => counts.reduce((total, count) => total + count, 0);
    while (sum() < 20) await new Promise<void>((resolve) => (wake = resolve));
    expect(counts).not.toContain(0);
    expect(Math.max(...counts)).toBeGreaterThan(5);
  });

  test('the payload is the caller’s again when send returns', async () => {
    const a = open('127.0.0.1:0');
    const b = open('127.0.0.1:0');
    const payload = Buffer.from('aa', 'hex');
    const batch = batchTo(b.socket.local, payload, payload);
    a.socket.send(batch);
    payload[0] = 0xbb;
    await b.until(() => b.received.length === 2);
    expect(b.received.map((datagram) => datagram.payload.toString('hex'))).toEqual(['aa', 'aa']);
  });

  // The batched socket hands its queue over when it is full, and refuses nothing.
  if (name === 'dgram') {
    test('send accepts no more than the queue holds, and reports every accepted datagram', async () => {
      const a = open('127.0.0.1:0', 3);
      const b = open('127.0.0.1:0');
      const accepted = a.socket.send(
        batchTo(b.socket.local, ...Array.from({ length: 5 }, () => Buffer.from('00', 'hex'))),
      );
      expect(accepted).toBe(3);
      await a.until(() => a.outcome.sent === 3);
      expect(a.outcome).toEqual({ sent: 3, failed: 0 });
    });
  }

  test('a datagram that the system refuses is reported as failed and harms nothing', async () => {
    const a = open('127.0.0.1:0');
    const b = open('127.0.0.1:0');
    a.socket.send(batchTo(b.socket.local, Buffer.alloc(MAX_DATAGRAM_BYTES + 1)));
    a.socket.send(batchTo(new Endpoint(IpAddress.parse('127.0.0.1'), 0), Buffer.from('00', 'hex')));
    a.socket.send(batchTo(b.socket.local, Buffer.from('07', 'hex')));
    await a.until(() => a.outcome.sent + a.outcome.failed === 3);
    expect(a.outcome).toEqual({ sent: 1, failed: 2 });
    await b.until(() => b.received.length === 1);
  });

  test('a taken address is refused with its name and the remedy', () => {
    const a = open('127.0.0.1:0');
    expect(() => open(a.socket.local.toString())).toThrow(
      `can't bind UDP ${a.socket.local.toString()}: another program has this address`,
    );
  });

  test.each(['0.0.0.0:0', '[::]:0'])(
    'so is a wildcard address, from one that tells paths: %s',
    async (wildcard) => {
      const openTelling = (local: string): DatagramSocket => {
        const socket = openSocket({
          local: Endpoint.parse(local),
          tellPaths: true,
          onReceive: () => undefined,
        });
        opened.push(socket);
        return socket;
      };
      const a = openTelling(wildcard);
      expect(() => openTelling(a.local.toString())).toThrow('another program has this address');
      await a.close();
      expect(openTelling(a.local.toString()).local.equals(a.local)).toBe(true);
    },
  );

  test('closing twice is closing once', async () => {
    const a = open('127.0.0.1:0');
    await Promise.all([a.socket.close(), a.socket.close()]);
    expect(a.socket.send(batchTo(a.socket.local, Buffer.from('00', 'hex')))).toBe(0);
  });
});
