/** The RST that tells an end of its cut connection: byte for byte, and taken by the system as a good segment. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { Endpoint } from '../../../../net/address.ts';
import { loadLibc } from '../../../../net/linux/libc.ts';
import { ResetSender, resetPacket } from '../../../../relay/engines/kernel/reset-sender.ts';
import { ETHERNET_BYTES } from '../../../kernel/packet.ts';
import { ACK, parseSegment, RST } from '../../../kernel/segment.ts';
import { enterOwnNetwork } from '../../../support/own-network.ts';
import { until } from '../../../support/until.ts';

const ends = {
  4: ['198.51.100.1:5432', '10.0.0.1:40000'],
  6: ['[2001:db8::1]:5432', '[2001:db8::ffff]:40000'],
} as const;

describe.each([4, 6] as const)('over IPv%i', (family) => {
  const [from, to] = ends[family];
  const packetOf = (sequence: number, acknowledged: number): Uint8Array =>
    resetPacket({ from: Endpoint.parse(from), to: Endpoint.parse(to), sequence, acknowledged });

  test.each([
    [1, 2],
    [0xffff_ffff, 0x8000_0000],
    [0x1234_5678, 0],
  ])('the numbers %i and %i, and checksums that are right', (sequence, acknowledged) => {
    const packet = packetOf(sequence, acknowledged);
    const parsed = parseSegment(Buffer.concat([Buffer.alloc(ETHERNET_BYTES), packet]));
    expect(parsed).toMatchObject({
      source: from,
      destination: to,
      flags: RST | ACK,
      sequence,
      acknowledged,
      payload: Buffer.alloc(0),
    });
    // The kernel fills in the IPv4 header's own checksum (raw(7), IP_HDRINCL).
    if (family === 6) expect(parsed.isRight).toBe(true);
  });

  test('is nothing but a header', () => {
    expect(packetOf(1, 2)).toHaveLength(family === 4 ? 40 : 60);
  });
});

const loaded = loadLibc();
const unavailable = 'unavailable' in loaded ? loaded.unavailable : enterOwnNetwork([]);

if ('unavailable' in loaded || unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  /** Figures of this network's TCP, over both families (net/ipv4/proc.c). */
  const figures = (): Readonly<Record<string, number>> => {
    const lines = readFileSync('/proc/thread-self/net/snmp', 'utf8').split('\n');
    const [names, values] = lines.filter((line) => line.startsWith('Tcp: ')).map((line) => line.split(' '));
    return Object.fromEntries(names!.map((name, i) => [name, Number(values![i])]));
  };

  test.each(['127.0.0.1', '[::1]'])('the system at %s takes it for a good segment', async (host) => {
    const sender = new ResetSender(loaded.libc);
    const before = figures();
    const [from, to] = [Endpoint.parse(`${host}:9`), Endpoint.parse(`${host}:40000`)];
    expect(sender.send({ from, to, sequence: 7, acknowledged: 9 })).toBe(true);
    await until('the segment to arrive', () => figures()['InSegs'] === before['InSegs']! + 1);
    expect(figures()).toMatchObject({ InErrs: before['InErrs'], InCsumErrors: before['InCsumErrors'] });
    sender.close();
  });
}
