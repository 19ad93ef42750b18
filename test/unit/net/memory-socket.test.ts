import { describe, expect, test } from 'vitest';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { DatagramBatch, type DatagramSocketOptions } from '../../../net/datagram-socket.ts';
import { MemoryNetwork } from '../../../net/memory-socket.ts';

function bed() {
  const network = new MemoryNetwork();
  const open = (local: string, options: Partial<DatagramSocketOptions> = {}) => {
    const received: string[] = [];
    const sent = { datagrams: 0, bytes: 0 };
    const socket = network.open({
      local: Endpoint.parse(local),
      onReceive: ({ count, payloads, lengths, words, ports }) => {
        expect(count).toBe(1);
        const from = new Endpoint(IpAddress.fromWords(words), ports[0]!);
        received.push(`${from.toString()} ${Buffer.from(payloads[0]!.subarray(0, lengths[0])).toString()}`);
      },
      onSent: (datagrams, failed, bytes) => {
        expect(failed).toBe(0);
        sent.datagrams += datagrams;
        sent.bytes += bytes;
      },
      ...options,
    });
    const send = (to: string, ...texts: string[]): number => {
      const batch = new DatagramBatch(8);
      const { ip, port } = Endpoint.parse(to);
      for (const text of texts) batch.append(Buffer.from(`${text}+rest`), text.length, ip.words, 0, port);
      return socket.send(batch);
    };
    return { socket, received, sent, send };
  };
  return { network, open };
}

describe('a network in memory', () => {
  test('delivers when told to, in the order of sending, and reports what was sent', () => {
    const { network, open } = bed();
    const [a, b] = [open('10.0.0.1:1'), open('[2001:db8::1]:2')];
    expect(a.send('[2001:db8::1]:2', 'one', 'two')).toBe(2);
    expect(b.send('10.0.0.1:1', 'back')).toBe(1);
    expect([a.received, b.received, a.sent]).toEqual([[], [], { datagrams: 0, bytes: 0 }]);
    expect(network.deliver()).toBe(3);
    expect(b.received).toEqual(['10.0.0.1:1 one', '10.0.0.1:1 two']);
    expect(a.received).toEqual(['[2001:db8::1]:2 back']);
    expect(a.sent).toEqual({ datagrams: 2, bytes: 6 });
  });

  test('copies the payload, so that the sender may use its buffer again', () => {
    const { network, open } = bed();
    const [a, b] = [open('10.0.0.1:1'), open('10.0.0.2:2')];
    const payload = Buffer.from('first');
    const batch = new DatagramBatch(1);
    batch.append(payload, 5, Endpoint.parse('10.0.0.2:2').ip.words, 0, 2);
    a.socket.send(batch);
    payload.fill('x');
    network.deliver();
    expect(b.received).toEqual(['10.0.0.1:1 first']);
  });

  test('refuses what its queue has no room for, from the back', () => {
    const { network, open } = bed();
    const a = open('10.0.0.1:1', { sendQueueLimit: 2 });
    expect(a.send('10.0.0.2:2', '1', '2', '3')).toBe(2);
    expect(a.send('10.0.0.2:2', '4')).toBe(0);
    network.deliver();
    expect(a.send('10.0.0.2:2', '5')).toBe(1);
  });

  test('loses and doubles as its fault model says', () => {
    const { network, open } = bed();
    const [a, b] = [open('10.0.0.1:1'), open('10.0.0.2:2')];
    network.fault = (_from, _to, payload) => Number(Buffer.from(payload).toString());
    a.send('10.0.0.2:2', '0', '1', '2');
    expect(network.deliver()).toBe(3);
    expect(b.received).toEqual(['10.0.0.1:1 1', '10.0.0.1:1 2', '10.0.0.1:1 2']);
    expect(a.sent.datagrams).toBe(3);
  });

  test('a taken address is refused by name, and free again after closing', async () => {
    const { open } = bed();
    const { socket } = open('10.0.0.1:1');
    expect(() => open('10.0.0.1:1')).toThrow("can't bind UDP 10.0.0.1:1: another socket has this address");
    await socket.close();
    await socket.close();
    expect(open('10.0.0.1:1').socket.local.port).toBe(1);
  });

  test('port 0 gives one that nobody has', () => {
    const { open } = bed();
    const { port } = open('10.0.0.1:0').socket.local;
    open(`10.0.0.1:${port + 1}`);
    expect(open('10.0.0.1:0').socket.local.port).toBe(port + 2);
  });

  test('a closed socket neither sends nor receives', async () => {
    const { network, open } = bed();
    const [a, b] = [open('10.0.0.1:1'), open('10.0.0.2:2')];
    a.send('10.0.0.2:2', 'in flight');
    await b.socket.close();
    expect(network.deliver()).toBe(0);
    expect(b.send('10.0.0.1:1', 'x')).toBe(0);
    expect([a.received, b.received]).toEqual([[], []]);
  });

  test('a socket on every address receives for each, and sends from loopback', () => {
    const { network, open } = bed();
    const [v4, v6, peer] = [open('0.0.0.0:4'), open('[::]:6'), open('10.0.0.1:1')];
    peer.send('192.0.2.1:4', 'a');
    peer.send('192.0.2.1:6', 'b');
    peer.send('[2001:db8::1]:6', 'c');
    peer.send('[2001:db8::1]:4', 'nobody');
    network.deliver();
    expect(v4.received).toEqual(['10.0.0.1:1 a']);
    expect(v6.received).toEqual(['10.0.0.1:1 b', '10.0.0.1:1 c']);
    v6.send('10.0.0.1:1', 'd');
    network.deliver();
    expect(peer.received).toEqual(['127.0.0.1:6 d']);
  });
});
